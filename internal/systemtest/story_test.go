package systemtest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

// TestStory kills the refresher after each step of a renewal, and after each message of the batch.
// Whoever comes next ends the walk in the same place: a good token, the next schedule, and no more
// than one call too many; none at all where the call was not made yet or its answer was stored.
func TestStory(t *testing.T) {
	t.Parallel()
	var rows sync.WaitGroup // they only wait for the clock: all at once, whatever the number of cores
	defer rows.Wait()
	for _, row := range []struct {
		step  string
		extra int // calls that the death may cost
	}{
		{"loaded", 0},
		{"claimed", 0},
		{"asked", 1},
		{"judged", 1},
		{"batch.1", 1},
		{"batch.2", 1},
		{"batch.3", 0},
		{"committed", 0},
		{"acked", 0},
	} {
		rows.Go(func() {
			t.Run(row.step, func(t *testing.T) {
				w := newWorld(t, wechatsim.Config{TokenLife: 10 * time.Second, TicketEvery: time.Minute})
				first := w.start()
				w.eventually(20*time.Second, func() error { return w.component() })
				time.Sleep(2500 * time.Millisecond) // so that the two keys are not renewed at the same time
				if err := w.sim.Authorize(testAppID, appidOf(1)); err != nil {
					t.Fatal(err)
				}
				w.eventually(10*time.Second, func() error { return w.accepted(appidOf(1)) })
				first.crashAtNext(row.step)
				w.eventually(20*time.Second, func() error {
					select {
					case <-first.crashed:
						return nil
					default:
						return fmt.Errorf("no crash at %s yet", row.step)
					}
				})
				first.stop()
				w.start()
				keys := []wxtoken.Key{wxtoken.ComponentKey(testAppID), wxtoken.AuthorizerKey(testAppID, appidOf(1))}
				extra := 0
				w.eventually(30*time.Second, func() error {
					extra = 0
					for _, key := range keys {
						token, err := w.token(key)
						if err != nil {
							return err
						}
						if token.Generation < 3 {
							return fmt.Errorf("%s is of generation %d", key, token.Generation)
						}
						if err := w.covered(key); err != nil {
							return err
						}
						// Each call that was executed issued a token; each that was stored counts one generation.
						extra += w.sim.Truth(testAppID, key.Authorizer).Generation - int(token.Generation)
					}
					if extra > row.extra { // one may be under way
						return fmt.Errorf("%d calls too many, want at most %d", extra, row.extra)
					}
					return w.accepted(appidOf(1))
				})
			})
		})
	}
}

// TestStoryOfACode does the same with the exchange of a code.
func TestStoryOfACode(t *testing.T) {
	t.Parallel()
	var rows sync.WaitGroup
	defer rows.Wait()
	for _, step := range []string{"exchange.claimed", "exchange.asked", "batch.1", "batch.2", "batch.3", "exchange.committed", "acked"} {
		rows.Go(func() {
			t.Run(step, func(t *testing.T) {
				w := newWorld(t, wechatsim.Config{TicketEvery: time.Minute})
				first := w.start()
				w.eventually(20*time.Second, func() error { return w.component() })
				first.crashAtNext(step)
				if err := w.sim.Authorize(testAppID, appidOf(1)); err != nil {
					t.Fatal(err)
				}
				<-first.crashed
				first.stop()
				w.start()
				key := wxtoken.AuthorizerKey(testAppID, appidOf(1))
				w.eventually(30*time.Second, func() error {
					if err := w.accepted(appidOf(1)); err != nil {
						return err
					}
					return w.covered(key)
				})
				token, err := w.token(key)
				if err != nil {
					t.Fatal(err)
				}
				if extra := w.sim.Truth(testAppID, appidOf(1)).Generation - int(token.Generation); extra > 1 {
					t.Errorf("%d tokens were issued in vain, want at most one", extra)
				}
			})
		})
	}
}

// component returns an error unless the component's token is there and good.
func (w *world) component() error {
	t, err := w.token(wxtoken.ComponentKey(testAppID))
	if err != nil {
		return fmt.Errorf("component token: %w", err)
	}
	if !w.sim.AcceptsComponent(testAppID, t.Value.Reveal()) {
		return fmt.Errorf("component token (generation %d) is not accepted", t.Generation)
	}
	return nil
}

// covered returns an error unless the next renewal of key is bound to come: its schedule or its due
// message lies in the stream, made for the token that is there. An older due message proves nothing: it
// stays where it is after its ack.
func (w *world) covered(key wxtoken.Key) error {
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	s, err := w.lookUp(ctx)
	if err != nil {
		return err
	}
	token, err := w.token(key)
	if err != nil {
		return err
	}
	for _, subject := range []string{events.ScheduleSubject(key), events.DueSubject(key)} {
		m, err := s.stream.GetLastMsgForSubject(ctx, subject)
		if err != nil {
			continue
		}
		if due, err := events.ParseDue(m.Data); err == nil && due.Generation >= token.Generation {
			return nil
		}
	}
	return fmt.Errorf("neither a schedule nor a due message for the token after generation %d", token.Generation)
}
