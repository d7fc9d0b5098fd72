// Package redis keeps the keys in Redis filled under which SDKs look for a shared token
// (docs/redis.md). It writes WeChat's own tokens there, so only those of services that may have
// them: with the right "real", and "component" for a component's own token. It never writes a
// refresh token or a component_verify_ticket: this process has none.
//
// Each key has a mark beside it, wxtoken:{<key>}: whose token it is, of which generation, and when
// it was obtained. It expires with the token. Several gateways write the same keys, and a late one
// must not replace a newer token with an older one, nor bring a cancelled one back: a script in
// Redis compares before it writes (docs/adr/0044-tokens-in-redis.md).
package redis
