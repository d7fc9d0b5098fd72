package refresher_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/refresher"
	"wxtoken/wechatsim"
)

// streamNames returns the streams that the server has.
func (r *rig) streamNames() (names []string) {
	r.Helper()
	list := r.js.StreamNames(r.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	r.must(list.Err())
	slices.Sort(names)
	return names
}

// TestTokensVanish takes everything that a running refresher lives from, in each of the ways in which that can be done. It says so,
// makes nothing and asks WeChat for nothing; once a refresher that was started has made the stream, WeChat's list brings all back, and
// the one that went on has forgotten what it knew.
func TestTokensVanish(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		words string // of the readiness
		take  func(r *rig)
	}{
		{"deleted", "KV_tokens was deleted", func(r *rig) { r.must(r.js.DeleteStream(r.Context(), events.StreamTokens)) }},
		{"emptied", "KV_tokens was emptied", func(r *rig) {
			stream, err := r.js.Stream(r.Context(), events.StreamTokens)
			r.must(err)
			r.must(stream.Purge(r.Context()))
		}},
		{"deleted and made anew by hand", "KV_tokens was deleted", func(r *rig) {
			r.must(r.js.DeleteStream(r.Context(), events.StreamTokens))
			_, err := r.js.CreateKeyValue(r.Context(), jetstream.KeyValueConfig{Bucket: events.BucketTokens})
			r.must(err)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, options{idle: true, cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
			first := r.start()
			r.ticket()
			r.eventually(r.componentLives)
			r.authorize(alice)
			r.must(r.store.UpdateStatus(t.Context(), aliceKey, func(s *wxtoken.Status) { s.Authorizer.Ref = "tenant-7" }))
			r.must(first.work.Ready(t.Context()))
			r.keep()
			began := len(r.sim.History())
			row.take(r)
			if row.name != "emptied" { // an empty stream of ours is one to begin with
				r.until("still ready", func() bool {
					err := first.work.Ready(t.Context())
					return err != nil && strings.Contains(err.Error(), row.words) && strings.Contains(err.Error(), "restart one refresher")
				})
				names := r.streamNames()
				time.Sleep(5 * time.Second) // it has looked for the streams twice and more
				if again := r.streamNames(); !slices.Equal(again, names) {
					t.Errorf("streams %v became %v", names, again)
				}
				if calls := len(r.sim.History()) - began; calls != 0 {
					t.Errorf("%d calls to WeChat with nothing to store their answers in", calls)
				}
				if n := r.log.count("waiting for nats"); n > 3 {
					t.Errorf("%d log lines about it", n)
				}
				if row.name == "deleted" && r.log.count("streams created", `"warn"`) != 0 {
					t.Error("a refresher that runs made a stream")
				}
				second := r.start()
				r.until("nobody made the stream", func() bool { return second.work.Ready(t.Context()) == nil })
				second.stop() // whatever comes now is the first one's work
			}
			r.until("not begun anew", func() bool {
				return r.log.count("data gone, renewals stopped") == 1 && first.work.Ready(t.Context()) == nil
			})
			r.must(r.sim.PushTicket(appid))
			r.send(r.next(events.KindTicket))
			r.eventually(func() error { return r.accepted(alice) })
			r.drained()
			if r.credential(aliceKey).Ref != "tenant-7" {
				t.Error("the ref was in the status and is lost")
			}
			r.wantScheduled(aliceKey)
			generation := r.token(aliceKey).Generation
			r.poke(aliceKey)
			r.generation(aliceKey, generation+1)
		})
	}
}

// TestOlderCopy puts a copy of NATS's data in its place that lacks the newest account, whose authorization nobody will tell of again. The refresher
// that runs notices, and WeChat's list brings the account back, although the next comparison with it was hours away.
func TestOlderCopy(t *testing.T) {
	t.Parallel()
	t.Run("as it was", func(t *testing.T) { olderCopy(t, false) })
	t.Run("and written to since", func(t *testing.T) { olderCopy(t, true) })
}

func olderCopy(t *testing.T, written bool) {
	r := newRig(t, options{idle: true})
	p := r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.authorize(alice)
	r.listRead()
	r.nats.Stop()
	copied := filepath.Join(t.TempDir(), "copy")
	r.must(os.CopyFS(copied, os.DirFS(r.nats.StoreDir())))
	r.nats.Restart()
	bob := wxtoken.AuthorizerKey(appid, "wxb0b00000000000")
	r.authorize(bob.Authorizer)
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	r.drained()
	r.until("not known", func() bool { return r.metric(p, "wxtoken_authorizers", "active") == 2 })
	r.nats.Stop()
	r.must(os.RemoveAll(r.nats.StoreDir()))
	r.must(os.CopyFS(r.nats.StoreDir(), os.DirFS(copied)))
	if written { // by another refresher, or by the server's schedules: it ends no earlier than it did
		srv, err := natsd.Start(t.Context(), natsd.Config{StoreDir: r.nats.StoreDir()})
		r.must(err)
		nc, err := nats.Connect("", nats.InProcessServer(srv))
		r.must(err)
		js := natsdtest.JetStream(r.T, nc)
		for range 100 {
			_, err := bus.Prove(t.Context(), js)
			r.must(err)
		}
		nc.Close()
		srv.Close()
	}
	r.nats.Restart()
	r.until("not noticed", func() bool { return r.log.count("data gone, renewals stopped", "is an older copy") == 1 })
	r.until("not reconciled", func() bool { return r.log.count("reconciled with WeChat") >= 2 })
	r.generation(bob, 1)
	r.must(r.accepted(bob.Authorizer))
	r.wantScheduled(bob)
}

// TestOtherStreamsVanish takes each of the other streams: readiness names it, renewals go on, nobody makes it before a refresher is
// started, and then everything is as it was.
func TestOtherStreamsVanish(t *testing.T) {
	t.Parallel()
	for _, name := range []string{events.StreamAuth, events.StreamMessages, "KV_" + events.BucketStatus, events.StreamDead} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options{})
			r.authorize(alice)
			first := r.start()
			cred := r.credential(aliceKey)
			cred.Ref = "tenant-7"
			_, err := r.store.Save(t.Context(), cred)
			r.must(err)
			r.until("not ready", func() bool { return first.work.Ready(t.Context()) == nil })
			r.must(r.js.DeleteStream(t.Context(), name))
			if err := first.work.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "when it starts") {
				t.Errorf("readiness without %s: %v", name, err)
			}
			r.poke(aliceKey)
			r.generation(aliceKey, 2)
			if names := r.streamNames(); slices.Contains(names, name) {
				t.Errorf("%s was made while everybody runs", name)
			}
			second := r.start()
			r.until("nobody made it", func() bool { return second.work.Ready(t.Context()) == nil })
			if r.log.count("streams created", `"warn"`, name) != 1 {
				t.Errorf("%s was made without a word", name)
			}
			second.stop()
			r.must(first.work.Ready(t.Context()))
			r.poke(aliceKey)
			r.generation(aliceKey, 3)
			s := r.state(aliceKey, wxtoken.StateActive)
			r.until("the profile is not there", func() bool {
				s = r.status(aliceKey)
				return s.Authorizer != nil && len(s.Authorizer.Profile) > 0 && s.Authorizer.AuthorizedAt != nil
			})
			if name == "KV_"+events.BucketStatus && s.Authorizer.Ref != "tenant-7" {
				t.Errorf("ref %q, want that of the credential", s.Authorizer.Ref)
			}
			r.must(r.sim.Reauthorize(appid, alice)) // through AUTH
			r.generation(aliceKey, 4)
		})
	}
}

