package refresher_test

import (
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/refresher"
	"wxtoken/wechatsim"
)

// TestTokenRefusedForOneAccount has WeChat refuse the component's token in all calls about one account, and in no other. The others go on
// with it, and it is renewed once.
func TestTokenRefusedForOneAccount(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	r.authorize(alice)
	keys := r.crowd(appid, 5)
	r.fail(wechatsim.Fault{API: apiRefresh, Authorizer: alice, Errcode: 40001})
	for range 5 {
		calls := r.calls(apiRefresh, alice)
		r.until("not asked", func() bool { r.pokeOnce(aliceKey); return r.calls(apiRefresh, alice) > calls })
		r.until("the component's token is refused, and not renewed", func() bool {
			c := r.credential(componentKey)
			return c.Claim == nil && (c.Refused == nil || c.Refused.Generation < c.Generation)
		})
		r.heard()
		r.clock.forward(2 * time.Minute)
	}
	for _, key := range keys {
		r.poke(key)
		r.until("not renewed", func() bool { return r.token(key).Generation >= 2 })
	}
	r.wantCalls(apiComponent, 2)
	r.state(componentKey, wxtoken.StateActive)
	r.state(aliceKey, wxtoken.StateRenewingFailed)
}
