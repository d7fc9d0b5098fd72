package refresher

import (
	"context"
	"math/rand/v2"
	"time"

	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/store"
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
	// watchedFor is how long after its redirect a link counts as one at which a browser waits. For
	// as long the page reloads every two seconds (slowAfter of package ingest).
	watchedFor = time.Minute
	// watchedTries is how many failures in a row an event of such a link has at most. The wait
	// after them is 2.5 to 5 s, so two find room in spentPatience, and no link costs WeChat more
	// than some 20 calls while its merchant waits.
	watchedTries = 3
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

// hurried returns an event of a link with as many deliveries as its next wait is to count.
//
// Most of them may have been no failures: while the other code of the link is being exchanged, the
// event is put off twice a second. The wait after the first failure was 24 s then, and the link was
// called failed in the meantime (TestPushFailsAfterPutOffs). So while a merchant's browser waits,
// few are counted. All else goes its way: where WeChat is away the gate holds the call back, and a
// quota that is gone, or a limit, keeps its wait.
//
// The link is read anew, for its redirect may have come while WeChat was asked.
func (r *Refresher) hurried(ctx context.Context, link *store.Connect, m events.Msg) events.Msg {
	if link == nil {
		return m
	}
	if newer, ok, err := r.store.Connect(ctx, link.ID); err == nil && ok {
		link = &newer
	}
	if watched(*link, r.now()) {
		m.Deliveries = min(m.Deliveries, watchedTries)
	}
	return m
}

// watched reports whether a merchant's browser waits at a link: it came back from WeChat a moment
// ago, or its code was found spent a moment ago, and the link has not ended.
func watched(link store.Connect, now time.Time) bool {
	return link.State == events.ConnectExchanging &&
		(now.Sub(link.CodeAt) < watchedFor || now.Sub(link.SpentAt) < watchedFor)
}
