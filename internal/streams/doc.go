// Package streams makes what [wxtoken/internal/events] lists: the streams, and their mirrors in the
// accounts of services. It also says how a NATS server differs from that list, and brings a stream
// that came back from a backup above its mirrors again.
package streams