// TestStreamsMadeWrong has somebody make a stream anew without what it is for. A refresher that is started puts it right, or says that
// it can't.
func TestStreamsMadeWrong(t *testing.T) {
	r := newRig(t, options{})
	first := r.start()
	r.until("not ready", func() bool { return first.work.Ready(t.Context()) == nil })
	make := func(cfg jetstream.StreamConfig) {
		t.Helper()
		r.must(r.js.DeleteStream(t.Context(), cfg.Name))
		_, err := r.js.CreateStream(t.Context(), cfg)
		r.must(err)
	}
	make(jetstream.StreamConfig{Name: events.StreamAuth, Subjects: []string{"wechat.auth.x"}, Retention: jetstream.WorkQueuePolicy})
	make(jetstream.StreamConfig{Name: "KV_" + events.BucketStatus, Subjects: []string{"$KV.status.>"}, MaxMsgsPerSubject: 1, AllowDirect: true, AllowRollup: true, Discard: jetstream.DiscardNew})
	err := first.work.Ready(t.Context())
	for _, words := range []string{"AUTH: subjects", "KV_status: republish"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("readiness says %v, want %q in it", err, words)
		}
	}
	second := r.start()
	r.until("not put right", func() bool { return second.work.Ready(t.Context()) == nil })

	make(jetstream.StreamConfig{Name: events.StreamAuth, Subjects: []string{"wechat.auth.>"}, Storage: jetstream.MemoryStorage, Retention: jetstream.WorkQueuePolicy})
	third := r.start()
	r.until("a stream in memory was taken", func() bool {
		err := third.work.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "stream AUTH") && strings.Contains(err.Error(), "delete it")
	})
}

