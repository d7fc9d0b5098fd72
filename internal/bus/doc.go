// Package bus moves messages through NATS: it publishes events, feeds the messages of a durable
// consumer to a handler, and proves that a stream takes a write. Package [wxtoken/internal/events]
// defines the messages, and [wxtoken/internal/streams] creates the streams.
package bus
