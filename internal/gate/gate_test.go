package gate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/internal/wechat"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 0) }

const (
	component = "wxc0mp0nent000000"
	alice     = "wxa1ice0000000000"
	secret    = "SEKRET-appsecret"
)

var componentKey = wxtoken.ComponentKey(component)

// rig is a store on a real NATS server, and the clock of all processes.
type rig struct {
	*testing.T
	nc    *nats.Conn
	store *store.Store
	view  *store.View

	mu      sync.Mutex
	now     time.Time
	counted []wechat.API
	refused []wxtoken.Token
}

func newRig(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	r := &rig{T: t, now: time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC)} // noon in China
	r.nc = natsdtest.Start(t).Connect()
	js := natsdtest.JetStream(t, r.nc)
	streamstest.Setup(t, r.nc, js, events.SetupConfig{MessagesMaxAge: time.Hour})
	var err error
	if r.store, err = store.Open(t.Context(), r.nc, js, nil, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.store.Run(ctx) })
	view, wait, err := r.store.Watch(ctx, zerolog.Nop(), nil)
	t.Cleanup(func() {
		cancel()
		if err == nil {
			wait()
		}
		running.Wait()
	})
	if err != nil {
		t.Fatal(err)
	}
	r.view = view
	return r
}

// process returns the gate of a process.
func (r *rig) process(id string) *gate.Gate {
	p := &gate.Process{
		ID: id, Rate: 10_000, ListGood: 12 * time.Hour, Log: zerolog.Nop(), Now: r.clock,
		Store: func() *store.Store { return r.store }, View: func() *store.View { return r.view },
		Counted: func(_ string, api wechat.API) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.counted = append(r.counted, api)
		},
		Changed: func(context.Context, string) {},
		Refused: func(_ context.Context, t wxtoken.Token) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.refused = append(r.refused, t)
			return nil
		},
		Opened: func() {},
	}
	return p.New(component, wxtoken.NewSecret(secret))
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) forward(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

// commit stores a token that lives for two hours, and waits until it is in the view. A component gets a ticket as well.
func (r *rig) commit(key wxtoken.Key, value string) wxtoken.Token {
	r.Helper()
	cred, err := r.store.Credential(r.Context(), key)
	if err != nil {
		r.Fatal(err)
	}
	now := r.clock()
	cred.Generation++
	if key.Kind == wxtoken.KindComponent {
		cred.Ticket, cred.TicketCreatedAt = "ticket@@@1", now
	} else {
		cred.RefreshToken = "refreshtoken@@@1"
	}
	t := wxtoken.Token{
		Key: key, Value: wxtoken.NewSecret(value), Generation: cred.Generation,
		ObtainedAt: now, ExpiresAt: now.Add(2 * time.Hour), RenewAt: now.Add(time.Hour),
	}
	if _, err := r.store.Commit(r.Context(), cred, t); err != nil {
		r.Fatal(err)
	}
	looktest.Until(r, "the view is behind", func() bool {
		e, _ := r.view.Get(key)
		return e.Token.Generation == t.Generation && e.Credential.Generation == t.Generation
	})
	return t
}

// make makes a call that is answered so.
func (r *rig) make(g *gate.Gate, call gate.Call, answer error) error {
	return g.Do(r.Context(), call, func(string) error { return answer })
}

// reasons are the names of what holds a component back.
func reasons(g *gate.Gate) (names []wxtoken.Reason) {
	for _, h := range g.Holds() {
		names = append(names, h.Reason)
	}
	return slices.Compact(names)
}

var (
	renewal = gate.Call{API: wechat.APIAuthorizerToken, Account: alice}
	list    = gate.Call{API: wechat.APIAuthorizerList}
	own     = gate.Call{API: wechat.APIComponentToken}
)

func refusal(call gate.Call, code int) error { return &wechat.Error{API: call.API, Code: code} }

// open reports whether a call would be made.
func open(ctx context.Context, g *gate.Gate, call gate.Call) bool {
	wait, why := g.Held(ctx, call)
	_, err := g.Admit(ctx, call)
	if later, ok := events.After(err); ok != (wait > 0) || ok && (later <= 0 || why == "") || err != nil && !ok {
		panic(fmt.Sprintf("held for %v (%s), and admitted with %v", wait, why, err))
	}
	return err == nil
}

// TestMadeWith: a call is made with the token that it takes, and not without.
func TestMadeWith(t *testing.T) {
	r := newRig(t)
	g := r.process("one")
	custom := gate.Call{API: wechat.APICustomSend, Account: alice}
	for _, call := range []gate.Call{renewal, list, custom} {
		if open(t.Context(), g, call) {
			t.Errorf("%s was made without a token", call.API)
		}
	}
	r.commit(componentKey, "component-token")
	r.commit(wxtoken.AuthorizerKey(component, alice), "account-token")
	for call, want := range map[gate.Call]string{own: secret, renewal: "component-token", list: "component-token", custom: "account-token"} {
		err := g.Do(t.Context(), call, func(with string) error {
			if with != want {
				t.Errorf("%s was made with %q, want %q", call.API, with, want)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", call.API, err)
		}
	}
	if len(r.counted) != 4 {
		t.Errorf("counted: %v", r.counted)
	}
	// A turn that is not used is no call; and one that comes too late for its token makes none.
	turn, err := g.Admit(t.Context(), renewal)
	if err != nil {
		t.Fatal(err)
	}
	r.forward(3 * time.Hour)
	err = turn.Make(t.Context(), func(string) error {
		t.Error("made with a dead token")
		return nil
	})
	if _, later := events.After(err); !later || len(r.counted) != 4 {
		t.Errorf("%v, counted: %v", err, r.counted)
	}
}

// TestReasons has WeChat answer a call, and looks what is closed because of it: for this process and for another.
func TestReasons(t *testing.T) {
	for _, row := range []struct {
		name    string
		call    gate.Call
		code    int
		reason  wxtoken.Reason
		state   wxtoken.State
		closed  []gate.Call // for the process that met it
		theirs  []gate.Call // and for the other one
		opens   time.Duration
		recover gate.Call // whose good answer ends it; none: the time does
	}{
		{name: "a good answer", call: renewal},
		{name: "busy, once", call: renewal, code: -1},
		{name: "of one account", call: renewal, code: 61003},
		{name: "limit of the minute", call: renewal, code: 45011, reason: wxtoken.HeldMinuteLimit, closed: []gate.Call{renewal}, opens: time.Minute, recover: renewal},
		{name: "quota of the day", call: renewal, code: 45009, reason: wxtoken.HeldQuota, state: wxtoken.StateOperator,
			closed: []gate.Call{renewal}, theirs: []gate.Call{renewal}, opens: 12 * time.Hour},
		{name: "address", call: list, code: 61004, reason: wxtoken.HeldRefused, state: wxtoken.StateOperator,
			closed: []gate.Call{renewal, list, own}, opens: time.Minute, recover: renewal},
		{name: "secret", call: own, code: 40125, reason: wxtoken.HeldRefused, state: wxtoken.StateOperator, opens: time.Minute, recover: own},
		{name: "ticket", call: own, code: 61006, reason: wxtoken.HeldNoTicket, state: wxtoken.StateWaitingForTicket, recover: own},
		{name: "a question aside", call: gate.Call{API: wechat.APIQuotaGet}, code: 76022},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t)
			one, two := r.process("one"), r.process("two")
			r.commit(componentKey, "component-token")
			var answer error
			if row.code != 0 {
				answer = refusal(row.call, row.code)
			}
			if err := r.make(one, row.call, answer); !errors.Is(err, answer) {
				t.Fatal(err)
			}
			if row.reason == "" {
				if got := reasons(one); len(got) > 0 || !open(t.Context(), one, row.call) {
					t.Errorf("held back: %v", got)
				}
				return
			}
			looktest.Until(r, "the other does not know", func() bool { return slices.Equal(reasons(two), []wxtoken.Reason{row.reason}) })
			if h := one.Holds(); len(h) != 1 || h[0].Reason != row.reason || gate.State(h[0]) != row.state || h[0].Error == nil || h[0].Error.Code != row.code {
				t.Errorf("held back: %+v", h)
			}
			for _, call := range []gate.Call{renewal, list, own} {
				if got := open(t.Context(), one, call); got == slices.Contains(row.closed, call) {
					t.Errorf("%s is open: %t", call.API, got)
				}
				if got := open(t.Context(), two, call); got == slices.Contains(row.theirs, call) {
					t.Errorf("%s is open for the other: %t", call.API, got)
				}
			}
			if row.opens > 0 {
				r.forward(row.opens - time.Second)
				r.commit(componentKey, "component-token-2") // else there is none by then
				for _, call := range row.closed {
					if open(t.Context(), one, call) {
						t.Errorf("%s is open too early", call.API)
					}
				}
				r.forward(time.Second)
				for _, call := range row.closed {
					if !open(t.Context(), one, call) {
						t.Errorf("%s is still closed", call.API)
					}
				}
			}
			if row.recover.API != "" {
				if err := r.make(one, row.recover, nil); err != nil {
					t.Fatal(err)
				}
			}
			if got := reasons(one); len(got) > 0 {
				t.Errorf("still held back: %v", got)
			}
			looktest.Until(r, "the other still shows it", func() bool { return len(reasons(two)) == 0 })
		})
	}
}

