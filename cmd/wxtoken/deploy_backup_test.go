//go:build unix

package main

import (
	"crypto/rand"
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// TestDeployedBackup copies a stream as nats backup stream does, deletes it, and puts it back. It
// asks for small pieces, so that there are many, and the next one comes only when one was acked.
// The nats command itself is run by TestRunbook, on a stream of one piece.
func TestDeployedBackup(t *testing.T) {
	t.Parallel()
	for _, file := range []string{accounts, single} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			testBackup(t, file)
		})
	}
}

func testBackup(t *testing.T, file string) {
	srv := shipped(t, file, withRepair)
	quietly := func(user string) *nats.Conn {
		nc := as(t, srv, user)
		nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Errorf("%s: %v", user, err) })
		return nc
	}
	refresher, backup, repair := quietly("refresher"), quietly("backup"), quietly("repair")
	js := natsdtest.JetStream(t, refresher)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: events.StreamTokens, Subjects: []string{events.AllTokens}})
	if err != nil {
		t.Fatal(err)
	}
	const messages = 20
	for range messages {
		value := make([]byte, 1000) // that can't be compressed
		if _, err := rand.Read(value); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), "$KV.tokens.authorizer.wx1.wx2", value); err != nil {
			t.Fatal(err)
		}
	}

	// ask makes a request to JetStream, or sends it a piece, and returns the answer.
	ask := func(nc *nats.Conn, subject string, request any) map[string]json.RawMessage {
		t.Helper()
		data, isPiece := request.([]byte)
		if !isPiece {
			if data, err = json.Marshal(request); err != nil {
				t.Fatal(err)
			}
		}
		m, err := nc.Request(subject, data, patience)
		if err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		var answer map[string]json.RawMessage
		if len(m.Data) > 0 {
			if err := json.Unmarshal(m.Data, &answer); err != nil {
				t.Fatalf("%s: %v", subject, err)
			}
		}
		if answer["error"] != nil {
			t.Fatalf("%s: %s", subject, m.Data)
		}
		return answer
	}
	inbox := backup.NewInbox()
	pieces, err := backup.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	meta := ask(backup, "$JS.API.STREAM.SNAPSHOT."+events.StreamTokens,
		map[string]any{"deliver_subject": inbox, "no_consumers": true, "chunk_size": 1024, "window_size": 1024})
	var copied [][]byte
	for {
		m, err := pieces.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Data) == 0 {
			if status := m.Header.Get("Status"); status != "204" {
				t.Fatalf("the copy ended with %s %s after %d pieces", status, m.Header.Get("Description"), len(copied))
			}
			break
		}
		copied = append(copied, m.Data)
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(copied) < messages/2 {
		t.Errorf("only %d pieces", len(copied))
	}

	if m, err := repair.Request("$JS.API.STREAM.DELETE."+events.StreamTokens, nil, patience); err != nil {
		t.Fatal(m, err)
	}
	var to string
	if err := json.Unmarshal(ask(repair, "$JS.API.STREAM.RESTORE."+events.StreamTokens, map[string]any{"config": meta["config"], "state": meta["state"]})["deliver_subject"], &to); err != nil {
		t.Fatal(err)
	}
	for _, piece := range append(copied, []byte{}) {
		ask(repair, to, piece)
	}
	info, err := stream.Info(t.Context())
	if err != nil || info.State.Msgs != messages {
		t.Errorf("%+v %v, want %d messages", info, err, messages)
	}
}
