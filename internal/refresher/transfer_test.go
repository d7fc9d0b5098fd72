package refresher_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/refresher"
	"wxtoken/internal/store"
	"wxtoken/internal/streams"
	"wxtoken/internal/transfer"
	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

// imports imports lines and returns the fates, such as "new:1 same:2".
func (r *rig) imports(apply bool, lines ...string) string {
	r.Helper()
	report, err := transfer.Import(r.Context(), r.store, r.clock.Now, strings.NewReader(strings.Join(lines, "\n")), []string{appid}, apply)
	r.must(err)
	if report.Applied != apply || report.Lines != len(lines) {
		r.Errorf("report %+v", report)
	}
	var fates []string
	for _, fate := range []string{"new", "newer", "ref", "same", "older", "cancelled", "other_ref"} {
		if n := report.Fates[fate]; n > 0 {
			fates = append(fates, fmt.Sprintf("%s:%d", fate, n))
		}
	}
	return strings.Join(fates, " ")
}

func lineOf(account, refreshToken string, at time.Time) string {
	return fmt.Sprintf(`{"authorizer_appid":%q,"authorizer_refresh_token":%q,"auth_time":%d,"ref":"shop-1"}`, account, refreshToken, at.Unix())
}

// exported exports everything.
func (r *rig) exported() (text string, n int) {
	r.Helper()
	var out bytes.Buffer
	n, err := transfer.Export(r.Context(), r.store, &out)
	r.must(err)
	return out.String(), n
}

func TestImportFates(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.authorize(bob)
	r.clock.forward(time.Minute)
	r.must(r.sim.Cancel(appid, bob))
	r.state(bobKey, wxtoken.StateRevoked)
	cred := r.credential(aliceKey)
	before, after := cred.AuthorizedAt.Add(-time.Hour), r.clock.Now().Add(time.Second)
	for _, row := range []struct{ name, line, want string }{
		{"unknown", lineOf("wxcar0l000000000", "refreshtoken@@@new", before), "new:1"},
		{"the same", fmt.Sprintf(`{"authorizer_appid":%q,"refresh_token":%q}`, alice, cred.RefreshToken), "same:1"},
		{"older", lineOf(alice, "refreshtoken@@@old", before), "older:1"},
		{"of the same second", lineOf(alice, "refreshtoken@@@old", cred.AuthorizedAt), "older:1"},
		{"without a time", fmt.Sprintf(`{"authorizer_appid":%q,"refresh_token":"refreshtoken@@@x"}`, alice), "older:1"},
		{"newer", lineOf(alice, "refreshtoken@@@newer", after), "newer:1"},
		{"cancelled since", lineOf(bob, "refreshtoken@@@old", before), "cancelled:1"},
		{"cancelled, without a time", fmt.Sprintf(`{"authorizer_appid":%q,"refresh_token":"refreshtoken@@@x"}`, bob), "cancelled:1"},
		{"authorized after it was cancelled", lineOf(bob, "refreshtoken@@@newer", after), "new:1"},
	} {
		if got := r.imports(false, row.line); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
	if got := r.credential(aliceKey); got.Revision != cred.Revision || r.credential(wxtoken.AuthorizerKey(appid, "wxcar0l000000000")).Revision != 0 {
		t.Error("a dry run changed something")
	}
	// A faulty line: nothing is taken over, not even the good ones.
	_, err := transfer.Import(t.Context(), r.store, r.clock.Now, strings.NewReader(
		lineOf(alice, "refreshtoken@@@newer", after)+"\nSEKRET\n"), []string{appid}, true)
	if err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "SEKRET") || r.credential(aliceKey).Revision != cred.Revision {
		t.Errorf("a faulty line: %v", err)
	}
	// What is left alone when it is done in earnest.
	if got := r.imports(true, lineOf(alice, "refreshtoken@@@old", before), lineOf(bob, "refreshtoken@@@old", before)); got != "older:1 cancelled:1" {
		t.Errorf("in earnest: %s", got)
	}
	if r.credential(aliceKey).Revision != cred.Revision {
		t.Error("an older line changed the account")
	}
}

