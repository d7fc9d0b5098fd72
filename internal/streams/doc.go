// Package streams creates what [wxtoken/internal/events] lists: the streams, and their mirrors in
// the accounts of services. It also tells in which settings a NATS server differs from that list,
// and raises a stream that was restored from a backup above its mirrors again.
package streams
