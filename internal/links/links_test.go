package links_test

import (
	"testing"
	"time"

	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/links"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 0) }

const (
	component = "wxc0mp0nent000000"
	alice     = "wxa1ice0000000000"
	bob       = "wxb0b000000000000"
)

// rig is the links of one process on a real NATS server. Its clock stands still unless a test turns it.
type rig struct {
	*testing.T
	*links.Links
	now time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	r := &rig{T: t, now: time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC)}
	nc := natsdtest.Start(t).Connect()
	js := natsdtest.JetStream(r.T, nc)
	streamstest.Setup(t, nc, js, events.SetupConfig{MessagesMaxAge: time.Hour})
	opened, err := store.Open(t.Context(), nc, js, nil, nil)
	r.must(err)
	r.Links = &links.Links{
		Settings: links.Settings{PublicURL: "https://wx.example.com"}, ID: "one", Log: zerolog.Nop(),
		Now:   func() time.Time { return r.now },
		Store: func() *store.Store { return opened },
		Gate:  func(appid string) (*gate.Gate, bool) { return nil, appid == component },
	}
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// create makes a link, and returns its record as an event finds it.
func (r *rig) create(q events.ConnectCreate) *store.Connect {
	r.Helper()
	q.Component = component
	created, err := r.Create(r.Context(), q)
	r.must(err)
	return r.byID(created.ID)
}

// byID returns the link of a redirect's event.
func (r *rig) byID(id string) *store.Connect {
	r.Helper()
	link, err := r.Of(r.Context(), events.Auth{Component: component, Connect: id})
	r.must(err)
	if link == nil {
		r.Fatal("the link is not found")
	}
	return link
}

// wantEnd fails the test unless the link ended so.
func (r *rig) wantEnd(link *store.Connect, state, authorizer, reason string) {
	r.Helper()
	if got := r.byID(link.ID); got.State != state || got.Authorizer != authorizer || got.Reason != reason {
		r.Errorf("the link is %s, of %q, because of %q; want %s, of %q, because of %q", got.State, got.Authorizer, got.Reason, state, authorizer, reason)
	}
}

// authorized returns the credential of an account that has a ref.
func authorized(appid, ref string) account.Credential {
	return account.Credential{Key: wxtoken.AuthorizerKey(component, appid), Ref: ref}
}

// TestOf: an event finds its link by id or by pre-auth code, and none of another component.
func TestOf(t *testing.T) {
	r := newRig(t)
	link := r.create(events.ConnectCreate{Ref: "7"})
	link.PreAuthCode, link.PreAuthExpiresAt = "preauthcode@@@one", r.now.Add(time.Hour)
	r.must(r.Store().IndexConnect(t.Context(), *link, r.now))
	for _, row := range []struct {
		name  string
		event events.Auth
		found bool
	}{
		{"the redirect", events.Auth{Component: component, Connect: link.ID}, true},
		{"the push", events.Auth{Component: component, PreAuthCode: "preauthcode@@@one"}, true},
		{"a push without a link", events.Auth{Component: component, PreAuthCode: "preauthcode@@@two"}, false},
		{"an event that names nothing", events.Auth{Component: component}, false},
		{"a link that is not there", events.Auth{Component: component, Connect: "NOBODY"}, false},
		{"another component's redirect", events.Auth{Component: "wx0ther", Connect: link.ID}, false},
		{"another component's push", events.Auth{Component: "wx0ther", PreAuthCode: "preauthcode@@@one"}, false},
	} {
		got, err := r.Of(t.Context(), row.event)
		r.must(err)
		if (got != nil) != row.found || got != nil && got.Ref != "7" {
			t.Errorf("%s: a link is found: %t, want %t", row.name, got != nil, row.found)
		}
	}
}

// TestFor: a link is one authorization, and may be limited to one account.
func TestFor(t *testing.T) {
	r := newRig(t)
	open, limited, done := r.create(events.ConnectCreate{}), r.create(events.ConnectCreate{BizAppID: alice}), r.create(events.ConnectCreate{})
	r.must(r.Finish(t.Context(), done, authorized(alice, "")))
	done = r.byID(done.ID)
	for _, row := range []struct {
		name    string
		link    *store.Connect
		account string
		is      bool
	}{
		{"none", nil, alice, false},
		{"for all", open, alice, true},
		{"for that one", limited, alice, true},
		{"done by that one", done, alice, true},
		{"done by another", done, bob, false},
	} {
		got, err := r.For(t.Context(), row.link, row.account)
		r.must(err)
		if (got != nil) != row.is {
			t.Errorf("%s: it is one for the account: %t, want %t", row.name, got != nil, row.is)
		}
	}
	r.wantEnd(limited, events.ConnectPending, "", "")
	got, err := r.For(t.Context(), limited, bob)
	r.must(err)
	if got != nil {
		t.Error("an account got the ref of a link for another")
	}
	r.wantEnd(limited, events.ConnectFailed, "", "another_account")
	r.wantEnd(done, events.ConnectAuthorized, alice, "")
}

// TestClaim: one of a link's two codes is exchanged at a time.
func TestClaim(t *testing.T) {
	r := newRig(t)
	push, redirect := events.Msg{Sequence: 1, Deliveries: 1}, events.Msg{Sequence: 2, Deliveries: 1}
	r.must(r.Claim(t.Context(), nil, push)) // no link, nothing to claim
	link := r.create(events.ConnectCreate{})
	stale := *link
	r.must(r.Claim(t.Context(), link, push))
	wantLater := func(what string, link *store.Connect, m events.Msg) {
		t.Helper()
		if _, later := events.After(r.Claim(t.Context(), link, m)); !later {
			t.Errorf("%s is not put off", what)
		}
	}
	wantLater("what another changed meanwhile", &stale, redirect)
	wantLater("the other code", r.byID(link.ID), redirect)
	wantLater("the other code, again", r.byID(link.ID), events.Msg{Sequence: 2, Deliveries: 2, Redelivered: true})
	wantLater("the same code, elsewhere at work", r.byID(link.ID), push)
	r.must(r.Claim(t.Context(), r.byID(link.ID), events.Msg{Sequence: 1, Deliveries: 2, Redelivered: true}))
	r.must(r.NoteSpent(t.Context(), link))
	r.must(r.Claim(t.Context(), r.byID(link.ID), redirect)) // spent: the other one has its turn
	r.now = r.now.Add(account.ClaimFor)
	r.must(r.Claim(t.Context(), r.byID(link.ID), push)) // the claim has ended
}

// TestEnd: the account that is known stays known, and a link that failed may still come to something.
func TestEnd(t *testing.T) {
	r := newRig(t)
	r.must(r.Finish(t.Context(), nil, authorized(alice, "")))
	r.must(r.Fail(t.Context(), nil, "", "spent"))

	link := r.create(events.ConnectCreate{Ref: "7"})
	r.must(r.Claim(t.Context(), link, events.Msg{Sequence: 1}))
	r.must(r.Fail(t.Context(), link, "", "spent"))
	r.wantEnd(link, events.ConnectFailed, "", "spent")
	if got := r.byID(link.ID); got.Claim != nil || !got.EndedAt.Equal(r.now) {
		t.Errorf("a link that failed: claim %v, ended %v", got.Claim, got.EndedAt)
	}
	r.must(r.Finish(t.Context(), link, authorized(alice, "7")))
	r.wantEnd(link, events.ConnectAuthorized, alice, "")
	r.must(r.Fail(t.Context(), link, "", "spent"))
	r.must(r.Finish(t.Context(), link, authorized(bob, "7")))
	r.wantEnd(link, events.ConnectAuthorized, alice, "")

	link = r.create(events.ConnectCreate{Ref: "7"})
	r.must(r.Finish(t.Context(), link, authorized(alice, "8")))
	r.wantEnd(link, events.ConnectConflict, alice, "")
	link = r.create(events.ConnectCreate{})
	r.must(r.Finish(t.Context(), link, authorized(alice, "8")))
	r.wantEnd(link, events.ConnectAuthorized, alice, "")
}

// TestReauthorize: an account that has to authorize again gets a link for itself, with its ref.
func TestReauthorize(t *testing.T) {
	r := newRig(t)
	address := r.Reauthorize(t.Context(), authorized(alice, "7"))
	const prefix = "https://wx.example.com/connect/"
	if len(address) <= len(prefix) || address[:len(prefix)] != prefix {
		t.Fatalf("the link is %q", address)
	}
	if link := r.byID(address[len(prefix):]); link.BizAppID != alice || link.Ref != "7" || !link.ExpiresAt.Equal(r.now.Add(7*24*time.Hour)) {
		t.Errorf("the link is for %s, with the ref %q, until %v", link.BizAppID, link.Ref, link.ExpiresAt)
	}
	// It stays while it is good: unopened or opened, for the same ref, with a day left.
	told := func(address string) {
		r.must(r.Store().UpdateStatus(t.Context(), wxtoken.AuthorizerKey(component, alice), func(s *wxtoken.Status) { s.ReauthorizeURL = address }))
	}
	told(address)
	r.now = r.now.Add(6 * 24 * time.Hour)
	if again := r.Reauthorize(t.Context(), authorized(alice, "7")); again != address {
		t.Errorf("another link, %s, while the first is good", again)
	}
	for _, row := range []struct {
		name, ref string
		change    func()
	}{
		{"too old", "7", func() { r.now = r.now.Add(time.Second) }},
		{"of another address", "7", func() { r.PublicURL = "https://other.example.com" }},
		{"of another ref", "8", func() {}},
		{"used up", "7", func() { r.must(r.Finish(t.Context(), r.byID(address[len(prefix):]), authorized(alice, "7"))) }},
	} {
		before, url := r.now, r.PublicURL
		row.change()
		if again := r.Reauthorize(t.Context(), authorized(alice, row.ref)); again == "" || again == address {
			t.Errorf("%s: the link is %q", row.name, again)
		}
		r.now, r.PublicURL = before, url
	}
	if address := r.Reauthorize(t.Context(), account.Credential{Key: wxtoken.ComponentKey(component)}); address != "" {
		t.Errorf("a component gets a link: %s", address)
	}
	r.PublicURL = ""
	if address := r.Reauthorize(t.Context(), authorized(alice, "7")); address != "" {
		t.Errorf("without a public URL there is a link: %s", address)
	}
}
