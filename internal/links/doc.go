// Package links keeps authorization links: a backend sends one to a merchant, who authorizes the
// platform with it.
//
// # The life of a link
//
// A link is for one authorization, and is one record ([store.Connect]), changed only by
// compare-and-set:
//
//	pending     Create made it; nothing is asked of WeChat yet
//	            Open, landing: a pre-auth code is fetched, and the browser gets a session
//	exchanging  Open, callback: a browser that has a session came back with a code
//	authorized  Finish: the tokens are stored, and the link's ref went to the account
//	conflict    Finish: the tokens are stored, and the account kept another ref
//	failed      Fail: the authorization failed, with a reason; another code may still come, until the link ends
//
// A merchant who opens a link that is over is told why, how it ended and about which account; nothing of
// that leads on.
//
// Two events tell of one authorization, the redirect and the push. Each may have a code of its own,
// they come in any order, and either may be missing. [Links.Of] finds the link of an event: the
// redirect names it, and the push names the pre-auth code. [Links.Claim] makes sure that only one
// of the two codes is exchanged. If the account is authorized through the push before the browser
// is back, the link becomes authorized without a callback.
//
// This package exchanges no code and stores no token: the refresher does that, and records here how
// it ended.
package links
