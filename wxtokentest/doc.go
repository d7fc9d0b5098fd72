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
// Nothing in it is made up. [New] runs a NATS server with the users of
// deploy/nats/nats-server.conf, a refresher, ingest and the fake WeChat of package wechatsim, all
// of them the real code, in the process of the test, within about a second. So a service sees what
// it sees in production: the buckets tokens and status, news on token.updated.<key>, the answers on
// wxtoken.reject and wxtoken.connect.create, questions on wechat.reply.>, and the walls around the
// user service.
//
// What happens to a token is a verb of [Keeper]: Authorize, Renew, Reject, Expire, Revoke. Each
// returns when the buckets say so. A [wxtoken.Client] hears of it a moment later: wait with its
// Next or Updates, or poll.
//
// Each Keeper is a world of its own. Tests may run in parallel, and leave no goroutine behind. It
// needs the first module of wxtoken, with all that a server needs; keep tests that use it in a
// module of their own where the go.mod of your service must not name that.
//
// The examples are those of package wxtoken (wxtoken/client) and of its package message: a module
// that requires nothing but nats.go has no server to run them against.
package wxtokentest
