package refresher

import (
	"context"
	"sync"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/wechat"
)

// profiles fetches what WeChat tells about accounts that were renewed, and that it was not asked
// about yet. It does so beside the renewals, and while these need neither the hands nor the calls
// of the rate: with all data gone there are as many profiles to fetch as tokens, and the tokens are
// what services wait for.
//
// A profile is a name and a picture for people, and nothing depends on it. So nothing of it is
// stored as work to be done: what this process forgets, the next renewal of the account finds
// missing, two hours later at most. That is also why the channel may be full.
type profiles struct {
	missing chan wxtoken.Key
	calm    func(component string) bool // nothing waits for what a profile would take
	fetch   func(context.Context, wxtoken.Key)
}

const (
	// profilesAtOnce is how many are fetched at the same time.
	profilesAtOnce = 8
	// profilesMissing is how many accounts are remembered whose profile is missing. Of one beyond
	// these the next renewal says so again.
	profilesMissing = 10_000
	// calmEvery is the time between two looks whether a profile may be fetched now.
	calmEvery = time.Second
)

// want has the profile of an account fetched.
func (p *profiles) want(key wxtoken.Key) {
	select {
	case p.missing <- key:
	default:
	}
}

// run fetches until ctx ends. What it is at then it finishes by work.
func (p *profiles) run(ctx, work context.Context) {
	var working sync.WaitGroup
	defer working.Wait()
	for range profilesAtOnce {
		working.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case key := <-p.missing:
					// Waiting ends with ctx, the call itself only with work: a call that was made
					// is worth its answer.
					if !p.await(ctx, key.Component) {
						return
					}
					p.fetch(work, key)
				}
			}
		})
	}
}

// await returns when there is calm, false when ctx ended.
func (p *profiles) await(ctx context.Context, component string) bool {
	for !p.calm(component) {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(calmEvery):
		}
	}
	return true
}

// calm reports whether a profile can be fetched without a renewal having to wait: for its turn by
// the rate, or for a hand. There is none while more than half of the hands are at work, or a list
// is being taken over. Keys of a component that was taken out of the settings don't wait: they are
// let go without a call.
func (r *Refresher) calm(component string) bool {
	c, ok := r.component(component)
	return !ok || c.gate.Idle() && r.absorbing.Load() == 0 && 2*r.busy.Load() <= int64(max(r.cfg.Concurrency, 2))
}

// fetchMissing fetches the profile of an account that still has none.
//
// Two refreshers, or two renewals, may want the same profile: the second finds it in the status.
func (r *Refresher) fetchMissing(ctx context.Context, key wxtoken.Key) {
	c, ok := r.component(key.Component)
	if s, _, err := r.store.Status(ctx, key); ok && err == nil && lacksProfile(s) {
		r.fetchProfile(ctx, c, key)
	}
}

func lacksProfile(s wxtoken.Status) bool {
	return s.Authorizer == nil || len(s.Authorizer.Profile) == 0
}

// fetchProfile fetches what WeChat tells about an account. It is not worth a second try here: the
// next renewal makes one when the profile is still missing.
func (r *Refresher) fetchProfile(ctx context.Context, c *component, key wxtoken.Key) wechat.AuthorizerInfo {
	info, err := r.authorizerInfo(ctx, c, key.Authorizer)
	if err != nil {
		r.log.Warn().Err(err).Stringer("key", key).Msg("failed to fetch profile")
		return info
	}
	r.setStatus(ctx, key, account.ProfileOf(info))
	return info
}