// TestConsumersVanish deletes the consumers under a refresher: it makes them anew, and nothing that waited is lost.
func TestConsumersVanish(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	for round := range uint64(3) {
		r.must(r.js.DeleteConsumer(t.Context(), events.StreamTokens, events.DurableDue))
		r.must(r.js.DeleteConsumer(t.Context(), events.StreamAuth, events.DurableAuth))
		r.poke(aliceKey)
		r.generation(aliceKey, 2*round+2)
		r.drained() // the list is read once more: it must not tell of the authorization before its push does
		r.must(r.sim.Reauthorize(appid, alice))
		r.generation(aliceKey, 2*round+3)
	}
	r.drained()
	r.wantCalls(apiRefresh, 3)
	r.wantScheduled(aliceKey)
}

// TestCredentialsVanish takes the credentials, and nothing else, from under a refresher that has seen them: nothing is counted among the
// dead, WeChat is asked once for each account that is missed, and no generation goes back.
func TestCredentialsVanish(t *testing.T) {
	r := newRig(t, options{idle: true})
	r.cfg.Derive = []string{"jsapi"}
	p := r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.authorize(alice)
	bob := wxtoken.AuthorizerKey(appid, "wxb0b00000000000")
	r.authorize(bob.Authorizer)
	keys := []wxtoken.Key{aliceKey, {Kind: wxtoken.KindJSAPITicket, Component: appid, Authorizer: alice}}
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	r.until("no ticket", func() bool { return r.token(keys[1]).Generation >= 1 })
	r.drained()
	r.keep()
	stream, err := r.js.Stream(t.Context(), events.StreamTokens)
	r.must(err)
	r.must(stream.Purge(t.Context(), jetstream.WithPurgeSubject("credential.>")))
	r.sim.ClearHistory()
	for _, key := range keys {
		before := r.token(key).Generation
		r.pokeOld(key, before) // as its schedule does
		r.until("not renewed: "+key.String(), func() bool { return r.token(key).Generation > before })
		r.wantScheduled(key)
	}
	r.must(r.accepted(alice))
	r.state(aliceKey, wxtoken.StateActive)
	r.wantCalls(apiInfo, 1)
	r.must(r.sim.Cancel(appid, bob.Authorizer)) // and nobody hears of it
	r.pokeOld(bob, 1)
	r.state(bob, wxtoken.StateRevoked)
	r.wantCalls(apiInfo, 2)
	r.must(r.sim.PushTicket(appid)) // WeChat's next one, within ten minutes
	r.send(r.next(events.KindTicket))
	r.until("no ticket kept", func() bool { return r.credential(componentKey).Ticket != "" })
	r.poke(componentKey)
	r.generation(componentKey, 2)
	r.must(p.work.Ready(t.Context()))
	if n := r.log.count("credential gone"); n == 0 {
		t.Error("nobody missed anything: this showed nothing")
	}
}

// TestCredentialVanishesAmongRefusals removes a credential while WeChat refuses everybody, which nobody believes: the account keeps its
// token and stays without a credential rather than get one that nothing could renew with. Once WeChat is well again it is brought back.
func TestCredentialVanishesAmongRefusals(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	r.authorize(alice)
	crowd := r.crowd(appid, 5)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61003})
	for _, key := range crowd {
		r.pokeOnce(key)
	}
	r.until("refusals are believed", func() bool { return r.log.count("mass refusals doubted") > 0 })
	r.keep()
	r.fail(wechatsim.Fault{API: apiInfo, Errcode: 61003})
	stream, err := r.js.Stream(t.Context(), events.StreamTokens)
	r.must(err)
	r.must(stream.Purge(t.Context(), jetstream.WithPurgeSubject(events.CredentialSubject(aliceKey))))
	r.sim.ClearHistory()
	r.pokeOld(aliceKey, 1)
	r.until("not asked", func() bool { return r.calls(apiInfo, alice) > 0 })
	r.until("not put off", func() bool { return r.log.count("its credential is gone") > 0 })
	if c := r.credential(aliceKey); c.Revision > 0 {
		t.Errorf("a credential was stored, of %d characters of refresh token", len(c.RefreshToken))
	}
	if r.token(aliceKey).Value.IsZero() {
		t.Error("the token was taken away")
	}
	r.sim.Heal()
	r.pokeOld(aliceKey, 1)
	r.generation(aliceKey, 2)
	r.must(r.accepted(alice))
	r.state(aliceKey, wxtoken.StateActive)
}
