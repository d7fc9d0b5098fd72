//go:build unix

package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wxtoken/internal/events"
	"wxtoken/internal/seal"
)

// states returns what tells whether anything was written to any stream.
func (s *site) states() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for _, name := range []string{events.StreamAuth, events.StreamMessages, events.StreamTokens, "KV_" + events.BucketStatus, events.StreamDead} {
		stream, err := s.js.Stream(s.t.Context(), name)
		if err != nil {
			s.t.Fatal(err)
		}
		state := stream.CachedInfo().State
		config, err := json.Marshal(stream.CachedInfo().Config)
		if err != nil {
			s.t.Fatal(err)
		}
		all[name] = fmt.Sprintf("messages %d, last %d, bytes %d, consumers %d, %s", state.Msgs, state.LastSeq, state.Bytes, state.Consumers, config)
	}
	return all
}

// wrongSeeds has refreshers start on sealed data without the seed, or with another one: they end at once, say why, and change nothing.
func wrongSeeds(t *testing.T, p programs) {
	s := newLazySite(t, p)
	keys, right := newKeys(t)
	_, wrong := newKeys(t)
	in, one := s.ingest("WXTOKEN_SEAL_KEY="+keys.Public()), s.refresher("WXTOKEN_SEAL_KEY="+right)
	s.settled()
	in.terminate()
	one.terminate()
	before := s.states()
	for name, env := range map[string][]string{
		"no seed": nil, "another seed": {"WXTOKEN_SEAL_KEY=" + wrong}, "other settings too": {"WXTOKEN_MESSAGES_MAX_AGE=1h"},
		"export, another seed": {"WXTOKEN_SEAL_KEY=" + wrong, "WXTOKEN_EXPORT=" + filepath.Join(t.TempDir(), "x")},
		"import, no seed":      {"WXTOKEN_IMPORT=/dev/null", "WXTOKEN_IMPORT_APPLY=true"},
	} {
		bad := s.refresher(env...)
		if code := bad.wait().ExitCode(); code != 1 {
			t.Errorf("%s: exit code %d, want 1", name, code)
		}
		if said := bad.stderr.String(); !strings.Contains(said, "sealed for "+keys.Public()+": put the seed of that key back into --seal-key-file") {
			t.Errorf("%s: %s", name, said)
		}
		for stream, state := range s.states() {
			if state != before[stream] {
				t.Errorf("%s: %s was %s, and is %s", name, stream, before[stream], state)
			}
		}
	}
	key := s.keys()[1]
	generation := s.generations()[key]
	s.refresher("WXTOKEN_SEAL_KEY=" + right)
	s.makeDue(key, generation)
	poll(t, func() error { return s.renewed(key, generation+1) })
	for _, each := range s.processes {
		if said := each.stdout.String() + each.stderr.String(); strings.Contains(said, right) || strings.Contains(said, wrong) {
			t.Errorf("%s shows a seed", each.name)
		}
	}
}

// sealKeyChanged turns sealing on and then changes the key, as docs/operations.md says, with processes that are restarted one after the
// other. Pushes, renewals and authorizations go on all the time, and no reader is ever without a good token.
func sealKeyChanged(t *testing.T, p programs) {
	s := newSite(t, p, 3, "--life=60s")
	first, oldSeed := newKeys(t)
	second, newSeed := newKeys(t)
	file := filepath.Join(t.TempDir(), "seeds")
	in := s.ingest()
	refreshers := []*process{s.refresher(), s.refresher()}
	poll(t, func() error { return s.allAccepted(nil, 1) })
	reader, stop := s.read(), s.pushLoad()
	authorized := 0
	authorize := func() { // a code that ingest seals in some way, and a token that comes of it
		t.Helper()
		authorized++
		s.tell("/authorize", fmt.Sprintf("authorizer=wxseal%d", authorized))
	}
	restart := func(seeds ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(seeds, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		for i, old := range refreshers {
			old.terminate()
			refreshers[i] = s.refresher("WXTOKEN_SEAL_KEY_FILE=" + file)
			refreshers[i].addr("ops")
			poll(t, func() error {
				if !strings.Contains(refreshers[i].stdout.String(), "all records are sealed with the first key") {
					return errors.New("not all is sealed with the first key")
				}
				return nil
			})
			authorize()
		}
	}
	ingest := func(public string) {
		t.Helper()
		before := in
		in = s.ingest("WXTOKEN_SEAL_KEY=" + public)
		before.terminate()
		authorize()
	}
	sealedFor := func(public string) {
		t.Helper()
		poll(t, func() error {
			for _, r := range refreshers {
				_, metrics := r.get("/metrics")
				for line := range strings.Lines(metrics) {
					if strings.HasPrefix(line, "wxtoken_sealed_records{") && !strings.Contains(line, public[:8]) && !strings.HasSuffix(line, " 0\n") {
						return errors.New(line)
					}
				}
			}
			return nil
		})
		for _, key := range s.keys() {
			m, err := s.last(events.StreamTokens, events.CredentialSubject(key))
			if err != nil {
				t.Fatal(err)
			}
			if !seal.Sealed(m.Data) || m.Header.Get(seal.HeaderFor) != public {
				t.Errorf("%s is sealed for %q, want %q", key, m.Header.Get(seal.HeaderFor), public)
			}
		}
	}
	calm := func() { // a change as the runbook has it raises no alarm
		t.Helper()
		for _, r := range refreshers {
			if _, metrics := r.get("/metrics"); !strings.Contains(metrics, "\nwxtoken_sealed_unopened_total 0\n") {
				t.Errorf("%s could not open an event", r.name)
			}
		}
		m, err := s.last("KV_"+events.BucketStatus, "$KV.status."+s.keys()[0].String())
		if err != nil || strings.Contains(string(m.Data), "EventsOpened") {
			t.Errorf("status of the component: %v %s", err, m.Data)
		}
	}
	restart(oldSeed)
	calm()
	ingest(first.Public())
	sealedFor(first.Public())

	restart(oldSeed, newSeed)
	calm()
	ingest(second.Public())
	calm()
	restart(newSeed, oldSeed)
	sealedFor(second.Public())
	calm()
	poll(t, func() error { // an event that a refresher took along when it ended comes again, and may be sealed for the old key
		auth, err := s.js.Stream(t.Context(), events.StreamAuth)
		if err == nil && auth.CachedInfo().State.Msgs > 0 {
			err = fmt.Errorf("%d events wait", auth.CachedInfo().State.Msgs)
		}
		return err
	})
	restart(newSeed)

	before := s.generations()
	poll(t, func() error { return s.allAccepted(before, 1) })
	for i := range authorized {
		poll(t, func() error {
			status, err := s.last("KV_"+events.BucketStatus, fmt.Sprintf("$KV.status.authorizer.%s.wxseal%d", s.keys()[0].Component, i+1))
			if err != nil || !strings.Contains(string(status.Data), `"active"`) {
				return fmt.Errorf("account %d has not come: %w", i+1, err)
			}
			return nil
		})
	}
	stop()
	reader.check()
	poll(t, s.covered)
}