// TestImportWaits imports an account that is just being renewed: what comes of that is the newer news, and the line is judged by it.
func TestImportWaits(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultSlow, Delay: time.Second, Times: 1})
	calls := r.calls(apiRefresh)
	r.poke(aliceKey)
	r.until("not called", func() bool { return r.calls(apiRefresh) > calls })
	if got := r.imports(true, lineOf(alice, "refreshtoken@@@another", r.clock.Now().Add(time.Second))); got != "newer:1" {
		t.Errorf("imported: %s", got)
	}
	if c := r.credential(aliceKey); c.Generation != 2 && c.RefreshToken != "refreshtoken@@@another" || r.token(aliceKey).Generation < 2 {
		t.Errorf("the import did not wait for the renewal: generation %d", r.token(aliceKey).Generation)
	}
	// WeChat does not know that refresh token, and tells the good one.
	r.until("not repaired", func() bool { return r.token(aliceKey).Generation >= 3 })
	r.must(r.accepted(alice))
}

func TestExportIsImport(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.authorize(bob)
	r.authorize("wxcar0l000000000")
	r.clock.forward(time.Minute)
	r.must(r.sim.Cancel(appid, "wxcar0l000000000"))
	r.state(wxtoken.AuthorizerKey(appid, "wxcar0l000000000"), wxtoken.StateRevoked)
	text, n := r.exported()
	if n != 2 || strings.Contains(text, "wxcar0l") {
		t.Errorf("%d authorizations were exported, the cancelled one too: %t", n, strings.Contains(text, "wxcar0l"))
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	calls := len(r.sim.History())
	if got := r.imports(true, lines...); got != "same:2" {
		t.Errorf("imported where it came from: %s", got)
	}
	r.drained()
	if n := len(r.sim.History()); n != calls {
		t.Errorf("%d calls because of that", n-calls)
	}
	// To another place.
	other := newRigBeside(r)
	if got := other.imports(true, lines...); got != "new:2" {
		t.Errorf("imported elsewhere: %s", got)
	}
	if again, n := other.exported(); n != 2 || again != text {
		t.Errorf("exported from there: %d, the same text: %t", n, again == text)
	}
}

// newRigBeside returns a rig with an empty NATS server of its own, for what takes no refresher.
func newRigBeside(r *rig) *rig {
	r.Helper()
	other := &rig{T: r.T, nats: natsdtest.Start(r.T), log: r.log, sim: r.sim}
	other.clock.forward(time.Duration(r.clock.ahead.Load()))
	other.nc = other.nats.Connect()
	var err error
	other.js, err = jetstream.New(other.nc)
	r.must(err)
	_, err = streams.Setup(r.Context(), other.nc, other.js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	r.must(err)
	other.store, err = store.Open(r.Context(), other.nc, other.js, nil, nil)
	r.must(err)
	return other
}

// TestMoveFromAnotherKeeper takes over accounts that another keeper holds, whose codes were never ours: the merchants notice
// nothing, and for a while the other keeper's tokens work too.
func TestMoveFromAnotherKeeper(t *testing.T) {
	r := newRig(t, options{idle: true, sim: wechatsim.Config{HideUnexchanged: true}})
	r.keep()
	const accounts = 5
	r.ticket()
	first := r.next(events.KindTicket)
	client := r.client()
	theirs, err := client.ComponentToken(t.Context(), appid, appsecret, first.Ticket)
	r.must(err)
	tokens := map[string]wechat.Authorization{}
	var file []string
	for i := range accounts {
		account := fmt.Sprintf("wxmany%011d", i)
		r.must(r.sim.Authorize(appid, account))
		push := r.next(events.KindAuthorized)
		granted, err := client.QueryAuth(t.Context(), theirs.AccessToken, appid, push.Code)
		r.must(err)
		tokens[account] = granted
		file = append(file, lineOf(account, granted.RefreshToken, push.CreateTime))
	}
	// WeChat's list tells nothing: the file is all there is.
	r.fail(wechatsim.Fault{API: apiList, Mode: wechatsim.FaultBody, Body: `{"total_count":0,"list":[]}`})
	r.sim.ClearHistory()
	r.start()
	r.send(first)
	r.eventually(r.componentLives)
	if got := r.imports(false, file...); got != "new:5" {
		t.Errorf("a dry run: %s", got)
	}
	r.drained()
	r.wantCalls(apiRefresh, 0)
	if got := r.imports(true, file...); got != "new:5" {
		t.Errorf("the import: %s", got)
	}
	for account, granted := range tokens {
		r.eventually(func() error { return r.accepted(account) })
		if !r.sim.Accepts(appid, account, granted.AccessToken) {
			t.Errorf("the other keeper's token of %s died at once", account)
		}
		key := wxtoken.AuthorizerKey(appid, account)
		s := r.state(key, wxtoken.StateActive)
		r.until("no profile", func() bool { s = r.status(key); return s.Authorizer != nil && len(s.Authorizer.Profile) > 0 })
		if s.Authorizer.Ref != "shop-1" || s.Authorizer.AuthorizedAt == nil {
			t.Errorf("status %+v", s.Authorizer)
		}
		r.wantScheduled(key)
	}
	r.wantCalls(apiRefresh, accounts)
	r.wantCalls(apiExchange, 0)
	for _, e := range r.sim.History() {
		if e.Kind == wechatsim.EntryAuthorize || e.Kind == wechatsim.EntryCancel {
			t.Errorf("a merchant had to do something: %+v", e)
		}
	}
}

// TestImportDied ends an import after it stored a cancelled account's new authorization: the sweep renews it, and its status says so.
func TestImportDied(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	r.authorize(alice)
	r.clock.forward(time.Minute)
	good := r.credential(aliceKey).RefreshToken
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61003, Times: 1})
	r.poke(aliceKey)
	r.state(aliceKey, wxtoken.StateRevoked)
	cred := r.credential(aliceKey)
	cred.RefreshToken, cred.RevokedAt = good, time.Time{}
	_, err := r.store.Save(t.Context(), cred)
	r.must(err)
	r.generation(aliceKey, 2)
	r.state(aliceKey, wxtoken.StateActive)
}

