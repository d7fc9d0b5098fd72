// Package refresher turns events into tokens: it keeps the tickets, exchanges the codes, renews
// every token before it dies, and repairs what was lost.
//
// # The story of a renewal
//
//	a. load the credential; does the due message still speak of its generation?
//	b. claim the key, by compare-and-set
//	c. ask WeChat, with a deadline shorter than the claim
//	d. judge the answer: nothing but a good token is stored
//	e. commit credential, token and next schedule in one batch, on the claim's revision
//	f. ack
//
// A refresher may die between any two of these. The due message is then delivered again, and
// a. or b. sorts it out. A commit that comes late is refused, because the revision has moved on:
// two calls overlapped, nobody can tell which token WeChat holds for the newest, and the key is
// renewed once more, alone.
//
// # What callers must bear
//
// WeChat is called at least once for each renewal, and once more for each refresher that died
// between c. and e.
package refresher
