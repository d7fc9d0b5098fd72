// Package refresher turns events into tokens: it keeps the tickets, exchanges the codes, renews
// every token before it dies, and repairs what was lost.
//
// # The story of a renewal
//
//	a. load the credential; the account says what the due message asks of it
//	   the gate: may the call be made now? If not, the message is put off until then
//	b. claim the key, by compare-and-set
//	c. ask WeChat, with a deadline shorter than the claim
//	d. judge the answer: nothing but a good token is stored; the account says what follows from any other
//	e. commit credential, token and next schedule in one batch, on the claim's revision
//	f. tell: status, log, tickets; then ack
//
// A refresher may die between any two of these. The due message is then delivered again, and
// a. or b. sorts it out. A commit that comes late is refused, because the revision has moved on:
// two calls overlapped, it can't be told which token WeChat holds for the newest, and the key is
// renewed once more, alone.
//
// # What callers must bear
//
// WeChat is called at least once for each renewal, and once more for each refresher that died
// between c. and e.
//
// # Where things are decided
//
// What an event makes of a credential, when it is tried again and what the status says:
// internal/account, which is pure. Whether a call may be made now: internal/gate. Here they are put
// in order, around NATS and WeChat.
package refresher
