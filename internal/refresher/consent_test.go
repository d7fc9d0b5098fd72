package refresher_test

import (
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/wechatsim"
)

// merchant is somebody who authorizes by a link, and the browser with which that is done.
type merchant struct {
	*rig
	id, session string
	redirect    events.Auth // ingest's event of the redirect
	push        events.Auth // WeChat's, which the rig has kept
}

// consents has an account authorize by a link: the platform has sent the browser back and has pushed the event, and nobody
// knows of either yet.
func (r *rig) consents(account string, q events.ConnectCreate) *merchant {
	r.Helper()
	m := &merchant{rig: r, id: r.link(q).ID}
	m.consent(account)
	return m
}

// consent opens the landing page, follows its link, and consents at WeChat.
func (m *merchant) consent(account string) {
	m.Helper()
	m.keep()
	page := m.open(events.ConnectOpen{ID: m.id})
	m.session = page.Session
	link, err := url.Parse(page.PCLink)
	m.must(err)
	location, err := m.sim.Consent(appid, account, link.Query().Get("pre_auth_code"), link.Query().Get("redirect_uri"))
	m.must(err)
	back, err := url.Parse(location)
	m.must(err)
	now := m.clock.Now().UTC()
	m.redirect = events.Auth{
		Kind: events.KindCallback, Component: appid, CreateTime: now, ReceivedAt: now,
		Code: back.Query().Get("auth_code"), Connect: m.id,
	}
	kind := events.KindAuthorized
	m.eventually(func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, a := range m.held {
			if a.PreAuthCode == link.Query().Get("pre_auth_code") {
				kind = a.Kind
				return nil
			}
		}
		return errors.New("no push yet")
	})
	m.push = m.next(kind)
}

// comesBack is what ingest does when the browser comes back.
func (m *merchant) comesBack() {
	m.Helper()
	m.open(events.ConnectOpen{ID: m.id, Step: events.StepCallback, Session: m.session, CodeSHA256: sha(m.redirect.Code)})
	m.send(m.redirect)
}

// result is what the page after that asks.
func (m *merchant) result() events.ConnectOpened {
	m.Helper()
	return m.open(events.ConnectOpen{ID: m.id, Step: events.StepResult, Session: m.session})
}

// ended waits for the state in which a link ends.
func (m *merchant) ended(want string) (o events.ConnectOpened) {
	m.Helper()
	m.eventually(func() error {
		if o = m.result(); o.State != want {
			return fmt.Errorf("the link is %q (%s), want %q", o.State, o.Reason, want)
		}
		return nil
	})
	return o
}

// wantAuthorized waits until a merchant's account is authorized under a ref, and all is as it should be.
func (m *merchant) wantAuthorized(account, ref string) {
	m.Helper()
	m.ended(events.ConnectAuthorized)
	m.eventually(func() error { return m.accepted(account) })
	m.drained()
	key := wxtoken.AuthorizerKey(appid, account)
	m.must(m.accepted(account))
	m.wantScheduled(key)
	if s := m.state(key, wxtoken.StateActive); s.Authorizer == nil || s.Authorizer.Ref != ref {
		m.Errorf("the status tells of %+v, want the ref %q", s.Authorizer, ref)
	}
	cred := m.credential(key)
	if cred.Ref != ref || cred.Claim != nil || !m.sim.AcceptsRefresh(appid, account, cred.RefreshToken) {
		m.Errorf("the credential: ref %q, claim %v, want ref %q, and a good refresh token", cred.Ref, cred.Claim, ref)
	}
	m.wantDead(0)
}

// wantDead fails the test unless so many events could not be processed.
func (r *rig) wantDead(want uint64) {
	r.Helper()
	dead, err := r.js.Stream(r.Context(), events.StreamDead)
	r.must(err)
	if n := dead.CachedInfo().State.Msgs; n != want {
		r.Errorf("%d messages on DEAD, want %d", n, want)
	}
}

