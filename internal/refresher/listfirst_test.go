package refresher_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/internal/store"
	"wxtoken/wechatsim"
)

// TestRestoredBackup puts back what NATS held three days ago. Meanwhile WeChat changed the refresh tokens, one account
// cancelled, one authorized again, and one came. The list is read before any account is renewed, whatever it says beats what
// is stored, and nobody has to do anything.
func TestRestoredBackup(t *testing.T) {
	t.Parallel()
	for _, rotation := range []wechatsim.Rotation{wechatsim.RotateNever, wechatsim.RotateEachOldDead} {
		t.Run(string(rotation), func(t *testing.T) {
			const accounts = 12
			name := func(i int) string { return fmt.Sprintf("wxold%012d", i) }
			r := newRig(t, options{sim: wechatsim.Config{Rotation: rotation}, cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }, idle: true})
			first := r.start()
			r.ticket()
			for i := range accounts {
				r.authorize(name(i))
			}
			r.drained()
			first.stop()
			// What nobody has consumed yet is in the backup, too: a ticket, a code, and a cancellation.
			r.ticket()
			r.must(r.sim.Reauthorize(appid, name(2)))
			r.clock.forward(time.Minute)
			r.must(r.sim.Cancel(appid, name(3)))
			r.until("the pushes did not come", func() bool { return len(r.lying(events.StreamAuth)) == 3 })

			backup := t.TempDir()
			r.nats.Stop()
			r.must(os.CopyFS(backup, os.DirFS(r.nats.StoreDir())))
			r.nats.Restart()

			// Life goes on.
			second := r.start()
			r.state(wxtoken.AuthorizerKey(appid, name(3)), wxtoken.StateRevoked)
			r.clock.forward(time.Minute)
			r.must(r.sim.Authorize(appid, name(3)))
			for range 2 {
				r.clock.forward(90 * time.Minute)
				r.ticket()
				r.eventually(func() error {
					for i := range accounts {
						if err := r.accepted(name(i)); err != nil {
							return err
						}
					}
					return nil
				})
			}
			r.must(r.sim.Cancel(appid, name(0)))
			r.state(wxtoken.AuthorizerKey(appid, name(0)), wxtoken.StateRevoked)
			r.must(r.sim.Reauthorize(appid, name(1)))
			r.drained()
			r.authorize(name(accounts))
			second.stop()

			// Everything is as it was three days ago, AUTH included: NATS's own clock has not moved, so that it keeps the old events.
			r.nats.Stop()
			r.must(os.RemoveAll(r.nats.StoreDir()))
			r.must(os.CopyFS(r.nats.StoreDir(), os.DirFS(backup)))
			r.nats.Restart()
			r.clock.forward(72 * time.Hour)
			r.sim.ClearHistory()
			for range 2 {
				r.start()
			}
			r.ticket()
			r.eventually(func() error {
				for i := 1; i <= accounts; i++ {
					if err := r.accepted(name(i)); err != nil {
						return err
					}
				}
				return nil
			})
			r.state(wxtoken.AuthorizerKey(appid, name(0)), wxtoken.StateRevoked)
			r.listedFirst(name(2)) // WeChat was asked about it, because of the code that was dead
			for i := 1; i <= accounts; i++ {
				if i != 2 && i != 3 { // events about them came once more
					r.wantCalls(apiRefresh, 1, name(i))
				}
			}
			r.drained()
			for i := 1; i <= accounts; i++ {
				r.must(r.accepted(name(i)))
			}
		})
	}
}

// listedFirst fails the test unless the list was read before any account but one was renewed.
func (r *rig) listedFirst(but string) {
	r.Helper()
	calls := slices.DeleteFunc(r.sim.History(), func(e wechatsim.Entry) bool {
		return e.Kind != wechatsim.EntryCall || e.API != apiList && (e.API != apiRefresh || e.Authorizer == but)
	})
	if len(calls) == 0 || calls[0].API != apiList {
		r.Errorf("%d calls of the list and of renewals, the first is not of the list: %+v", len(calls), calls[:min(len(calls), 1)])
	}
}

// TestListWaitEnds has the list fail after three days without a refresher: nobody is renewed for a while, and then all are, with
// what is stored.
func TestListWaitEnds(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }, idle: true})
	first := r.start()
	r.ticket()
	r.authorize(alice)
	first.stop()
	r.clock.forward(72 * time.Hour)
	r.fail(wechatsim.Fault{API: apiList, Errcode: 48001})
	before := r.calls(apiRefresh)
	p := r.start()
	r.ticket()
	r.until("nobody waits for the list", func() bool { return r.log.count("reading WeChat's list before any renewal") > 0 })
	r.until("no metric tells", func() bool { return r.metric(p, "wxtoken_held_back", appid, wxtoken.HeldListFirst) == 1 })
	r.until("the list was not asked for", func() bool { return r.calls(apiList) > 1 })
	r.pokedInVain(aliceKey)
	r.wantCalls(apiRefresh, before)
	r.clock.forward(3 * time.Minute)
	r.eventually(func() error { return r.accepted(alice) })
}

