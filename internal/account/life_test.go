package account

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/wechat"
)

var update = flag.Bool("update", false, "write testdata/life.txt anew: then read the difference")

var (
	owner     = wxtoken.AuthorizerKey("wxc", "wxa")
	component = wxtoken.ComponentKey("wxc")
	derivedOf = wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: "wxc", Authorizer: "wxa"}
)

// state is a credential that something happens to.
type state struct {
	name string
	c    Credential
}

// states are all that a credential can be in. Their key says which events can meet them.
func states() []state {
	active := Credential{Key: owner, Generation: 7, RefreshToken: "rt", AuthorizedAt: noon.Add(-24 * time.Hour), CodeDigest: "d", Ref: "shop", Authorizations: 1, Revision: 50}
	with := func(c Credential, change func(*Credential)) Credential { change(&c); return c }
	claim := func(until time.Duration) *Claim { return &Claim{By: "r1", For: "due/9", Until: noon.Add(until)} }
	ticketed := Credential{Key: component, Generation: 7, Ticket: "t", TicketCreatedAt: noon.Add(-5 * time.Minute), TicketReceivedAt: noon.Add(-5 * time.Minute), Revision: 50}
	kept := Credential{Key: derivedOf, Generation: 7, Authorizations: 1, Revision: 50}
	return []state{
		{"account, new", Credential{Key: owner}},
		{"account, active", active},
		{"account, claimed", with(active, func(c *Credential) { c.Claim = claim(10 * time.Second) })},
		{"account, claimed by one that is gone", with(active, func(c *Credential) { c.Claim = claim(-time.Second) })},
		{"account, failing", with(active, func(c *Credential) { c.Failures, c.RetryAt = 2, noon.Add(-time.Second) })},
		{"account, WeChat did not answer", with(active, func(c *Credential) {
			c.Failures, c.RetryAt, c.UnsureSince = 1, noon.Add(-time.Second), noon.Add(-20*time.Second)
		})},
		{"account, refresh token refused", with(active, func(c *Credential) { c.Failures, c.RefreshRefused = 1, true })},
		{"account, refused and confirmed", with(active, func(c *Credential) {
			c.Failures, c.Refusals, c.SoughtAt = 3, 3, noon.Add(-11*time.Minute)
		})},
		{"account, authorization needed", with(active, func(c *Credential) {
			c.Failures, c.Refusals, c.AuthorizationNeeded, c.SoughtAt = 5, 5, true, noon.Add(-time.Hour)
		})},
		{"account, without a refresh token", with(active, func(c *Credential) { c.RefreshToken = "" })},
		{"account, refresh token sought", with(active, func(c *Credential) { c.RefreshToken, c.SoughtAt, c.Failures = "", noon.Add(-20*time.Second), 1 })},
		{"account, authorized at a time not known", with(active, func(c *Credential) { c.AuthorizedAt = time.Time{} })},
		{"account, cancelled", with(active, func(c *Credential) { c.RefreshToken, c.RevokedAt = "", noon.Add(-time.Hour) })},
		{"component, without a ticket", Credential{Key: component}},
		{"component, active", ticketed},
		{"component, failing", with(ticketed, func(c *Credential) { c.Failures, c.RetryAt = 2, noon.Add(30*time.Second) })},
		{"component, token refused early twice", with(ticketed, func(c *Credential) {
			c.Refused = &Refused{Generation: 6, At: noon.Add(-10 * time.Minute), Early: 2}
		})},
		{"ticket, new", Credential{Key: derivedOf}},
		{"ticket, kept", kept},
		{"ticket, of an authorization before", with(kept, func(c *Credential) { c.Authorizations, c.Failures = 0, 3 })},
		{"ticket, ended", with(kept, func(c *Credential) { c.RevokedAt = noon.Add(-time.Minute) })},
	}
}

// event is something that happens. kinds are the kinds of keys that it can happen to.
type event struct {
	name  string
	kinds string
	does  func(Credential) (Credential, Next, string)
}

// only is what an event comes to that says nothing but the record.
func only(f func(Credential) Credential) func(Credential) (Credential, Next, string) {
	return func(c Credential) (Credential, Next, string) { return f(c), Next{}, "" }
}

