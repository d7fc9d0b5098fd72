// Package services reads the services file: the programs that the gateway serves, their keys and rights. The
// file is read again while the gateway runs (docs/contract.md).
package services
