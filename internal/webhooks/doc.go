// Package webhooks delivers messages, events and notices to the URLs that services name: at least
// once, in order for each account, signed according to Standard Webhooks (docs/webhooks.md). Each
// webhook has a durable consumer on MESSAGES that all gateways share; the server pins it to one
// gateway at a time (docs/adr/0045).
package webhooks
