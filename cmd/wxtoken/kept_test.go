//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams"
	"wxtoken/internal/streams/streamstest"
)

// kept is a keeper's streams with something in each, and nobody at work on them.
type kept struct {
	*testing.T
	srv   *server.Server
	nc    *nats.Conn // of the refresher
	js    jetstream.JetStream
	admin jetstream.JetStream // may do everything in the keeper's account
	apis  []string
}

var (
	hotel = wxtoken.AuthorizerKey("wx1", "wx2")
	gone  = wxtoken.AuthorizerKey("wx1", "wx3") // its last message is a deletion: without a payload
	cfg   = events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour, MessagesMaxBytes: 1 << 20}
)

// adminUser gives the account of the refresher a user who may do everything.
func adminUser(text string) string {
	user := "{user: admin, password: secret-of-admin}\n      "
	for _, before := range []string{"{\n        # Makes and updates streams", "{\n      # Makes and updates streams"} {
		text = strings.Replace(text, before, user+before, 1)
	}
	return text
}

func newKept(t *testing.T, file string, changes ...func(string) string) *kept {
	t.Helper()
	k := &kept{T: t, srv: shipped(t, file, append(changes, adminUser)...)}
	if file == accounts {
		k.apis = []string{"services.API"}
	}
	k.nc = as(t, k.srv, "refresher")
	k.js, k.admin = k.jetstream(k.nc), k.jetstream(as(t, k.srv, "admin"))
	cfg := cfg
	cfg.ServicesAPI = k.apis
	streamstest.Setup(t, k.nc, k.js, cfg)
	for _, durable := range []struct{ stream, name, filter string }{
		{events.StreamAuth, events.DurableAuth, events.AllAuth}, {events.StreamTokens, events.DurableDue, events.AllDue},
	} {
		if _, err := k.js.CreateOrUpdateConsumer(t.Context(), durable.stream, jetstream.ConsumerConfig{
			Durable: durable.name, FilterSubject: durable.filter, AckPolicy: jetstream.AckExplicitPolicy,
		}); err != nil {
			t.Fatal(err)
		}
	}
	k.put(events.CredentialSubject(hotel), `{"refresh_token":"SEKRET"}`)
	k.put(events.ScheduleSubject(hotel), "{}")
	k.put(events.TokenSubject(hotel), k.token(hotel, 1))
	k.put("$KV.status."+hotel.String(), `{"key":"`+hotel.String()+`"}`)
	k.put("dead.wx1", "{}")
	k.remove(gone)
	ingest := k.jetstream(as(t, k.srv, "ingest"))
	for subject, payload := range map[string]string{
		"wechat.auth.wx1.callback": `{"code":"SEKRET"}`,
		// What a stolen ingest may hand in: JSON that means something to the API.
		"wechat.message.wx1.wx2.text":  `{"seq":1000000}`,
		"wechat.message.wx1.wx2.image": `{"name":"KV_tokens","subjects":["$KV.tokens.>"]}`,
		"wechat.message.wx1.wx2.voice": `{"stream_name":"KV_tokens","config":{"name":"x","deliver_subject":"credential.x","ack_policy":"none"}}`,
	} {
		if _, err := ingest.Publish(t.Context(), subject, []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	for range 40 { // more than the tokens have had, so that these come later in a mirror's eyes
		if _, err := ingest.Publish(t.Context(), "wechat.message.wx1.wx2.text", []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	for _, api := range k.apis {
		k.mirror(api, cfg)
	}
	k.reads(1)
	return k
}

// mirror makes the mirrors, and tells how they are.
func (k *kept) mirror(api string, cfg events.SetupConfig) []streams.Mirror {
	k.Helper()
	all := streams.SetupMirrors(k.Context(), k.nc, k.js, api, cfg)
	for _, m := range all {
		if m.Err != nil {
			k.Fatal(m.Err)
		}
	}
	return all
}

func (k *kept) jetstream(nc *nats.Conn) jetstream.JetStream {
	k.Helper()
	js := natsdtest.JetStream(k, nc)
	return js
}

func (k *kept) token(key wxtoken.Key, generation uint64) string {
	return fmt.Sprintf(`{"key":%q,"value":"SEKRET-%d","generation":%d,"obtained_at":"2026-11-26T00:00:00Z","renew_at":"2100-01-01T00:00:00Z","expires_at":"2100-01-01T00:00:00Z"}`,
		key.String(), generation, generation)
}

// put stores as the refresher.
func (k *kept) put(subject, payload string) {
	k.Helper()
	if _, err := k.js.Publish(k.Context(), subject, []byte(payload)); err != nil {
		k.Fatal(err)
	}
}

// remove deletes a token, as the refresher does it.
func (k *kept) remove(key wxtoken.Key) {
	k.Helper()
	m := nats.NewMsg(events.TokenSubject(key))
	m.Header.Set("KV-Operation", "DEL")
	if _, err := k.js.PublishMsg(k.Context(), m); err != nil {
		k.Fatal(err)
	}
}

// reads waits until an ordinary KV client of the services has a generation of the token, and hears
// of it.
func (k *kept) reads(generation uint64) {
	k.Helper()
	js := k.jetstream(as(k.T, k.srv, "service"))
	within(k.T, 3*time.Minute, "the services to read the token", func() error { // a mirror that looked for its stream in vain waits for up to two
		kv, err := js.KeyValue(k.Context(), events.BucketTokens)
		if err != nil {
			return err
		}
		e, err := kv.Get(k.Context(), hotel.String())
		if err == nil && string(e.Value()) != k.token(hotel, generation) {
			err = errors.New("another value")
		}
		return err
	})
}

// state is all that an intruder might change in the keeper's account, but for messages that its
// user may send.
func (k *kept) state() string {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), time.Minute) // the server may have much to do yet
	defer cancel()
	out := map[string]any{}
	for _, name := range []string{events.StreamAuth, events.StreamTokens, "KV_status", events.StreamMessages, events.StreamDead} {
		s, err := k.admin.Stream(ctx, name)
		if errors.Is(err, context.DeadlineExceeded) {
			k.Fatal(err)
		}
		if err != nil {
			out[name] = err.Error()
			continue
		}
		info := s.CachedInfo()
		c := map[string]any{}
		consumers := s.ListConsumers(ctx)
		for i := range consumers.Info() {
			if i.Config.Durable != "" { // a watch comes and goes
				c[i.Name] = i.Config
			}
		}
		if err := consumers.Err(); err != nil {
			k.Fatal(err)
		}
		if name == events.StreamAuth || name == events.StreamMessages { // ingest may add to these
			info.State.Msgs, info.State.Bytes, info.State.LastSeq, info.State.LastTime = 0, 0, 0, time.Time{}
			info.State.Subjects = nil
		}
		info.State.Consumers = len(c)
		out[name] = []any{info.Config, info.State, c}
	}
	text, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		k.Fatal(err)
	}
	return string(text)
}
