package refresher_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

// eventually waits until f returns nil.
func (r *rig) eventually(f func() error) {
	r.Helper()
	began := time.Now()
	deadline, before := began.Add(within), ""
	for wait := 2 * time.Millisecond; ; wait = min(wait*5/4, 20*time.Millisecond) { // who asks too often keeps the machine from getting on
		err := f()
		if err == nil {
			return
		}
		if moved, is := errors.AsType[onTheWay](err); is && string(moved) != before {
			deadline, before = time.Now().Add(within), string(moved)
		}
		if now := time.Now(); now.After(deadline) || r.Failed() && now.After(began.Add(within/10)) { // the test has failed already
			r.Fatalf("not within %s: %v", now.Sub(began).Round(time.Second), err)
		}
		time.Sleep(wait)
	}
}

// onTheWay says how far something is that takes its time: a wait for it ends when it does not get on.
type onTheWay string

// Error returns how far it is.
func (o onTheWay) Error() string { return string(o) }

// until is eventually for a yes or no.
func (r *rig) until(what string, f func() bool) {
	r.Helper()
	r.eventually(func() error {
		if f() {
			return nil
		}
		return errors.New(what)
	})
}

// must ends the test when a control of the platform, or of NATS, failed.
func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// listRead waits until WeChat's list was read and taken over. A slow NATS has it read more than once.
func (r *rig) listRead() {
	r.Helper()
	r.eventually(func() error {
		if r.log.count("reconciled with WeChat's list") > 0 {
			return nil
		}
		return onTheWay(fmt.Sprintf("WeChat's list was not read, after %d calls", len(r.sim.History())))
	})
}

// token returns the token of key, a zero one if there is none.
func (r *rig) token(key wxtoken.Key) wxtoken.Token {
	r.Helper()
	return read(r, func(ctx context.Context) (wxtoken.Token, error) {
		t, _, err := r.store.Token(ctx, key)
		return t, err
	})
}

func (r *rig) credential(key wxtoken.Key) account.Credential {
	r.Helper()
	return read(r, func(ctx context.Context) (account.Credential, error) { return r.store.Credential(ctx, key) })
}

func (r *rig) status(key wxtoken.Key) wxtoken.Status {
	r.Helper()
	return read(r, func(ctx context.Context) (wxtoken.Status, error) {
		s, _, err := r.store.Status(ctx, key)
		return s, err
	})
}

// read asks NATS, again where that is too slow for an answer.
func read[T any](r *rig, f func(context.Context) (T, error)) (value T) {
	r.Helper()
	var err error
	r.eventually(func() error {
		if value, err = f(r.Context()); errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return nil
	})
	r.must(err)
	return value
}

// state waits for a state of key and returns the status.
func (r *rig) state(key wxtoken.Key, want wxtoken.State) (s wxtoken.Status) {
	r.Helper()
	r.eventually(func() error {
		if s = r.status(key); s.State != want {
			return fmt.Errorf("state of %s is %q, want %q", key, s.State, want)
		}
		return nil
	})
	return s
}

// accepted returns an error unless the stored token of an account is one that the platform takes.
func (r *rig) accepted(account string) error {
	t, ok, err := r.store.Token(r.Context(), wxtoken.AuthorizerKey(appid, account))
	if err != nil || !ok {
		return fmt.Errorf("no token of %s: %w", account, err)
	}
	if !r.sim.Accepts(appid, account, t.Value.Reveal()) {
		return fmt.Errorf("the token of %s, generation %d, is not accepted", account, t.Generation)
	}
	return nil
}

func (r *rig) componentLives() error {
	t, ok, err := r.store.Token(r.Context(), componentKey)
	if err != nil || !ok {
		return fmt.Errorf("no component token: %w", err)
	}
	if !r.sim.AcceptsComponent(appid, t.Value.Reveal()) {
		return errors.New("the component token is not accepted")
	}
	// Its refresher knows of it a moment after the store does, and calls nothing before.
	if r.log.count(`"message":"token renewed"`, componentKey.String(), fmt.Sprintf(`"generation":%d,`, t.Generation)) == 0 {
		return errors.New("no refresher knows of the component token")
	}
	return nil
}

// generation waits until the token of key is of the given generation and WeChat takes it.
func (r *rig) generation(key wxtoken.Key, want uint64) wxtoken.Token {
	r.Helper()
	var t wxtoken.Token
	r.eventually(func() error {
		if t = r.token(key); t.Generation != want {
			return fmt.Errorf("%s is of generation %d, want %d", key, t.Generation, want)
		}
		return nil
	})
	if !r.sim.Accepts(appid, key.Authorizer, t.Value.Reveal()) {
		r.Fatalf("the token of %s, generation %d, is not accepted", key, want)
	}
	return t
}

