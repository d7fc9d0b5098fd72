package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams"
)

// opened returns the store of a server of its own.
func opened(t *testing.T) (*Store, jetstream.JetStream) {
	t.Helper()
	nc := natsdtest.Start(t).Connect()
	js := natsdtest.JetStream(t, nc)
	if _, err := streams.Setup(t.Context(), nc, js, events.SetupConfig{MessagesMaxAge: time.Hour}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), nc, js, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, js
}

// TestReadFromAReplicaThatIsBehind gives a view what a replica has that is behind: first an older
// record than was known, and what was stored since a moment later. That is no loss. Where the newer
// one never comes, it is.
func TestReadFromAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		s, js := opened(t)
		// read returns what lies there now.
		read := func() (msgs []jetstream.Msg) {
			t.Helper()
			cons, err := js.CreateConsumer(t.Context(), events.StreamTokens, jetstream.ConsumerConfig{
				FilterSubjects: []string{events.AllTokens, events.AllCredentials}, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy,
			})
			if err != nil {
				t.Fatal(err)
			}
			batch, err := cons.FetchNoWait(100)
			if err != nil {
				t.Fatal(err)
			}
			for m := range batch.Messages() {
				msgs = append(msgs, m)
			}
			return msgs
		}
		view := newView()
		take := func(msgs []jetstream.Msg) {
			for _, m := range msgs {
				meta, err := m.Metadata()
				if err != nil {
					t.Error(err)
					return
				}
				n := []news{{sequence: meta.Sequence.Stream}}
				s.decode(m, &n[0])
				view.apply(n)
			}
		}
		cred, err := s.Save(t.Context(), account.Credential{Key: wxtoken.AuthorizerKey("wxc", "wxa")})
		if err != nil {
			t.Fatal(err)
		}
		older := read()
		if _, err := s.Save(t.Context(), cred); err != nil {
			t.Fatal(err)
		}
		newer := read()
		if _, err := bus.Prove(t.Context(), js); err != nil { // the stream ends above both
			t.Fatal(err)
		}
		take(newer)

		view.begin()
		take(older)
		view.end()
		looked, arrived := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(arrived)
			for first := true; ; first = false {
				select {
				case <-looked:
					return
				case <-time.After(100 * time.Millisecond):
				}
				if first && !lost {
					take(newer)
				}
				for _, m := range read() { // what the look stores comes last
					if m.Subject() == events.ProofSubject {
						take([]jetstream.Msg{m})
					}
				}
			}
		}()
		if err := s.CheckSame(t.Context(), view); errors.Is(err, ErrGone) != lost || !lost && err != nil {
			t.Errorf("lost %t: %v", lost, err)
		}
		close(looked)
		<-arrived
	}
}

// TestReadingPassedOver has a reading end without what was known and is stored, as that of a replica
// may which catches up meanwhile. The look that finds it missing has it read anew, and so it is no
// loss.
func TestReadingPassedOver(t *testing.T) {
	t.Parallel()
	s, _ := opened(t)
	if _, err := s.Save(t.Context(), account.Credential{Key: wxtoken.AuthorizerKey("wxc", "wxa")}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	view, wait, err := s.Watch(ctx, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); wait() }()
	view.begin()
	view.end()
	if err := s.CheckSame(t.Context(), view); !errors.Is(err, ErrGone) {
		t.Fatalf("the first look: %v", err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		err := s.CheckSame(t.Context(), view)
		if err == nil {
			return
		}
		if errors.Is(err, ErrGone) || time.Now().After(deadline) {
			t.Fatalf("a later look: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
