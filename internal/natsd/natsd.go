// Package natsd runs a NATS server with JetStream inside this process: for cmd/wxtoken and for tests.
package natsd