// The orders in which the news of an authorization by link comes. Each ends in the same place, after one exchange.
var orders = []struct {
	name  string
	comes func(m *merchant)
}{
	{"redirect, then push", func(m *merchant) {
		m.comesBack()
		m.ended(events.ConnectAuthorized)
		m.send(m.push)
	}},
	{"push, then redirect", func(m *merchant) {
		m.send(m.push)
		m.ended(events.ConnectAuthorized)
		m.comesBack()
	}},
	{"push lost", func(m *merchant) { m.comesBack() }},
	{"redirect lost", func(m *merchant) { m.send(m.push) }},
	{"both at once", func(m *merchant) {
		m.send(m.push)
		m.comesBack()
	}},
	{"both at once, WeChat slow", func(m *merchant) {
		m.fail(wechatsim.Fault{API: apiExchange, Mode: wechatsim.FaultSlow, Delay: 500 * time.Millisecond})
		m.send(m.push)
		m.comesBack()
	}},
	{"each again and again", func(m *merchant) {
		for range 3 {
			m.comesBack()
			m.send(m.push)
		}
		m.ended(events.ConnectAuthorized)
		for range 2 {
			m.comesBack()
			m.send(m.push)
		}
	}},
}

func TestConsent(t *testing.T) {
	t.Parallel()
	for _, twoCodes := range []bool{false, true} {
		for _, row := range orders {
			t.Run(fmt.Sprintf("%s, two codes %t", row.name, twoCodes), func(t *testing.T) {
				r := newRig(t, options{sim: wechatsim.Config{TwoCodes: twoCodes}, cfg: withLinks})
				m := r.consents(alice, events.ConnectCreate{Ref: "7", Return: "https://shop.example.com/done?x=%20y"})
				failed := watchFailure(m)
				row.comes(m)
				m.wantAuthorized(alice, "7")
				if failed() {
					t.Error("the page said for a while that it had failed")
				}
				r.wantCalls(apiExchange, 1)
				o := m.result()
				back, err := url.Parse(o.ReturnTo)
				if err != nil || !strings.HasPrefix(o.ReturnTo, "https://shop.example.com/done?") || o.Authorizer != alice || !strings.Contains(o.NickName, alice) {
					t.Errorf("the result is %+v", o)
				}
				for name, want := range map[string]string{"x": " y", "authorizer_appid": alice, "component_appid": appid, "ref": "7"} {
					if v := back.Query()[name]; len(v) != 1 || v[0] != want {
						t.Errorf("return_to has %s %q, want %q", name, v, want)
					}
				}
				r.wantOpenRefused(events.ConnectOpen{ID: m.id}, "410")
				if row.name != "push lost" {
					if s := r.status(aliceKey); s.Authorizer.AuthorizedAt == nil || !s.Authorizer.AuthorizedAt.Equal(m.push.CreateTime) {
						t.Errorf("authorized_at is %v, want that of the push, %v", s.Authorizer.AuthorizedAt, m.push.CreateTime)
					}
				}
			})
		}
	}
}

// watchFailure looks at a link all the time, as the page that waits does, until the returned function is called. That one
// tells whether it was ever told that the authorization had failed.
func watchFailure(m *merchant) func() bool {
	var failed atomic.Bool
	var watching sync.WaitGroup
	end := make(chan struct{})
	watching.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			c, _, err := m.store.Connect(m.Context(), m.id)
			if err == nil && c.State == events.ConnectFailed {
				failed.Store(true)
			}
			time.Sleep(time.Millisecond)
		}
	})
	stop := sync.OnceFunc(func() {
		close(end)
		watching.Wait()
	})
	m.Cleanup(stop)
	return func() bool {
		stop()
		return failed.Load()
	}
}

// TestRedirectsAnswerLost loses WeChat's answer to the redirect's code: it is spent, and for which account only the push
// can tell. Until that had time to come the link has not failed.
func TestRedirectsAnswerLost(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	failed := watchFailure(m)
	r.fail(wechatsim.Fault{API: apiExchange, Mode: wechatsim.FaultLost, Times: 1})
	m.comesBack()
	r.until("nobody waits for the push", func() bool { return r.log.count("waiting for the push", "message put off") >= 3 })
	m.send(m.push)
	m.wantAuthorized(alice, "7")
	if failed() {
		t.Error("the page said for a while that it had failed")
	}
	r.wantCalls(apiExchange, 3) // lost, spent, and the push's
}

