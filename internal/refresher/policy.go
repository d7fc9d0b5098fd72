package refresher

import (
	"math/rand/v2"
	"time"

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
	// heldRate is how often a second all that wait for it look again, together.
	heldRate = 200
	// componentDelay is the wait of a code, or of a reconcile, for a component access token that isn't there.
	componentDelay = time.Second
	// plainDelay is the wait before a write is tried again that NATS did not take.
	plainDelay = time.Second
	// slowDown is the wait after 45011, a limit per minute.
	slowDown = time.Minute
	// slowFor is how long calls are made half as often after that.
	slowFor = 10 * time.Minute
)

// ofAddress reports whether err is about the address that calls come from.
func ofAddress(err error) bool { return wechat.Concerns(err) == wechat.ConcernAddress }

// ofComponent reports whether every call of the component would meet err.
func ofComponent(err error) bool { return wechat.Concerns(err) >= wechat.ConcernComponent }

// ofAccount reports whether err concerns one account, and not all calls of its component.
func ofAccount(err error) bool { return wechat.Concerns(err) == wechat.ConcernAccount }

// jittered spreads a wait over d to 1.5 d, so that those who wait together do not come together.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Float64()*float64(d)/2)
}
