//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/streams"
)

// clientRequest is a request as a KV client sends it, and what becomes of it with either file: it
// is answered, refused at once, or (in single-account.conf alone) forbidden by a permission, which
// some clients hear and others wait for in vain.
type clientRequest struct {
	Client, Call, Subject string
	Body                  json.RawMessage
	Accounts              string `json:"nats-server.conf"`
	Single                string `json:"single-account.conf"`
}

// TestReadersRequests asks as the KV clients ask that are not run here.
func TestReadersRequests(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("testdata", "clients", "requests.json"))
	if err != nil {
		t.Fatal(err)
	}
	var requests []clientRequest
	if err := json.Unmarshal(text, &requests); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{accounts, single} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			k := newKept(t, file)
			nc := as(t, k.srv, "service")
			if _, err := nc.SubscribeSync("_INBOX_service.watch"); err != nil { // nobody there, and the server forgets the consumer
				t.Fatal(err)
			}
			watch, err := nc.Request("$JS.API.CONSUMER.CREATE.KV_tokens.watch.$KV.tokens.>", []byte(`{"stream_name":"KV_tokens","config":{"deliver_policy":"last_per_subject",
				"ack_policy":"none","filter_subject":"$KV.tokens.>","deliver_subject":"_INBOX_service.watch"}}`), patience)
			if err != nil || strings.Contains(string(watch.Data), `"error"`) {
				t.Fatalf("%s, %v", watch.Data, err)
			}
			for i, r := range requests {
				name := "watch"
				if strings.Contains(r.Subject, ".CREATE.") {
					name = "other"
				}
				fill := strings.NewReplacer("<component>", hotel.Component, "<authorizer>", hotel.Authorizer, "<inbox>", nats.NewInbox(), "<name>", name, `"seq": 14`, `"seq": 3`)
				body := fill.Replace(string(r.Body))
				if body == "null" {
					body = ""
				}
				want := r.Accounts
				if file == single {
					want = r.Single
				}
				if got, answer := outcome(t, k, fill.Replace(r.Subject), body); got != want {
					t.Errorf("%d %s, %s (%s): %s, want %s: %s", i, r.Client, r.Call, r.Subject, got, want, answer)
				}
			}
			k.reads(1)
		})
	}
}

// outcome says what becomes of a request of the user service.
func outcome(t *testing.T, k *kept, subject, body string) (outcome, answer string) {
	t.Helper()
	forbidden := make(chan struct{}, 2) // the inbox might be forbidden too
	nc, err := nats.Connect(urlOf(k.srv, "service"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Error(err)
		}
		forbidden <- struct{}{}
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	answers := make(chan *nats.Msg, 1)
	inbox, err := nc.ChanSubscribe(nc.NewInbox(), answers)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest(subject, inbox.Subject, []byte(body)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-forbidden:
		return "silence", ""
	case <-time.After(patience):
		return "nothing at all", ""
	case m := <-answers:
		switch {
		case m.Header.Get("Status") == "503":
			return "refused", ""
		case strings.Contains(string(m.Data), `"error":`) || m.Header.Get("Status") != "":
			return "error", string(m.Data)
		}
		return "answered", string(m.Data)
	}
}

// TestReadersRecord: a stream on token.updated.> stays empty, since what is announced carries the
// headers of the batch that it was stored with. One that sources the bucket, made as
// docs/readers.md says, has every token.
func TestReadersRecord(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/readers.md")
	if err != nil {
		t.Fatal(err)
	}
	const request = "$JS.API.STREAM.CREATE.TOKEN_HISTORY"
	_, rest, ok := strings.Cut(string(page), request+"' '")
	body, _, ends := strings.Cut(rest, "'\n")
	if !ok || !ends {
		t.Fatal("docs/readers.md does not say how the record is made")
	}
	for _, file := range []string{accounts, single} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			k := newKept(t, file)
			if _, err := k.admin.CreateStream(t.Context(), jetstream.StreamConfig{Name: "NEWS", Subjects: []string{"token.updated.>"}}); err != nil {
				t.Fatal(err)
			}
			if m, err := k.nc.Request(request, []byte(body), patience); err != nil || strings.Contains(string(m.Data), `"error"`) {
				t.Fatalf("%s, %v", m.Data, err)
			}
			kept, err := store.Open(t.Context(), k.nc, k.js, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var committer sync.WaitGroup
			committer.Go(func() { kept.Run(ctx) })
			defer committer.Wait()
			defer cancel()
			key, now := wxtoken.AuthorizerKey("wx1", "wx9"), time.Now().UTC()
			credential := account.Credential{Key: key, RefreshToken: "SEKRET"}
			messages := func(name string) uint64 {
				s, err := k.admin.Stream(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				of, err := s.Info(t.Context(), jetstream.WithSubjectFilter(events.TokenSubject(key)))
				if err != nil {
					t.Fatal(err)
				}
				if name == "NEWS" {
					return of.State.Msgs
				}
				return of.State.Subjects[events.TokenSubject(key)]
			}
			recorded := func(want uint64) { // a token that is replaced before it was read is in no record
				t.Helper()
				eventually(t, "the record", func() error {
					if n := messages("TOKEN_HISTORY"); n != want {
						return fmt.Errorf("%d, want %d", n, want)
					}
					return nil
				})
			}
			const renewals = 5
			for i := range uint64(renewals) {
				credential.Generation = i + 1
				token := wxtoken.Token{Key: key, Value: wxtoken.NewSecret("SEKRET"), Generation: i + 1, ObtainedAt: now, RenewAt: now.Add(time.Hour), ExpiresAt: now.Add(2 * time.Hour)}
				if credential, err = kept.Commit(t.Context(), credential, token); err != nil {
					t.Fatal(err)
				}
				recorded(i + 1)
			}
			if _, err := kept.Revoke(t.Context(), credential); err != nil {
				t.Fatal(err)
			}
			recorded(renewals + 1)
			if n := messages("NEWS"); n != 0 {
				t.Errorf("a stream on token.updated.> has %d messages: docs/contract.md and docs/readers.md say that it stays empty", n)
			}
			if missing := streams.CheckIntact(t.Context(), k.js, cfg); missing != nil {
				t.Errorf("beside the record: %v", missing)
			}
		})
	}
}