// TestListAlreadyRead has an account that needs its merchant: its token is long dead, but the list was read since. It does
// not wait for it once more, nor does an account whose token died just now.
func TestListAlreadyRead(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	r.authorize(alice)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: -1})
	r.clock.forward(3 * time.Hour) // dead for an hour
	r.ticket()
	r.eventually(r.componentLives)
	before := r.calls(apiRefresh)
	r.until("alice was not tried", func() bool { return r.calls(apiRefresh) > before })
	if n := r.log.count("reading WeChat's list before any renewal"); n > 0 {
		t.Errorf("a token that is dead for an hour waits for the list")
	}
	r.clock.forward(2 * time.Hour)
	r.ticket()
	r.eventually(r.componentLives)
	r.until("nobody waits for the list", func() bool { return r.log.count("reading WeChat's list before any renewal") == 1 })
	r.eventually(func() error {
		q, err := r.store.Quota(t.Context(), appid)
		if expired := r.token(aliceKey).ExpiresAt; err == nil && q.ListedAt.Before(expired) {
			err = fmt.Errorf("the list was read at %s, the token died at %s", q.ListedAt, expired)
		}
		return err
	})
	before = r.calls(apiRefresh)
	r.until("alice was not tried", func() bool { return r.calls(apiRefresh) > before })
	if n := r.log.count("reading WeChat's list before any renewal"); n != 1 {
		t.Errorf("the list was wanted %d times, want once", n)
	}
	q, err := r.store.Quota(t.Context(), appid)
	r.must(err)
	old := q.ListedAt.Add(-13 * time.Hour) // out of a backup
	r.until("an old mark was believed", func() bool {
		r.must(r.store.UpdateQuota(t.Context(), appid, func(q *store.Quota) bool { // again, if a reading that was under way has noted its own
			if q.ListedAt.Equal(old) {
				return false
			}
			q.ListedAt = old
			return true
		}))
		return r.log.count("reading WeChat's list before any renewal") == 2
	})
}

// meanwhile does something once after the platform has answered a call of an API, and before the answer arrives.
type meanwhile struct {
	direct
	api string
	do  func()
}

func (m meanwhile) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := m.direct.RoundTrip(request)
	if path.Base(request.URL.Path) == m.api {
		m.do()
	}
	return response, err
}

// TestListOlderThanStored has a refresher whose clock is three days ahead, so that every token looks long dead to it.
// What the list says of an account then replaces what is stored only if it is the newer one for WeChat, too.
func TestListOlderThanStored(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]func(r *rig, stored account.Credential) (want account.Credential){
		"a list that does not tell the authorization yet": func(r *rig, stored account.Credential) account.Credential {
			r.fail(wechatsim.Fault{API: apiList, Mode: wechatsim.FaultBody, Body: fmt.Sprintf(
				`{"total_count":1,"list":[{"authorizer_appid":%q,"refresh_token":"SEKRET-older","auth_time":%d}]}`, alice, stored.AuthorizedAt.Add(-2*time.Minute).Unix())})
			return stored
		},
		"a list whose time stays that of the first authorization": func(r *rig, stored account.Credential) account.Credential {
			want := stored
			stored.RefreshToken, stored.AuthorizedAt = "SEKRET-older", stored.AuthorizedAt.Add(2*time.Minute)
			stored, err := r.store.Save(r.Context(), stored)
			r.must(err)
			want.AuthorizedAt = stored.AuthorizedAt
			return want
		},
		"a renewal while the list is read": func(r *rig, stored account.Credential) account.Credential {
			r.fail(wechatsim.Fault{API: apiRefresh, Errcode: -1})
			want := stored
			want.RefreshToken = "SEKRET-newer"
			deps := r.deps
			r.deps = func(d *refresher.Deps) {
				deps(d)
				d.Transport = meanwhile{direct{r.sim.Handler()}, apiList, func() {
					now, err := r.store.Credential(r.Context(), aliceKey)
					if err == nil {
						now.RefreshToken = want.RefreshToken
						_, err = r.store.Save(r.Context(), now)
					}
					if err != nil && !errors.Is(err, store.ErrLost) {
						r.Error(err)
					}
				}}
			}
			return want
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options{idle: true})
			first := r.start()
			r.ticket()
			r.authorize(alice)
			first.stop()
			r.deps = func(d *refresher.Deps) { d.Now = func() time.Time { return r.clock.Now().Add(72 * time.Hour) } }
			want := row(r, r.credential(aliceKey))
			reconciled := r.log.count("reconciled with WeChat's list")
			r.start()
			r.must(r.store.ScheduleReconcile(t.Context(), appid, r.cfg.ReconcileEvery, true))
			r.until("the list was not read", func() bool { return r.log.count("reconciled with WeChat's list") > reconciled })
			if got := r.credential(aliceKey); got.RefreshToken != want.RefreshToken || !got.AuthorizedAt.Equal(want.AuthorizedAt) {
				t.Errorf("authorization of %s with %q, want of %s with %q", got.AuthorizedAt, got.RefreshToken, want.AuthorizedAt, want.RefreshToken)
			}
		})
	}
}
