// Package serve is how a process is seen from outside: HTTP servers with limits, health and
// readiness, the canary of readiness, and the registry of metrics.
package serve