func events() []event {
	refused := func(code int) error {
		return &wechat.Error{API: wechat.APIAuthorizerToken, Code: code, Message: "refused"}
	}
	failure := func(err error) Failure { return Failure{Err: err, Now: noon, Dies: noon.Add(30 * time.Minute)} }
	failed := func(err error) func(Credential) (Credential, Next, string) {
		return func(c Credential) (Credential, Next, string) {
			c, next := c.Claimed("r2", "due/10", noon.Add(-time.Second)).Failed(failure(err))
			return c, next, ""
		}
	}
	asked := func(p Profile) func(Credential) (Credential, Next, string) {
		return func(c Credential) (Credential, Next, string) {
			p.Now, p.Dies, p.Cause = noon, noon.Add(30*time.Minute), refused(61023)
			c, next := c.Asked(p)
			return c, next, ""
		}
	}
	token := wxtoken.Token{Value: wxtoken.NewSecret("v"), Generation: 7, ObtainedAt: noon.Add(-time.Minute), ExpiresAt: noon.Add(119 * time.Minute)}
	compared := func(l Listing) func(Credential) (Credential, Next, string) {
		words := map[Comparison]string{
			ListKnown: "known", ListBusy: "busy", ListUnasked: "first token to be asked for", ListDated: "the time may be news", ListUnsure: "WeChat has to say",
			ListNewer: "newer", ListInstead: "instead of the refused one", ListOlder: "older, unless the token is long dead",
		}
		return func(c Credential) (Credential, Next, string) { return c, Next{}, words[c.Against(l, noon)] }
	}
	wishes := map[Wish]string{
		WishRenewal: "renew", WishTooEarly: "too early", WishUncertain: "look again", WishCancelled: "tell of the cancellation", WishSought: "look for the refresh token",
		WishNothing: "nothing", WishDone: "done already",
	}
	wish := func(generation uint64, deliveries int) func(Credential) (Credential, Next, string) {
		return func(c Credential) (Credential, Next, string) {
			return c, Next{}, wishes[c.Wish(generation, deliveries)]
		}
	}
	return []event{
		{"a due message for the newest token", "ACT", wish(7, 1)},
		{"the same, delivered for the third time", "ACT", wish(7, 3)},
		{"a due message for the token before", "ACT", wish(6, 3)},
		{"a due message for the next token", "ACT", wish(8, 3)},
		{"claimed", "ACT", only(func(c Credential) Credential { return c.Claimed("r2", "due/10", noon) })},
		{"given back", "ACT", only(Credential.GivenBack)},
		{"renewed", "ACT", only(func(c Credential) Credential { return c.Renewed("", Past{}) })},
		{"renewed, with another refresh token", "A", only(func(c Credential) Credential { return c.Renewed("rt2", Past{}) })},
		{"a renewal is asked for", "ACT", func(c Credential) (Credential, Next, string) {
			outcome, underWay := c.Replaceable(token, false, noon.Add(10*time.Minute))
			return c, Next{}, fmt.Sprintf("%s, under way: %t", outcome, underWay)
		}},
		{"a renewal that was asked for begins", "ACT", only(func(c Credential) Credential { return c.WasForced(noon) })},
		{"failed: no answer", "ACT", failed(&wechat.Error{API: wechat.APIAuthorizerToken, Message: "no answer"})},
		{"failed: busy (-1)", "ACT", failed(refused(-1))},
		{"failed: too many in a minute (45011)", "ACT", failed(refused(45011))},
		{"failed: the day's quota is gone (45009)", "ACT", failed(refused(45009))},
		{"failed: the ticket is refused (61006)", "C", failed(&wechat.Error{API: wechat.APIComponentToken, Code: 61006})},
		{"failed: a wrong secret (40125)", "C", failed(&wechat.Error{API: wechat.APIComponentToken, Code: 40125})},
		{"failed: no permission (48001)", "AT", failed(refused(48001))},
		{"failed: the refresh token is refused (61023)", "A", failed(refused(61023))},
		{"failed: not authorized (61003)", "A", failed(refused(61003))},
		{"the profile names the same refresh token", "A", asked(Profile{RefreshToken: "rt", Believed: true})},
		{"the same, the list was read, refusals believed", "A", asked(Profile{RefreshToken: "rt", Believed: true, ListedAt: noon})},
		{"the same, refusals doubted", "A", asked(Profile{RefreshToken: "rt", ListedAt: noon})},
		{"the profile names another refresh token", "A", asked(Profile{RefreshToken: "rt2", Believed: true})},
		{"the profile names none", "A", asked(Profile{Believed: true})},
		{"the profile can't be had", "A", asked(Profile{Failure: Failure{Err: refused(-1)}})},
		{"the profile is not asked for: calls are held back", "A", asked(Profile{Failure: Failure{Err: errors.New("held back")}, NotAsked: true, Held: 5 * time.Second})},
		{"the profile says: not authorized", "A", asked(Profile{Failure: Failure{Err: refused(61003)}, Believed: true})},
		{"no source has a refresh token", "A", func(c Credential) (Credential, Next, string) {
			c, next := c.NotFound(nil, noon, noon, false)
			return c, next, ""
		}},
		{"the same, and the token dies soon", "A", func(c Credential) (Credential, Next, string) {
			c, next := c.NotFound(nil, time.Time{}, noon, true)
			return c, next, ""
		}},
		{"a code is spent, and the profile has no refresh token", "A", func(c Credential) (Credential, Next, string) {
			c, patient, next := c.CodeSpent(noon, noon)
			return c, next, fmt.Sprintf("patient: %t", patient)
		}},
		{"the refresh token is told", "A", only(func(c Credential) Credential { return c.RefreshTokenTold("rt2") })},
		{"authorized by a push", "A", only(func(c Credential) Credential {
			return c.Authorized(Authorization{At: noon, CodeDigest: "d2", RefreshToken: "rt2", Token: true, Ref: c.Ref, Now: noon})
		})},
		{"authorized by a redirect, no refresh token told", "A", only(func(c Credential) Credential {
			return c.Authorized(Authorization{CodeDigest: "d2", Token: true, Ref: "other", Now: noon})
		})},
		{"authorized without API permission", "A", only(func(c Credential) Credential {
			return c.Authorized(Authorization{At: noon, CodeDigest: "d2", Ref: c.Ref, Now: noon})
		})},
		{"authorized, its code used elsewhere", "A", only(func(c Credential) Credential { return c.Told("rt2", c.Ref, noon) })},
		{"told again, with its time", "A", only(func(c Credential) Credential { return c.Dated(noon, c.Ref) })},
		{"the code was another account's", "A", only(Credential.Declined)},
		{"cancelled by a push", "A", only(func(c Credential) Credential { return c.Cancelled(noon) })},
		{"found cancelled", "A", only(func(c Credential) Credential { return c.FoundCancelled(noon) })},
		{"found cancelled, not believed", "A", func(c Credential) (Credential, Next, string) {
			c, next := c.Doubted(noon, refused(61003))
			return c, next, ""
		}},
		{"listed, the same", "A", compared(Listing{RefreshToken: "rt", At: noon.Add(-24 * time.Hour), Began: noon, Seen: 100})},
		{"listed, a newer authorization", "A", compared(Listing{RefreshToken: "rt2", At: noon.Add(-time.Minute), Began: noon, Seen: 100})},
		{"listed, an older authorization", "A", compared(Listing{RefreshToken: "rt0", At: noon.Add(-48 * time.Hour), Began: noon, Seen: 100})},
		{"listed, older, and the record changed since", "A", compared(Listing{RefreshToken: "rt0", At: noon.Add(-48 * time.Hour), Began: noon, Seen: 10})},
		{"taken over from the list", "A", only(func(c Credential) Credential { return c.Listed("rt2", noon, false) })},
		{"taken over from the list, instead of a refused one", "A", only(func(c Credential) Credential { return c.Listed("rt2", noon, true) })},
		{"dated by the list", "A", func(c Credential) (Credential, Next, string) {
			c, anew := c.DatedByList(noon)
			return c, Next{}, fmt.Sprintf("renewed anew: %t", anew)
		}},
		{"listed without a refresh token", "A", func(c Credential) (Credential, Next, string) {
			if c.LookedAfter(noon, noon) {
				return c, Next{}, "looked after already"
			}
			return c.ListedWithout(noon.Add(-time.Second), noon), Next{}, ""
		}},
		{"imported", "A", only(func(c Credential) Credential { return c.Imported("rt2", "shop", noon, 9) })},
		{"imported, the same", "A", only(func(c Credential) Credential { return c.Imported("rt", "shop", noon.Add(-24*time.Hour), 7) })},
		{"restored", "A", only(func(c Credential) Credential { return c.Restored("rt2") })},
		{"found by its token and status", "ACT", only(func(c Credential) Credential { return c.Found(9, "shop") })},
		{"a component_verify_ticket came", "C", func(c Credential) (Credential, Next, string) {
			c, needed := c.TicketReceived("t2", noon, noon, token, noon)
			return c, Next{}, fmt.Sprintf("a token is needed: %t", needed)
		}},
		{"a component_verify_ticket came, the token is dead", "C", func(c Credential) (Credential, Next, string) {
			c, needed := c.TicketReceived("t2", noon, noon, wxtoken.Token{}, noon)
			return c, Next{}, fmt.Sprintf("a token is needed: %t", needed)
		}},
		{"the component's token is refused, a minute old", "C", func(c Credential) (Credential, Next, string) {
			if c.RefusedAlready(token.Generation) {
				return c, Next{}, "known"
			}
			c, wait := c.TokenRefused(token, noon)
			return c, Next{}, "after " + wait.String()
		}},
		{"a ticket is to be kept", "T", only(func(c Credential) Credential { return c.Kept(2, 9) })},
		{"a ticket is dropped", "T", only(func(c Credential) Credential { return c.Dropped(noon) })},
	}
}