// TestImportDiedBeforeTheStatus: the same file once more puts it right.
func TestImportDiedBeforeTheStatus(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	cred := r.credential(aliceKey)
	cred.Ref = "shop-1"
	_, err := r.store.Save(t.Context(), cred)
	r.must(err)
	if got := r.imports(true, lineOf(alice, cred.RefreshToken, cred.AuthorizedAt)); got != "same:1" {
		t.Errorf("the line is %s", got)
	}
	if s := r.status(aliceKey); s.Authorizer == nil || s.Authorizer.Ref != "shop-1" {
		t.Errorf("the status has %+v, want the ref shop-1", s.Authorizer)
	}
}

// TestImportLeavesNoPrevious: the token before is of another authorization.
func TestImportLeavesNoPrevious(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.keep()
	r.clock.forward(time.Minute)
	r.must(r.sim.Reauthorize(appid, alice))
	info := r.next(events.KindUpdated)
	other, err := wechat.NewClient(wechat.ClientConfig{BaseURL: "http://wechat", Transport: direct{r.sim.Handler()}})
	r.must(err)
	known, err := other.AuthorizerInfo(t.Context(), r.token(componentKey).Value.Reveal(), appid, alice)
	r.must(err)
	if got := r.imports(true, lineOf(alice, known.RefreshToken, info.CreateTime)); got != "newer:1" {
		t.Errorf("the line is %s", got)
	}
	r.generation(aliceKey, 2)
	if p := r.token(aliceKey).Previous; p != nil {
		t.Error("the token of the authorization before is kept as the previous one")
	}
}

// TestImportOfRefs: a line may bring no more than a ref; one of another tenant changes nothing and is named.
func TestImportOfRefs(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.drained()
	c := r.credential(aliceKey)
	withRef := func(ref string) string {
		return fmt.Sprintf(`{"component_appid":%q,"authorizer_appid":%q,"refresh_token":%q,"ref":%q}`, appid, alice, c.RefreshToken, ref)
	}
	for _, row := range []struct{ ref, fate, stored string }{
		{"shop-1", "ref:1", "shop-1"}, {"shop-1", "same:1", "shop-1"}, {"shop-2", "other_ref:1", "shop-1"},
	} {
		if got := r.imports(true, withRef(row.ref)); got != row.fate {
			t.Errorf("ref %s: %s, want %s", row.ref, got, row.fate)
		}
		if s := r.status(aliceKey); s.Authorizer.Ref != row.stored {
			t.Errorf("ref %s: the status has %s", row.ref, s.Authorizer.Ref)
		}
	}
	r.drained()
	r.wantCalls(apiRefresh, 0)
}