// answerLost consents at WeChat, loses the answer to the redirect's code, and returns when the redirect waits for the push.
func (r *rig) answerLost() *merchant {
	r.Helper()
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	r.fail(wechatsim.Fault{API: apiExchange, Mode: wechatsim.FaultLost, Times: 1})
	m.comesBack()
	r.until("nobody waits for the push", func() bool { return r.log.count("waiting for the push", "message put off") >= 1 })
	return m
}

// claim claims a link for the event of a sequence on AUTH.
func (m *merchant) claim(sequence uint64, until time.Time) {
	m.Helper()
	m.must(m.store.UpdateConnect(m.Context(), m.id, m.clock.Now(), func(link *store.Connect) bool {
		link.Claim = &account.Claim{By: "another", For: fmt.Sprintf("auth/%d", sequence), Until: until}
		return true
	}))
}

// TestPushFailsAfterPutOffs loses WeChat's answer to the push's code, too, after the push was put off several times. That it
// was put off is no failure: while the merchant's browser waits it is tried again in time.
func TestPushFailsAfterPutOffs(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	m := r.answerLost()
	failed := watchFailure(m)
	m.claim(0, r.clock.Now().Add(time.Hour))
	m.send(m.push)
	auth, err := r.js.Stream(r.Context(), events.StreamAuth)
	r.must(err)
	r.until("the push is not put off", func() bool { return r.log.count("the other code of the link", "message put off") >= 5 })
	r.fail(wechatsim.Fault{API: apiExchange, Mode: wechatsim.FaultLost, Times: 1})
	m.claim(auth.CachedInfo().State.LastSeq, r.clock.Now().Add(time.Hour)) // now it is the push's own
	m.wantAuthorized(alice, "7")
	if failed() {
		t.Error("the page said for a while that it had failed")
	}
	r.wantCalls(apiExchange, 4) // lost, spent, the push's lost, and spent
}

// TestPushAtWorkWhenPatienceEnds has the push's handler at work when the redirect's patience ends: the link waits for it,
// and no longer than its claim. Should the push end after all that, its account has the link.
func TestPushAtWorkWhenPatienceEnds(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	m := r.answerLost()
	m.claim(0, r.clock.Now().Add(time.Minute))
	r.clock.forward(10 * time.Second)
	waits := func() int { return r.log.count("waiting for the push", "message put off") }
	before := waits()
	r.until("the redirect does not wait", func() bool {
		if m.result().State == events.ConnectFailed {
			t.Fatal("failed while the push is at work")
		}
		return waits() >= before+2
	})
	r.clock.forward(time.Minute)
	m.ended(events.ConnectFailed)
	m.send(m.push)
	m.wantAuthorized(alice, "7")
}

// TestStoryOfALink kills the refresher at each step of the exchange of a link's code. Whoever comes next ends the walk in
// the same place.
func TestStoryOfALink(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"exchange.claimed", "exchange.asked", "batch.2", "batch.3", "exchange.committed", "acked"} {
		for _, redirectFirst := range []bool{false, true} {
			if step == "exchange.claimed" && redirectFirst {
				continue // nobody knows yet which account that would claim
			}
			t.Run(fmt.Sprintf("%s, redirect first %t", step, redirectFirst), func(t *testing.T) {
				r := newRig(t, options{sim: wechatsim.Config{TwoCodes: redirectFirst}, cfg: withLinks, idle: true})
				var victim atomic.Pointer[nats.Conn]
				crashed := make(chan struct{})
				r.step = func(name string) {
					if name != step {
						return
					}
					if nc := victim.Swap(nil); nc != nil {
						nc.Close()
						close(crashed)
						runtime.Goexit()
					}
				}
				first := r.start()
				r.ticket()
				r.eventually(r.componentLives)
				r.drained()
				m := r.consents(alice, events.ConnectCreate{Ref: "7"})
				victim.Store(first.nc)
				if redirectFirst {
					m.comesBack()
				} else {
					m.send(m.push)
				}
				<-crashed
				first.stop()
				r.start()
				if redirectFirst {
					m.send(m.push)
				} else {
					m.comesBack()
				}
				m.wantAuthorized(alice, "7")
				if n := r.calls(apiExchange); n > 3 {
					t.Errorf("%d exchanges", n)
				}
			})
		}
	}
}