// kindLetter names the kind of a key in event.kinds.
func kindLetter(k wxtoken.Key) string {
	switch {
	case k.Kind == wxtoken.KindComponent:
		return "C"
	case Derived(k):
		return "T"
	}
	return "A"
}

// fields returns a record as its JSON has it, times as the distance from noon.
func fields(t *testing.T, c Credential) map[string]string {
	t.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var raw map[string]any
	if err := json.Unmarshal(data, &raw); err != nil {
		t.Fatal(err)
	}
	delete(raw, "history") // nothing is decided by it: TestHistory
	out := map[string]string{}
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				walk(prefix+"."+k, inner)
			}
		case string:
			if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
				v = "noon" + signed(at.Sub(noon))
			}
			out[prefix] = v
		default:
			out[prefix] = fmt.Sprint(v)
		}
	}
	for k, v := range raw {
		walk(k, v)
	}
	return out
}

func signed(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d > 0:
		return "+" + d.String()
	}
	return d.String()
}

// outcome writes down what an event comes to, in one line.
func outcome(t *testing.T, before, after Credential, next Next, said string) string {
	t.Helper()
	was, is := fields(t, before), fields(t, after)
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(merged(was, is))) {
		if k == "claim.by" && is[k] == "" {
			parts = append(parts, "claim: over")
		}
		if was[k] != is[k] && !(strings.HasPrefix(k, "claim.") && is[k] == "") {
			parts = append(parts, fmt.Sprintf("%s: %s -> %s", k, cmp.Or(was[k], "none"), cmp.Or(is[k], "none")))
		}
	}
	if next.Wait != 0 {
		parts = append(parts, "wait "+next.Wait.String())
	}
	if next.Status != nil {
		s := wxtoken.Status{State: wxtoken.StateActive}
		next.Status(&s)
		parts = append(parts, fmt.Sprintf("status %s/%s", s.State, ReadyReason(s)))
	}
	if do := map[Deed]string{DoAskPush: "ask for tickets", DoAskProfile: "ask for the profile", DoCancel: "cancel"}[next.Do]; do != "" {
		parts = append(parts, do)
	}
	if next.Merchant != "" {
		parts = append(parts, "only the merchant can help: "+string(next.Merchant))
	}
	if said != "" {
		parts = append(parts, said)
	}
	return cmp.Or(strings.Join(parts, "; "), "nothing changes")
}

