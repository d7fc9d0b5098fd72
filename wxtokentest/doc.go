// Package wxtokentest gives a Go test a wxtoken of its own, with tokens in it: to test a service
// that reads them.
//
//	func TestShop(t *testing.T) {
//		t.Parallel()
//		keeper := wxtokentest.New(t)
//		shop := NewShop(keeper.Client(wxtoken.Config{})) // what is tested
//		keeper.Reject(wxtokentest.Merchant)              // WeChat refuses its token from now on
//		...
//	}
//
// Only WeChat is fake. [New] starts, in the process of the test and within about a second, a NATS
// server with the users of deploy/nats/nats-server.conf, a refresher and ingest, all of them the
// real code, and the fake WeChat of package wechatsim. So a service sees what it sees in
// production: the buckets tokens and status, notifications on token.updated.<key>, answers on
// wxtoken.reject and wxtoken.connect.create, requests on wechat.reply.>, and the limits of the user
// service.
//
// The methods of [Keeper] make things happen to tokens: Authorize, Renew, Reject, Expire, Revoke.
// Each returns when the buckets show it. A [wxtoken.Client] learns of it a moment later: wait with
// its Next or Updates, or poll.
//
// Keepers are independent of each other, so tests may run in parallel; they leave no goroutines
// behind. This package needs wxtoken's main module, with all that a server needs. If the go.mod of
// your service must not require that, keep tests that use it in a module of their own.
//
// The examples are those of package wxtoken (wxtoken/client) and of its package message: that
// module requires only nats.go, and has no server to run them against.
package wxtokentest
