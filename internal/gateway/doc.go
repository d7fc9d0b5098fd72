// Package gateway is the door to wxtoken for programs that speak HTTP and not NATS. To an SDK it looks
// like WeChat's API: it hands out gateway tokens, and relays calls to WeChat with the current token in
// their place. Programs that know wxtoken use /v1.
//
// It is an ordinary service on NATS, built on package wxtoken, and stateless: a gateway token is signed,
// not stored. So any number of gateways run side by side, and any of them replaces one that is killed.
//
// # The way of a request
//
//	gateway.go  chooses the handler by the path, and refuses ambiguous paths.
//	lookup.go   finds the service by its key, and the account that it means.
//	token.go    signs and opens gateway tokens: which service, which account, until when.
//	compat.go   answers /cgi-bin/token and its like as WeChat does.
//	relay.go    relays all other paths, and repeats a call once when WeChat refused the token.
//	limits.go   bounds the calls under way, and stops them while WeChat does not answer.
//	v1.go       answers /v1; stream.go its events, accounts.go its accounts.
//	served.go   records what was served, for the operator's page.
package gateway
