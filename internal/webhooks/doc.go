// Package webhooks delivers messages, events and notices to the URLs that services name: at least
// once, in order per account, signed as Standard Webhooks say (docs/webhooks.md). Each webhook has
// a durable consumer on MESSAGES, which all gateways share; the server pins it to one of them at a
// time (docs/adr/0045).
package webhooks
