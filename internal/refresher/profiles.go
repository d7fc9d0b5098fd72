package refresher

import (
	"context"
	"sync"
	"time"

	"wxtoken/client"
)

// profiles fetches what WeChat tells about accounts that were renewed, and that it was not asked
// about yet. It does so beside the renewals, and while these need neither the hands nor the calls
// of the rate: with all data gone there are as many profiles to fetch as tokens, and the tokens are
// what services wait for.
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
