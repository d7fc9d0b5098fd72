package wxtoken_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/natsd/natsdtest"
)

// accounts is the configuration of a client that follows them.
var accounts = wxtoken.Config{Accounts: true}

// createStatuses creates the bucket of statuses.
func (p *platform) createStatuses() {
	p.t.Helper()
	if _, err := p.js.CreateKeyValue(p.t.Context(), jetstream.KeyValueConfig{Bucket: "status"}); err != nil {
		p.t.Fatal(err)
	}
}

// withStatuses starts a server with both buckets.
func withStatuses(t *testing.T) *platform {
	t.Helper()
	p := newPlatform(t)
	p.createStatuses()
	return p
}

// say stores an account's status with a ref, and returns its revision.
func (p *platform) say(key wxtoken.Key, state wxtoken.State, ref string) uint64 {
	p.t.Helper()
	text, err := json.Marshal(wxtoken.Status{Key: key, State: state, Authorizer: &wxtoken.Authorizer{Ref: ref}})
	if err != nil {
		p.t.Fatal(err)
	}
	return p.publish(&nats.Msg{Subject: "$KV.status." + key.String(), Data: text})
}

// forget stores the deletion of a status.
func (p *platform) forget(key wxtoken.Key) {
	p.t.Helper()
	msg := nats.NewMsg("$KV.status." + key.String())
	msg.Header.Set("KV-Operation", "DEL")
	p.publish(msg)
}