func merged(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// TestLife has each event happen to a credential in each state, and compares what it comes to with testdata/life.txt.
func TestLife(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	fmt.Fprint(&text, "What comes of each event in each state. Written by: go test ./internal/account -run TestLife -update\n")
	for _, e := range events() {
		fmt.Fprintf(&text, "\n%s\n", e.name)
		for _, s := range states() {
			if !strings.Contains(e.kinds, kindLetter(s.c.Key)) {
				continue
			}
			after, next, said := e.does(s.c)
			lawful(t, s, e, after, next)
			fmt.Fprintf(&text, "    %-41s %s\n", s.name, outcome(t, s.c, after, next, said))
		}
	}
	const file = "testdata/life.txt"
	if *update {
		if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if have := text.String(); have != string(want) {
		was, is := strings.Split(string(want), "\n"), strings.Split(have, "\n")
		for i := range min(len(was), len(is)) {
			if was[i] != is[i] {
				t.Errorf("line %d:\n want %s\n have %s", i+1, was[i], is[i])
			}
		}
		t.Errorf("%d lines, want %d: if the change is meant, run this test with -update and read the difference", len(is), len(was))
	}
}

// lawful checks what holds for every event in every state.
func lawful(t *testing.T, s state, e event, after Credential, next Next) {
	t.Helper()
	fault := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s, %s: %s", s.name, e.name, fmt.Sprintf(format, args...))
	}
	before := s.c
	switch {
	case after.Key != before.Key || after.Revision != before.Revision:
		fault("the key or the revision changed")
	case after.Generation < before.Generation:
		fault("the generation went down")
	case after.Authorizations < before.Authorizations:
		fault("the count of authorizations went down")
	case before.RefreshToken != "" && after.RefreshToken == "" && after.RevokedAt.IsZero():
		fault("a refresh token was dropped without a cancellation")
	case !after.RevokedAt.IsZero() && after.Claim != nil && e.name != "claimed" && before.Claim == nil:
		fault("a cancelled credential is claimed")
	case next.Wait > 0 && !after.RetryAt.Equal(noon.Add(next.Wait)):
		fault("it waits for %v, and may be tried again %v", next.Wait, after.RetryAt.Sub(noon))
	case next.Wait > giveUpDelay:
		fault("it waits for %v", next.Wait)
	case next.Merchant != "" && !after.AuthorizationNeeded && after.RefreshToken == "":
		fault("the merchant is asked, and the record does not say so")
	case next.Do == DoWait && next.Wait == 0 && next.Merchant == "" && after.RefreshRefused && !before.RefreshRefused && after.RetryAt.Equal(before.RetryAt):
		fault("it goes on at once with a refused refresh token")
	}
	if r := after; OutlineOf(r).State(Life{}, noon) == wxtoken.StateActive {
		fault("active without a token that lives")
	}
}

// TestDoubtedWaits has one account refused again and again while refusals are doubted: quickly for as long as its token may live, then
// seldom, and its merchant is not asked.
func TestDoubtedWaits(t *testing.T) {
	refused := &wechat.Error{API: wechat.APIAuthorizerToken, Code: 61023, Message: "refused"}
	c := Credential{Key: wxtoken.AuthorizerKey("wxc", "wxa"), Generation: 6, RefreshToken: "rt"}
	waits := map[time.Duration]int{}
	for now := noon; now.Before(noon.Add(5 * time.Hour)); {
		failure := Failure{Err: refused, Now: now, Dies: now}
		c, _ = c.Claimed("r2", "due/10", now).Failed(failure)
		var next Next
		c, next = c.Asked(Profile{RefreshToken: "rt", Failure: Failure{Now: now, Dies: now}, ListedAt: now, Cause: refused})
		if next.Merchant != "" || next.Wait <= 0 {
			t.Fatalf("after %d refusals: wait %s, merchant %q", c.Failures, next.Wait, next.Merchant)
		}
		waits[next.Wait]++
		now = now.Add(next.Wait)
	}
	if waits[time.Minute] != 1 || waits[10*time.Minute] != 11 || waits[time.Hour] != 4 || len(waits) != 3 {
		t.Errorf("waits %v", waits)
	}
}

// TestCancellationDoubtedWaits is TestDoubtedWaits where WeChat says that the account has cancelled. One whose merchant was asked to
// authorize again stays in need of that.
func TestCancellationDoubtedWaits(t *testing.T) {
	cancelled := &wechat.Error{API: wechat.APIAuthorizerToken, Code: 61003, Message: "not authorized"}
	c := Credential{Key: wxtoken.AuthorizerKey("wxc", "wxa"), Generation: 6, RefreshToken: "rt"}
	waits := map[time.Duration]int{}
	for now := noon; now.Before(noon.Add(5 * time.Hour)); {
		var next Next
		if c, next = c.Claimed("r2", "due/10", now).Failed(Failure{Err: cancelled, Now: now, Dies: now}); next.Do != DoCancel {
			t.Fatalf("next is %+v", next)
		}
		c, next = c.Doubted(now, cancelled)
		waits[next.Wait]++
		now = now.Add(next.Wait)
	}
	if waits[time.Minute] != 1 || waits[10*time.Minute] != 11 || waits[time.Hour] != 4 || len(waits) != 3 {
		t.Errorf("waits %v", waits)
	}
	c.AuthorizationNeeded = true
	if _, next := c.Doubted(noon, cancelled); next.Status != nil {
		t.Error("the status says that it is being tried again, and not that the merchant is needed")
	}
}
