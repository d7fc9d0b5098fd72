// Package bus moves messages through NATS: it publishes events, feeds the messages of a durable
// consumer to a handler, and proves that a stream takes a write. What the messages are is said by
// [wxtoken/internal/events]; the streams are made by [wxtoken/internal/streams].
package bus