// calls returns how often an API was called, for one account if one is given.
func (r *rig) calls(api string, account ...string) (n int) {
	for _, e := range r.sim.History() {
		if e.Kind == wechatsim.EntryCall && e.API == api && (len(account) == 0 || e.Authorizer == account[0]) {
			n++
		}
	}
	return n
}

// wantCalls fails the test unless an API was called so often.
func (r *rig) wantCalls(api string, want int, account ...string) {
	r.Helper()
	if n := r.calls(api, account...); n != want {
		r.Errorf("%s was called %d times, want %d", api, n, want)
	}
}

// drained waits until every event and every due message has been handled for good.
func (r *rig) drained() {
	r.Helper()
	r.eventually(func() error {
		auth, err := r.js.Stream(r.Context(), events.StreamAuth)
		if err != nil {
			return err
		}
		if n := auth.CachedInfo().State.Msgs; n > 0 {
			return onTheWay(fmt.Sprintf("%d events wait", n))
		}
		due, err := r.js.Consumer(r.Context(), events.StreamTokens, events.DurableDue)
		if err != nil {
			return err
		}
		if i := due.CachedInfo(); i.NumPending > 0 || i.NumAckPending > 0 {
			return onTheWay(fmt.Sprintf("%d due messages wait, %d are being handled", i.NumPending, i.NumAckPending))
		}
		return nil
	})
}

// reconciled waits until the first reconcile, which each component has, is over.
func (r *rig) reconciled() {
	r.Helper()
	r.eventually(func() error {
		tokens, err := r.js.Stream(r.Context(), events.StreamTokens)
		if err == nil {
			_, err = tokens.GetLastMsgForSubject(r.Context(), events.ReconcileDueSubject(appid))
		}
		return err
	})
	r.drained()
}

// heard waits until the refreshers know of all records that are stored: their views hear of each a moment later. Before, a
// step that follows upon what a record says, or clocks that are put forward, would find them with what was true before.
func (r *rig) heard() {
	r.Helper()
	newest := read(r, func(ctx context.Context) (newest uint64, err error) {
		tokens, err := r.js.Stream(ctx, events.StreamTokens)
		if err != nil {
			return 0, err
		}
		for _, subject := range []string{events.AllTokens, events.AllCredentials} {
			m, err := tokens.GetLastMsgForSubject(ctx, subject)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				return 0, err
			}
			newest = max(newest, m.Sequence)
		}
		return newest, nil
	})
	r.mu.Lock()
	runs := slices.Clone(r.runs)
	r.mu.Unlock()
	r.until("not all refreshers know of all records", func() bool {
		return !slices.ContainsFunc(runs, func(p process) bool { return !p.work.Heard(newest) })
	})
}

// handled returns how many due messages of key have come to their end.
func (r *rig) handled(key wxtoken.Key) int {
	return r.log.count(`"message":"message handled"`, events.DueSubject(key))
}

// pokedInVain makes key due and waits until that was put off.
func (r *rig) pokedInVain(key wxtoken.Key) {
	r.Helper()
	before := r.putOff(key)
	r.poke(key)
	r.until(key.String()+" was not put off", func() bool { return r.putOff(key) > before })
}

// putOff returns how often a due message of key was put off. One that came while another handler was at the key is not
// counted: what that handler does is still to be seen.
func (r *rig) putOff(key wxtoken.Key) int {
	all := func(parts ...string) int {
		return r.log.count(append(parts, `"message":"message put off"`, events.DueSubject(key))...)
	}
	return all() - all("is being worked at here") - all("is claimed by another refresher")
}

// scheduled returns when the schedule of key fires; ok is false when it has none.
func (r *rig) scheduled(key wxtoken.Key) (at time.Time, ok bool) {
	r.Helper()
	stream, err := r.js.Stream(r.Context(), events.StreamTokens)
	r.must(err)
	m, err := stream.GetLastMsgForSubject(r.Context(), events.ScheduleSubject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return at, false
	}
	r.must(err)
	at, err = time.Parse(time.RFC3339, strings.TrimPrefix(m.Header.Get(jetstream.ScheduleHeader), "@at "))
	r.must(err)
	return at, true
}

// wantScheduled fails the test unless key is scheduled for the time that its token tells.
func (r *rig) wantScheduled(key wxtoken.Key) {
	r.Helper()
	if at, ok := r.scheduled(key); !ok || !at.Equal(r.token(key).RenewAt) {
		r.Errorf("%s is scheduled for %v (%t), its token says %v", key, at, ok, r.token(key).RenewAt)
	}
}