// TestLeave: what a process met goes with it, and what it called stays.
func TestLeave(t *testing.T) {
	r := newRig(t)
	one, two := r.process("one"), r.process("two")
	r.commit(componentKey, "component-token")
	_ = r.make(one, list, refusal(list, 61004))
	looktest.Until(r, "not shared", func() bool { return len(reasons(two)) == 1 })
	one.Leave(t.Context())
	looktest.Until(r, "left behind", func() bool { return len(reasons(two)) == 0 })
	if q, err := r.store.Quota(t.Context(), component); err != nil || q.Calls[string(wechat.APIAuthorizerList)] != 1 {
		t.Errorf("counted: %v, %v", q.Calls, err)
	}
}

// TestLeaveBeforeTheViewHears: what was met last goes with a process, too, whose view has not heard of it yet.
func TestLeaveBeforeTheViewHears(t *testing.T) {
	r := newRig(t)
	one, two := r.process("one"), r.process("two")
	r.commit(componentKey, "component-token")
	ctx, cancel := context.WithCancel(t.Context())
	behind, wait, err := r.store.Watch(ctx, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // it hears no more
	wait()
	view := r.view
	r.view = behind
	_ = r.make(one, list, refusal(list, 61004))
	one.Leave(t.Context())
	if q, err := r.store.Quota(t.Context(), component); err != nil || len(q.Held) != 0 {
		t.Errorf("left behind: %v, %v", q.Held, err)
	}
	r.view = view
	looktest.Until(r, "still held back", func() bool { return len(reasons(two)) == 0 })
}

// TestTokenRefused has WeChat refuse the component's token in many calls at once: one renewal is asked for, and nothing
// more is called until there is another token, which this process may know before its view does.
func TestTokenRefused(t *testing.T) {
	r := newRig(t)
	g := r.process("one")
	first := r.commit(componentKey, "component-token")
	var turns []gate.Turn // all before the first call: its refusal closes the gate
	for range 20 {
		turn, err := g.Admit(t.Context(), renewal)
		if err != nil {
			t.Fatal(err)
		}
		turns = append(turns, turn)
	}
	var calling sync.WaitGroup
	for _, turn := range turns {
		calling.Go(func() {
			err := turn.Make(t.Context(), func(string) error { return refusal(renewal, 40001) })
			if _, later := events.After(err); err == nil || later && !strings.Contains(err.Error(), "refused") {
				t.Errorf("%v", err)
			}
		})
	}
	calling.Wait()
	if len(r.refused) != 1 || r.refused[0].Generation != first.Generation {
		t.Errorf("%d renewals asked for", len(r.refused))
	}
	if open(t.Context(), g, list) || !open(t.Context(), g, own) {
		t.Error("calls go on with a refused token, or its renewal does not")
	}
	if got := reasons(g); !slices.Equal(got, []wxtoken.Reason{wxtoken.HeldTokenRefused}) {
		t.Errorf("held back: %v", got)
	}
	next := first
	next.Generation, next.Value = first.Generation+1, wxtoken.NewSecret("component-token-2")
	g.KnowToken(next, r.view.Seen()+1)
	if err := g.Do(t.Context(), list, func(with string) error {
		if with != "component-token-2" {
			t.Errorf("made with %q", with)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestListFirst has data that is old: the renewals wait for WeChat's list, which is asked for once, and not for ever.
func TestListFirst(t *testing.T) {
	r := newRig(t)
	g := r.process("one")
	dead := r.commit(wxtoken.AuthorizerKey(component, alice), "account-token")
	r.forward(5 * time.Hour)
	r.commit(componentKey, "component-token")
	call := renewal
	call.Last = account.LifeOf(dead)
	asked, err := r.nc.SubscribeSync(events.ReconcileDueSubject(component))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if !g.Unlisted(call) || open(t.Context(), g, call) {
			t.Fatal("renewed although the data is old")
		}
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := asked.Pending(); err != nil || n != 1 {
		t.Errorf("the list was asked for %d times: %v", n, err)
	}
	if !open(t.Context(), g, renewal) || !open(t.Context(), g, list) {
		t.Error("other calls wait, too")
	}
	if got := reasons(g); !slices.Equal(got, []wxtoken.Reason{wxtoken.HeldListFirst}) {
		t.Errorf("held back: %v", got)
	}
	r.forward(3 * time.Minute)
	if !open(t.Context(), g, call) {
		t.Error("they wait for ever")
	}
	g.WantNoList()
	if open(t.Context(), g, call) {
		t.Error("they don't wait for the next one")
	}
	g.NoteList(t.Context(), r.clock())
	looktest.Until(r, "still waiting for a list that was read", func() bool { return !g.Unlisted(call) && open(t.Context(), g, call) })
	r.forward(13 * time.Hour)
	if !g.Unlisted(call) {
		t.Error("a reading counts for ever")
	}
	r.commit(componentKey, "component-token")
	if open(t.Context(), g, call) { // although no sweep has noted that the wait is over
		t.Error("who waited for one reading doesn't wait for the next")
	}
	looktest.Until(r, "the next list is not asked for", func() bool { n, _, err := asked.Pending(); return err == nil && n >= 3 })
}

// TestDoubted has many accounts refused at once: that is not believed, and closes no call.
func TestDoubted(t *testing.T) {
	r := newRig(t)
	g := r.process("one")
	r.commit(componentKey, "component-token")
	for i := range 5 {
		call := gate.Call{API: wechat.APIAuthorizerToken, Account: fmt.Sprint("wxa", i)}
		_ = r.make(g, call, refusal(call, 61003))
	}
	if g.Believes() || !open(t.Context(), g, renewal) {
		t.Error("five of five refusals are believed, or stop the calls")
	}
	if got := reasons(g); !slices.Equal(got, []wxtoken.Reason{wxtoken.HeldDoubted}) {
		t.Errorf("held back: %v", got)
	}
	g.Sweep(t.Context())
	two := r.process("two")
	looktest.Until(r, "the other does not know", func() bool { return len(reasons(two)) == 1 })
	if !two.Believes() {
		t.Error("the other doubts what it did not see")
	}
	r.forward(6 * time.Minute)
	if !g.Believes() || len(reasons(g)) > 0 {
		t.Errorf("still doubted: %v", reasons(g))
	}
}

// TestAnotherCallsQuota: who asks for a call that waits for the component's token hears of that, and not that the quota of
// the accounts' renewals is gone for the day.
func TestAnotherCallsQuota(t *testing.T) {
	r := newRig(t)
	g := r.process("one")
	r.commit(componentKey, "component-token")
	g.KnowTicket(r.clock())
	if err := r.make(g, renewal, refusal(renewal, 45009)); err == nil {
		t.Fatal("the quota is not gone")
	}
	looktest.Until(r, "a renewal is not put off for the day", func() bool {
		until, why := g.NotBefore(renewal.API, 0)
		return until.Sub(r.clock()) > time.Hour && strings.Contains(why.ZH, "额度用完")
	})
	if until, why := g.NotBefore(wechat.APIAuthorizerInfo, 0); !until.IsZero() {
		t.Errorf("for another call: %v, %+v", until, why)
	}
	r.forward(2*time.Hour + time.Minute)
	g.KnowTicket(r.clock())
	until, why := g.NotBefore(wechat.APIAuthorizerInfo, 0)
	if until.IsZero() || until.Sub(r.clock()) > time.Minute || strings.Contains(why.EN, "quota") || !strings.Contains(why.ZH, "平台令牌已过期") {
		t.Errorf("once the component's token is dead: %v, %+v", until, why)
	}
}

// TestNoTicket: without a ticket, and with one that is too old, that is the reason, whatever else is wrong.
func TestNoTicket(t *testing.T) {
	r := newRig(t)
	g := r.process("one")
	if got := reasons(g); !slices.Equal(got, []wxtoken.Reason{wxtoken.HeldNoTicket}) {
		t.Errorf("without a ticket: %v", got)
	}
	g.KnowTicket(r.clock())
	if got := reasons(g); !slices.Equal(got, []wxtoken.Reason{wxtoken.HeldTokenDead}) {
		t.Errorf("with one: %v", got)
	}
	until, why := g.NotBefore(wechat.APIAuthorizerList, 0)
	if until.IsZero() || !strings.Contains(why.EN, "no token that lives") {
		t.Errorf("an operator is told %v, %q", until, why)
	}
	if until, _ := g.NotBefore(wechat.APIComponentToken, 0); !until.IsZero() {
		t.Errorf("the component itself has to wait until %v", until)
	}
	r.forward(13 * time.Hour)
	if got := g.Holds(); len(got) != 1 || got[0].Reason != wxtoken.HeldNoTicket || got[0].Message == account.NoTicketYet {
		t.Errorf("with an old one: %+v", got)
	}
}
