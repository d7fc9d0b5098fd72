// Package gateway is the door to wxtoken for programs that speak HTTP and nothing else: it answers
// as WeChat does to whom takes it for WeChat, hands calls on to WeChat with the current token in
// the place of ours, and gives tokens to programs that know us.
//
// It is an ordinary service on NATS, built on package wxtoken. It holds no state that matters: a
// token of the gateway's is signed and not remembered, so any number of gateways run side by side,
// and one that is killed is replaced by any other.
//
// # The way of a request
//
//	gateway.go  which door is it? Paths that could mean two things are refused here.
//	lookup.go   whose key is that, and which account is meant?
//	token.go    a token of the gateway's: who, for which account, until when; signed.
//	compat.go   /cgi-bin/token and its like, answered as WeChat does.
//	relay.go    every other path: to WeChat, with the current token; once more where WeChat refused it.
//	limits.go   how much of it at once, and what happens while WeChat is away.
//	v1.go       /v1 for programs that know us; stream.go its events.
package gateway
