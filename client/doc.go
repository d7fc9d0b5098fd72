// Package wxtoken reads the access tokens that wxtoken keeps for a WeChat third-party platform.
//
// Only wxtoken renews them. A service that imports this package never asks WeChat for a token: it
// has a live view of all of them, or of those that it needs, in its own memory.
//
// # Reading a token
//
// Connect to NATS (as the service's own user: nats.UserCredentials, or a password in the URL), make
// one [Client] when the process starts, and call [Client.Token] before every call to WeChat:
//
//	nc, err := nats.Connect(url, nats.CustomInboxPrefix("_INBOX_service"), nats.MaxReconnects(-1))
//	if err != nil {
//		log.Fatal(err)
//	}
//	start, cancel := context.WithTimeout(ctx, 30*time.Second)
//	defer cancel()
//	client, err := wxtoken.NewClient(start, nc, wxtoken.Config{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	token, err := client.Token(wxtoken.AuthorizerKey("wxc0ffee0000000001", "wxa000000000000001"))
//	if err != nil {
//		log.Fatal(err)
//	}
//	fmt.Println("https://api.weixin.qq.com/cgi-bin/message/custom/send?access_token=" + token.Value.Reveal())
//	fmt.Println("in a log:", token.Value)
//
// Token costs less than time.Now, however many goroutines call it, so don't cache what it returns:
// a copy grows old. A [Secret] prints as "[redacted]" everywhere; only Reveal returns the value.
//
// [Client.Updates] is for programs that must build something around a token. [Client.Next] waits
// for the first token of a merchant who is just authorizing. [Client.Status] tells why a token is
// missing, and has the profile of the account.
//
// With [Config].Accounts the client knows the accounts as well: [Client.Find] finds an account by
// your own id for it, [Client.Account] and [Client.Accounts] return profiles and states from
// memory, [Client.StatusUpdates] yields changes of accounts, and [Client.Changes] those of tokens
// too, with the revisions to go on from. [Client.CreateLink] makes a link with which a merchant
// authorizes. [Transport] makes an http.Client's calls to WeChat: it adds the token, and does what
// the next section says.
//
// # When a token is refused
//
// A token can die before its time: another program asked WeChat for one, or the merchant changed
// the authorization. WeChat then answers a call with errcode 40001, 40014 or 42001. Have the
// token replaced, and call once more, only once:
//
//	if token, err = client.Replace(ctx, token); err != nil {
//		log.Fatal(err)
//	}
//
// [Client.Replace] reports the token, and waits for the next one where there will be one. Any
// number of services may report the same token: it is replaced once. Other errcodes are not about
// the token, and a new token does not help. [Client.Report] and [Client.Next] are the two halves of
// Replace.
//
// After an ordinary renewal WeChat accepts the previous token for another 5 minutes, so a call that
// is under way while a token is renewed is safe. [Token.Previous] holds it.
//
// # Trying and testing
//
// Package wxtoken/wxtokentest gives a test a wxtoken of its own, with tokens in it and verbs that
// renew, reject, expire and revoke them. The examples of this package are there too, so that they
// can run: this module contains no NATS server.
//
// # Availability
//
// [NewClient] waits, as long as its context allows, until the view is complete. Nothing waits after
// that. When NATS is away the client goes on with what it has; when NATS is back it reads the
// bucket again and then follows it. It never trusts a watch that might have missed something: after
// a lost connection, a lost message, or 4 seconds without a heartbeat it starts a new one. If a
// reload of NATS's settings takes away the right to the inbox for a moment, the client restores its
// inbox within some ten seconds. Other subscriptions of the service on that connection are not
// restored: nats.go needs a nats.Conn.ForceReconnect after a nats.ErrPermissionViolation for a
// subscription.
//
// An old token is better than none, and is returned; an expired one is not. wxtoken renews a token
// when about two thirds of its life are over, so a service goes on for about 38 minutes (a third of
// the life, less the time for retries) without NATS, without the refresher or without WeChat. Only
// a cancelled authorization removes a token: a bucket that is lost or full of nonsense removes
// nothing.
//
// Expiry is judged by the clock of this machine, to the second: keep it within a minute of the
// right time. Publish [Client.Stats] as metrics, and alert when Live is false for minutes.
//
// # Permissions needed
//
// A user of NATS who may read every token, and nothing else that wxtoken keeps:
//
//	publish    $JS.API.CONSUMER.CREATE.KV_tokens.*.$KV.tokens.>
//	           $JS.FC.KV_tokens.>
//	not        $JS.API.CONSUMER.CREATE.KV_tokens.refresher-due.>    as a deny rule: that consumer is the refreshers' own
//	publish    wxtoken.reject                                  for Report
//	           $JS.API.STREAM.INFO.KV_status                   for Status
//	           $JS.API.DIRECT.GET.KV_status.$KV.status.>       for Status
//	           $JS.API.CONSUMER.CREATE.KV_status.*.$KV.status.>    for Config.Accounts
//	           $JS.FC.KV_status.>                              for Config.Accounts
//	           wxtoken.connect.create                          for CreateLink
//	subscribe  _INBOX_shop.>                                   and nats.CustomInboxPrefix("_INBOX_shop")
//
// The inbox must be the service's own, or others can read its answers. To give a service one
// authorizer alone, put its key (and keep the deny rule) in the place of the last ">" of
// CONSUMER.CREATE and DIRECT.GET, for instance
// $JS.API.CONSUMER.CREATE.KV_tokens.*.$KV.tokens.authorizer.wx1234567890abcdef.wxfedcba0987654321,
// and name the key in [Config].Keys, since the client otherwise asks for all tokens.
// "authorizer.wx1234567890abcdef.*" in that place gives all authorizers of one component; name each
// of them in Keys.
//
// A Client takes one consumer on the server, and one more with [Config].Accounts, which is always
// for all accounts. With several Keys the consumer has several filters, which needs the right to
// publish $JS.API.CONSUMER.CREATE.KV_tokens.*; without that right there is one consumer for each
// key, and NewClient fails where the server's max_consumers is reached.
//
// NATS does not answer a request that is not permitted. The errors of this package then say which
// permission is missing, and wrap nats.ErrPermissionViolation.
package wxtoken
