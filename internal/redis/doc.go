// Package redis keeps the keys of Redis filled under which SDKs look for a shared token
// (docs/redis.md). What lies there are WeChat's own tokens, so it is those of services that may
// have them alone: right "real", and "component" for a component's own. A refresh token or a
// component_verify_ticket is never among them: this process has none.
//
// Beside each key lies a mark, wxtoken:{<key>}, which says whose token that is, of which generation
// and when it was obtained. It expires with the token. Several gateways write the same keys, and
// one that is late must not put an older token over a newer one, nor bring a cancelled one back: a
// script in Redis compares before it writes (docs/adr/0044-tokens-in-redis.md).
package redis
