// Package serve is the side of a process that others see: HTTP servers with limits, health and readiness, the
// readiness probe through NATS (canary), and the registry of metrics.
package serve
