// Package systemtest holds the tests of the whole system: the fake platform, ingest, refreshers
// and readers around a real NATS server. It has no code of its own.
package systemtest