// found is Find without its error.
func found(t *testing.T, client *wxtoken.Client, ref string) []wxtoken.Key {
	t.Helper()
	keys, err := client.Find(ref)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// finds reports whether Find returns some keys.
func finds(t *testing.T, client *wxtoken.Client, ref string, keys ...wxtoken.Key) func() bool {
	return func() bool { return slices.Equal(found(t, client, ref), keys) }
}

func TestClientFind(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	elsewhere := wxtoken.AuthorizerKey("wx00000000000000c0", shop.Authorizer) // of another component, and first in order
	p.say(shop, wxtoken.StateActive, "tenant-1")
	p.say(elsewhere, wxtoken.StateRevoked, "tenant-1")
	p.say(hotel, wxtoken.StateActive, "")
	client := p.client(accounts)
	for ref, want := range map[string][]wxtoken.Key{"tenant-1": {elsewhere, shop}, "tenant-2": {}, "tenant": {}, "": {}} {
		if got := found(t, client, ref); !slices.Equal(got, want) {
			t.Errorf("Find(%q) = %v, want %v", ref, got, want)
		}
	}
	if got := client.Components(); !slices.Equal(got, []string{"wx00000000000000c0", "wx00000000000000c1"}) {
		t.Errorf("Components() = %v", got)
	}

	p.say(shop, wxtoken.StateActive, "tenant-2")
	eventually(t, "the account under its new ref", finds(t, client, "tenant-2", shop))
	if got := found(t, client, "tenant-1"); !slices.Equal(got, []wxtoken.Key{elsewhere}) {
		t.Errorf("under its old ref there are still %v", got)
	}
	p.say(hotel, wxtoken.StateActive, "tenant-2")
	eventually(t, "a second account under it", finds(t, client, "tenant-2", shop, hotel))
	p.say(shop, wxtoken.StateActive, "")
	eventually(t, "no ref any more", finds(t, client, "tenant-2", hotel))
	p.forget(hotel)
	eventually(t, "the account forgotten", finds(t, client, "tenant-2"))
	_, err := client.Account(hotel)
	wantError(t, err, wxtoken.ErrNoStatus, hotel.String())
}

// Without Config.Accounts there are none, and that is said.
func TestClientWithoutAccounts(t *testing.T) {
	t.Parallel()
	p := newPlatform(t) // nor does it need the bucket
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	if keys, err := client.Find("x"); err == nil || !strings.Contains(err.Error(), "Config.Accounts") {
		t.Errorf("Find = %v, %v", keys, err)
	}
	if status, err := client.Account(shop); err == nil || !strings.Contains(err.Error(), "Config.Accounts") {
		t.Errorf("Account = %v, %v", status, err)
	}
	for status := range client.Accounts() {
		t.Errorf("Accounts yields %v", status)
	}
	for status := range client.StatusUpdates(t.Context()) {
		t.Errorf("StatusUpdates yields %v", status)
	}
	if got := client.Components(); !slices.Equal(got, []string{shop.Component}) {
		t.Errorf("Components() = %v", got)
	}
	for changes := range client.Changes(t.Context()) {
		if !slices.Equal(changes.Tokens, []wxtoken.Key{shop}) || len(changes.Accounts) > 0 || changes.StatusRevision != 0 {
			t.Errorf("Changes = %+v", changes)
		}
		break
	}
}

// NewClient waits for the accounts too, and goes by the clock for what it says of them.
func TestClientAccount(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	givesUp(t, func(ctx context.Context) error {
		_, err := wxtoken.NewClient(ctx, p.srv.Connect(), accounts)
		return err
	}, jetstream.ErrStreamNotFound, "status", "refresher")

	p.createStatuses()
	revision := p.say(shop, wxtoken.StateActive, "tenant-1")
	p.say(hotel, wxtoken.StateNeedsAuthorization, "tenant-2")
	var ahead atomic.Int64
	client := p.client(wxtoken.Config{Accounts: true, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	status, err := client.Account(shop)
	if err != nil || status.Key != shop || status.State != wxtoken.StateActive || status.Revision != revision || status.Authorizer.Ref != "tenant-1" {
		t.Errorf("Account = %+v, %v", status, err)
	}
	if asked, err := client.Status(t.Context(), shop); err != nil || asked.Revision != status.Revision || asked.State != status.State {
		t.Errorf("Status = %+v, %v, and Account %+v", asked, err, status)
	}
	ahead.Store(int64(3 * time.Hour))
	if status, err := client.Account(shop); err != nil || status.State != wxtoken.StateRenewingFailed {
		t.Errorf("with a dead token the state is %q, %v", status.State, err)
	}
	var states []wxtoken.State
	for status := range client.Accounts() {
		states = append(states, status.State)
	}
	if !slices.Equal(states, []wxtoken.State{wxtoken.StateRenewingFailed, wxtoken.StateNeedsAuthorization}) {
		t.Errorf("Accounts yields the states %v", states)
	}
	for range client.Accounts() {
		break // a loop that is left must not go on
	}
	_, err = client.Account(comp)
	wantError(t, err, wxtoken.ErrNoStatus, comp.String())

	client.Close()
	if _, err := client.Find("tenant-1"); !errors.Is(err, wxtoken.ErrClosed) {
		t.Errorf("Find after Close: %v", err)
	}
	if _, err := client.Account(shop); !errors.Is(err, wxtoken.ErrClosed) {
		t.Errorf("Account after Close: %v", err)
	}
	for status := range client.Accounts() {
		t.Errorf("after Close Accounts yields %v", status)
	}
}

// A page begins after any key, whether or not that is there, and has what Accounts has from there on.
func TestClientAccountsAfter(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	for n := range 20 {
		p.say(wxtoken.AuthorizerKey(shop.Component, fmt.Sprintf("wxb%d", n*7)), wxtoken.StateActive, "")
	}
	client := p.client(accounts)
	var all []wxtoken.Key
	for status := range client.Accounts() {
		all = append(all, status.Key)
	}
	if len(all) != 20 || !slices.IsSortedFunc(all, func(a, b wxtoken.Key) int { return strings.Compare(a.String(), b.String()) }) {
		t.Errorf("Accounts yields %v", all)
	}
	for _, after := range append([]wxtoken.Key{{}, comp, shop, wxtoken.AuthorizerKey(shop.Component, "wxb5")}, all...) {
		var keys, want []wxtoken.Key
		for status := range client.AccountsAfter(after) {
			keys = append(keys, status.Key)
		}
		for _, key := range all {
			if after == (wxtoken.Key{}) || key.String() > after.String() {
				want = append(want, key)
			}
		}
		if !slices.Equal(keys, want) {
			t.Errorf("after %s come %v, want %v", after, keys, want)
		}
	}
}

// A status that can't be read changes nothing, and is counted without being shown.
// TestClientAccountsOfNewBucket: in a bucket that was made anew, or restored, another status may have the revision of the one before.
func TestClientAccountsOfNewBucket(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	first := p.say(shop, wxtoken.StateActive, "tenant-1")
	client := p.client(accounts)
	if err := p.js.DeleteStream(t.Context(), "KV_status"); err != nil {
		t.Fatal(err)
	}
	p.createStatuses()
	if again := p.say(shop, wxtoken.StateNeedsAuthorization, "tenant-2"); again != first {
		t.Fatalf("revision %d, and not %d again", again, first)
	}
	eventually(t, "the status of the new bucket", func() bool {
		status, err := client.Account(shop)
		return err == nil && status.State == wxtoken.StateNeedsAuthorization
	})
}

func TestClientUnreadableStatus(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	p.say(shop, wxtoken.StateActive, "tenant-1")
	client := p.client(accounts)
	for i, msg := range []*nats.Msg{
		{Subject: "$KV.status." + shop.String(), Data: []byte(`{"state":"SEKRET"`)},
		{Subject: "$KV.status." + shop.String(), Data: []byte(`["SEKRET"]`)},
		{Subject: "$KV.status.no.key.at.all", Data: []byte(`{"state":"SEKRET"}`)},
	} {
		p.publish(msg)
		eventually(t, "the fault counted", func() bool { return client.Stats().Unreadable == uint64(i+1) })
		if text := client.Stats().Err.Error(); !strings.Contains(text, "status") || strings.Contains(text, "SEKRET") {
			t.Errorf("the error is %q", text)
		}
	}
	if status, err := client.Account(shop); err != nil || status.State != wxtoken.StateActive {
		t.Errorf("Account = %+v, %v", status, err)
	}
	if got := found(t, client, "tenant-1"); !slices.Equal(got, []wxtoken.Key{shop}) {
		t.Errorf("Find = %v", got)
	}
}

func TestClientStatusUpdates(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	p.say(shop, wxtoken.StateActive, "a")
	p.say(hotel, wxtoken.StateActive, "b")
	client := p.client(accounts)
	step := 0
	for status := range client.StatusUpdates(t.Context(), shop) {
		if status.Key != shop {
			t.Fatalf("an update of %s, which was not asked for", status.Key)
		}
		switch step++; step {
		case 1:
			if status.State != wxtoken.StateActive {
				t.Fatalf("at first %+v, want what there is", status)
			}
			p.say(hotel, wxtoken.StateRevoked, "b")
			p.put(shop, 1) // a new token is no change of the status
			for _, state := range []wxtoken.State{wxtoken.StateOperator, wxtoken.StateRenewingFailed, wxtoken.StateRevoked} {
				p.say(shop, state, "a")
			}
			eventually(t, "the last one in the view", func() bool {
				status, err := client.Account(shop)
				return err == nil && status.State == wxtoken.StateRevoked
			})
		case 2:
			if status.State != wxtoken.StateRevoked {
				t.Fatalf("then %+v, want the newest of three", status)
			}
			p.srv.Stop()
			p.srv.Restart()
			eventually(t, "live again", client.Live)
			p.say(shop, wxtoken.StateActive, "c")
		case 3:
			if status.Authorizer.Ref != "c" {
				t.Fatalf("after a restart %+v, want what is new", status)
			}
			client.Close()
		default:
			t.Fatalf("at last %+v, though the client is closed", status)
		}
	}
	if step != 3 {
		t.Errorf("%d updates, want 3", step)
	}
}

// The loops end with their contexts, wherever they are.
func TestClientChangesEnd(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	p.put(shop, 1)
	p.say(shop, wxtoken.StateActive, "a")
	client := p.client(accounts)
	for name, loop := range map[string]func(context.Context, func()){
		"StatusUpdates": func(ctx context.Context, seen func()) {
			for range client.StatusUpdates(ctx) {
				seen()
			}
		},
		"Changes": func(ctx context.Context, seen func()) {
			for range client.Changes(ctx) {
				seen()
			}
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended, saw := make(chan struct{}), make(chan struct{}, 100)
		go func() {
			loop(ctx, func() { saw <- struct{}{} })
			close(ended)
		}()
		<-saw
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatalf("%s goes on though its context ended", name)
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		loop(ctx, func() { t.Errorf("%s yields though its context had ended", name) })
	}
}

// What the revisions of Changes promise: everything up to them has been told.
func TestClientChanges(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	client := p.client(accounts)
	keys := []wxtoken.Key{shop, hotel, wxtoken.AuthorizerKey("wx00000000000000c2", "wx00000000000000a3")}
	type record struct {
		key      wxtoken.Key
		revision uint64
	}
	var (
		mu              sync.Mutex
		tokens, refs    []record
		lastOf, lastRef = map[wxtoken.Key]uint64{}, map[wxtoken.Key]uint64{}
	)
	// A bucket keeps the newest of each key: one that was replaced before it was delivered never comes, and the one that replaced it is
	// beyond the mark then.
	type miss struct {
		all *[]record
		record
		mark uint64
	}
	var missed []miss
	const rounds = 60
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var writer sync.WaitGroup
	defer writer.Wait()
	seen, batches := map[wxtoken.Key]bool{}, 0
	for changes := range client.Changes(ctx) {
		if batches++; batches == 1 {
			if len(changes.Tokens)+len(changes.Accounts) > 0 || changes.TokensRevision+changes.StatusRevision != 0 {
				t.Fatalf("of an empty view: %+v", changes)
			}
			writer.Go(func() {
				for i := range rounds {
					key := keys[i%len(keys)]
					mu.Lock() // before: the batch of the last one, after which none comes, may be told before its ack is here
					at, said := p.put(key, uint64(i+1)), p.say(key, wxtoken.StateActive, fmt.Sprint(i))
					tokens, refs = append(tokens, record{key, at}), append(refs, record{key, said})
					mu.Unlock()
				}
			})
			continue
		}
		for _, key := range changes.Tokens {
			token, err := client.Token(key)
			if err != nil {
				t.Fatal(err)
			}
			lastOf[key], seen[key] = token.Revision, true
		}
		for _, key := range changes.Accounts {
			status, err := client.Account(key)
			if err != nil {
				t.Fatal(err)
			}
			lastRef[key] = status.Revision
		}
		mu.Lock()
		for _, r := range tokens {
			if r.revision <= changes.TokensRevision && lastOf[r.key] < r.revision {
				missed = append(missed, miss{&tokens, r, changes.TokensRevision})
			}
		}
		for _, r := range refs {
			if r.revision <= changes.StatusRevision && lastRef[r.key] < r.revision {
				missed = append(missed, miss{&refs, r, changes.StatusRevision})
			}
		}
		over := len(tokens) == rounds && changes.TokensRevision == tokens[rounds-1].revision && changes.StatusRevision == refs[rounds-1].revision
		mu.Unlock()
		if over {
			break
		}
	}
	if ctx.Err() != nil || len(seen) != len(keys) {
		t.Fatalf("the end was not told: %v, keys %v", ctx.Err(), seen)
	}
	for _, m := range missed {
		if !slices.ContainsFunc(*m.all, func(r record) bool { return r.key == m.key && r.revision > m.mark }) {
			t.Errorf("up to revision %d, but %d of %s was not told, and none beyond", m.mark, m.revision, m.key)
		}
	}

	p.mark(shop, "DEL")
	p.forget(hotel)
	eventually(t, "both deletions", func() bool {
		_, noToken := client.Token(shop)
		_, noStatus := client.Account(hotel)
		return errors.Is(noToken, wxtoken.ErrRevoked) && errors.Is(noStatus, wxtoken.ErrNoStatus)
	})
	for changes := range client.Changes(ctx) { // anew: everything there is
		if len(changes.Tokens) != 3 || len(changes.Accounts) != 2 || changes.TokensRevision != tokens[rounds-1].revision+1 || changes.StatusRevision != refs[rounds-1].revision+1 {
			t.Errorf("anew: %+v", changes)
		}
		break
	}
}

// While NATS is away the accounts are still there, and Live says so. What changed meanwhile comes when it is back.
func TestClientAccountsWithoutNATS(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	p.put(shop, 1)
	p.say(shop, wxtoken.StateActive, "tenant-1")
	client := p.client(accounts)
	if !client.Live() {
		t.Error("not live after NewClient")
	}
	p.srv.Stop()
	eventually(t, "that it is cut off", func() bool { return !client.Live() && !client.Stats().Live })
	if got := found(t, client, "tenant-1"); !slices.Equal(got, []wxtoken.Key{shop}) {
		t.Errorf("Find = %v while NATS is away", got)
	}
	p.srv.Restart()
	p.say(shop, wxtoken.StateActive, "tenant-2")
	eventually(t, "the new ref", finds(t, client, "tenant-2", shop))
	eventually(t, "live again", client.Live)
}

// A service that follows accounts needs the rights that doc.go lists for that, and is told where it lacks one.
func TestPermissionsOfAccounts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		more []string
		want string // in the error; "" where it works
	}{
		{"without", nil, "CONSUMER.CREATE.KV_status"},
		{"with", []string{"$JS.API.CONSUMER.CREATE.KV_status.*.$KV.status.>", "$JS.FC.KV_status.>"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			admin, service := serverWithUsers(t, ">", false, test.more...)
			p := &platform{t: t, nc: admin}
			p.js = natsdtest.JetStream(t, admin)
			p.createBucket()
			p.createStatuses()
			p.put(shop, 1)
			p.say(shop, wxtoken.StateActive, "tenant-1")
			nc := service()
			if test.want != "" {
				givesUp(t, func(ctx context.Context) error {
					_, err := wxtoken.NewClient(ctx, nc, accounts)
					return err
				}, nats.ErrPermissionViolation, test.want, "permissions")
				return
			}
			client := newClient(t, nc, accounts)
			p.say(shop, wxtoken.StateActive, "tenant-2")
			eventually(t, "the new ref", finds(t, client, "tenant-2", shop))
			givesUp(t, func(ctx context.Context) error {
				_, err := client.CreateLink(ctx, wxtoken.LinkRequest{Component: shop.Component})
				return err
			}, nats.ErrPermissionViolation, "wxtoken.connect.create")
		})
	}
}
