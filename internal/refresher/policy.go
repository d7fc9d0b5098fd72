package refresher

import (
	"math/rand/v2"
	"time"

	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/wechat"
)

const (
	// callTimeout bounds one call to WeChat. It is shorter than a claim, so that no other refresher
	// starts while an answer may still come.
	callTimeout = 10 * time.Second
	// heldDelay is the wait of a due message that has been ahead of its record for ten readings: no
	// replica lags so long, and what it waits for may never be stored (resolveLost, tryKeepCode).
	heldDelay = 5 * time.Second
	// spentDelay is the wait for the push that may have used a redirect's code.
	spentDelay = time.Second
	// plainDelay is the wait before a write is tried again that NATS did not take.
	plainDelay = time.Second
)

// jittered spreads a wait over d to 1.5 d, so that those who wait together do not come together.
var jittered = gate.Jittered

// eventDelay is how long an event is put off that WeChat did not let be handled: as long as the
// call said, if it was not even made, and longer each time otherwise.
//
// An event has no record of its failures as a key has: NATS counts its deliveries, and they stand
// for the failures in a row. A quota that is gone may be cleared at any time, so it is looked at
// again after 10 s and not at midnight; the look is at the gate, and costs no call.
func eventDelay(m events.Msg, err error) time.Duration {
	if wait, ok := events.After(err); ok {
		return wait
	}
	switch wechat.Judge(err) {
	case wechat.QuotaGone:
		return jittered(gate.MaxPause)
	case wechat.SlowDown, wechat.Operator:
		return jittered(wechat.MinuteLimit)
	}
	return account.Backoff(m.Deliveries, 0, rand.Float64())
}
