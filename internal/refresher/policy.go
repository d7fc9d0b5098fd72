package refresher

import (
	"time"

	"wxtoken/internal/gate"
	"wxtoken/internal/wechat"
)

const (
	// callTimeout bounds one call to WeChat. It is shorter than a claim, so that no other refresher
	// starts while an answer may still come.
	callTimeout = 10 * time.Second
	// claimedDelay is the wait for another refresher that is at the same key.
	claimedDelay = 500 * time.Millisecond
	// lostDelay is the wait before a record is loaded again that changed under our hands.
	lostDelay = 50 * time.Millisecond
	// heldDelay is the wait of a renewal for a component access token that isn't there.
	heldDelay = 5 * time.Second
	// spentDelay is the wait for the push that may have used a redirect's code.
	spentDelay = time.Second
	// plainDelay is the wait before a write is tried again that NATS did not take.
	plainDelay = time.Second
	// slowDown is the wait after 45011, a limit per minute.
	slowDown = time.Minute
)

// ofAccount reports whether err concerns one account, and not all calls of its component.
func ofAccount(err error) bool { return wechat.Concerns(err) == wechat.ConcernAccount }

// jittered spreads a wait over d to 1.5 d, so that those who wait together do not come together.
var jittered = gate.Jittered
