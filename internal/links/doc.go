// Package links keeps authorization links: what a backend sends to a merchant, who authorizes the
// platform with it.
//
// # The life of a link
//
// A link is one authorization, and one record ([store.Connect]), changed by compare-and-set alone:
//
//	pending     Create made it; nothing is asked of WeChat yet
//	            Open, landing: a pre-auth code is fetched, and the browser gets a session
//	exchanging  Open, callback: a browser that has a session came back with a code
//	authorized  Finish: the tokens are stored, and the link's ref went to the account
//	conflict    Finish: the tokens are stored, and the account kept another ref
//	failed      Fail: it came to nothing, and says why; another code may still be brought, until the link ends
//
// A merchant who opens a link that is over is told why, how it ended and about which account; nothing of
// that leads on.
//
// Two events tell of one authorization, the redirect and the push, each perhaps with a code of its
// own, in any order, and either may be missing. [Links.Of] finds the link of an event: the redirect
// names it, and the push names the pre-auth code. [Links.Claim] has one of the two codes exchanged.
// So an account that is authorized before the browser is back makes the link authorized without a
// callback.
//
// This package exchanges no code and stores no token: the refresher does, and says here how it
// ended.
package links
