// Package services knows the programs that the gateway serves: who asks, by its key, and what it
// may. They stand in one file, which is read again while the gateway runs (docs/contract.md).
package services
