package refresher

import (
	"time"

	"wxtoken/internal/gate"
)

const (
	// callTimeout bounds one call to WeChat. It is shorter than a claim, so that no other refresher
	// starts while an answer may still come.
	callTimeout = 10 * time.Second
	// heldDelay is the wait of a renewal for a component access token that isn't there.
	heldDelay = 5 * time.Second
	// spentDelay is the wait for the push that may have used a redirect's code.
	spentDelay = time.Second
	// plainDelay is the wait before a write is tried again that NATS did not take.
	plainDelay = time.Second
)

// jittered spreads a wait over d to 1.5 d, so that those who wait together do not come together.
var jittered = gate.Jittered
