// Package gate answers one question: may this call to WeChat be made now, and if not, until when
// and why?
//
// There is one [Gate] for each component. All calls for the component go through it:
//
//	turn, err := g.Admit(ctx, call)  // waits for the turn, or says until when there is none
//	err = turn.Make(ctx, ask)        // counts the call, makes it, and learns from the answer
//	err = g.Do(ctx, call, ask)       // both
//
// Between the two a refresher claims the record that the answer will change: what can't be asked is
// not claimed, and what was claimed needs no second turn. [Gate.Held] answers from memory alone,
// for the hundred thousand keys that may wait while WeChat is away.
//
// # The reasons
//
// What holds a component back is one list ([Gate.Holds]). The condition Renewing of its status, the
// metric wxtoken_held_back, a log line when the list changes, and the answers to requests (503) are
// made from it. The reasons, the gravest first, as in [Reasons]:
//
//	NATSNotStoring   nothing can be stored              closes all calls   ends with the next proof
//	NoTicket         no component_verify_ticket works   closes none        ends with a token, or another ticket
//	CallsRefused     secret, address or state is wrong  closes all calls   ends with an answer that proves otherwise
//	EmptyAnswers     answers have no body               closes none        ends with an answer that has one
//	QuotaGone        the day's quota of a call          closes that call   ends when the day turns, or it is cleared
//	RefusalsDoubted  many accounts refused at once      closes none        ends when few are, for five minutes
//	WeChatAway       no answer, to calls about many     closes all calls   ends with any answer; one call in 10 s probes
//	TokenRefused     WeChat refused the component token closes its calls   ends with another token
//	TokenDead        there is no component token        closes its calls   ends with one
//	ListFirst        tokens are long dead: old data     closes renewals    ends when WeChat's list was read
//	MinuteLimit      too many calls in a minute         closes that call   ends a minute later; then half the rate
//
// A reason that closes no call is told all the same: tokens are not renewed because of it, or none
// is marked as gone. Two more things make a call wait and are no reasons: its turn (the rate),
// which comes, and a process that stops, which ends by itself while the others go on.
//
// # The order of the questions
//
// Admit asks in the order of what the answer costs, and takes a turn only for a call that can be
// made:
//
//  1. Is there a token to make it with?           memory
//  2. Is WeChat's list to be read first?          memory
//  3. Is the call closed? Who probes?             memory; while WeChat is away one caller takes the probe
//  4. Is it its turn?                             waits
//  5. Does NATS store?                            a message, at most every 5 s
//
// NATS comes last, because it is the answer that gets old: a call whose answer can't be stored may
// end a token that services still use, and brings them no other.
//
// # What processes share
//
// Each component has one record in the store ([store.Quota]), changed by compare-and-set. The day's
// count of calls and the quotas that are gone stand there for all. What one process met stands
// there under its id, so that all of them write the same status, and one that can't reach WeChat is
// seen although the others can. A process believes another's reason for the status only: its own
// calls are closed by what it met itself, because the address that WeChat refuses may be the
// other's.
package gate
