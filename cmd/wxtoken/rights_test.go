//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/streams/streamstest"
)

// TestServiceRefused: what a service asks for that would harm others is refused, at once where
// clients might ask for it, and nothing is changed; also where it knows a name that it can't find
// out.
func TestServiceRefused(t *testing.T) {
	t.Parallel()
	k := newKept(t, accounts)
	other := k.jetstream(as(t, k.srv, "service"))
	kv, err := other.KeyValue(t.Context(), events.BucketTokens)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := kv.Watch(t.Context(), hotel.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watch.Stop() }()
	if _, err := other.CreateConsumer(t.Context(), events.StreamMessages, jetstream.ConsumerConfig{Durable: "shop"}); err != nil {
		t.Fatal(err)
	}
	before, services := k.state(), consumersOf(k, "SERVICES")
	for stream, known := range map[string]string{"KV_tokens": services["KV_tokens"][0], "KV_status": "x", "MESSAGES": "shop"} {
		verbs := []string{"STREAM.DELETE.%s", "STREAM.PURGE.%s", "STREAM.UPDATE.%s", "STREAM.CREATE.%s", "STREAM.MSG.DELETE.%s", "STREAM.SNAPSHOT.%s", "STREAM.RESTORE.%s",
			"STREAM.LEADER.STEPDOWN.%s", "STREAM.PEER.REMOVE.%s", "CONSUMER.NAMES.%s", "CONSUMER.LIST.%s", "CONSUMER.PAUSE.%s." + known, "CONSUMER.UNPIN.%s." + known,
			"CONSUMER.RESET.%s." + known, "CONSUMER.LEADER.STEPDOWN.%s." + known, "CONSUMER.DURABLE.CREATE.%s." + known}
		if stream == "MESSAGES" { // where names are known
			verbs = append(verbs, "CONSUMER.DELETE.%s."+known)
		}
		for _, verb := range verbs {
			for _, prefix := range []string{"$JS.API.", "keeper.API.", "setup.API.", "services.API."} {
				want := "refused"
				if prefix != "$JS.API." || strings.Contains(verb, "RESET") {
					want = "silence"
				}
				if got, answer := outcome(t, k, prefix+fmt.Sprintf(verb, stream), `{"group":"g"}`); got != want {
					t.Errorf("%s%s: %s, want %s: %s", prefix, fmt.Sprintf(verb, stream), got, want, answer)
				}
			}
		}
	}
	for _, subject := range []string{"$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE", "$JS.API.ACCOUNT.PURGE.SERVICES", "$JS.API.ACCOUNT.PURGE.KEEPER",
		"$JS.API.STREAM.INFO.AUTH", "$JS.API.DIRECT.GET.AUTH", "$JS.API.STREAM.MSG.GET.AUTH", "$JS.API.STREAM.MSG.GET.MESSAGES", "$JS.API.CONSUMER.CREATE.AUTH.x",
		"$JS.API.DIRECT.GET.KV_status.credential.x.y", "$KV.tokens." + hotel.String(), "$KV.status." + hotel.String(), "keeper.API.$KV.tokens." + hotel.String()} {
		want := "refused"
		if strings.Contains(subject, "credential") {
			want = "error" // no such message: it is not there
		}
		if got, answer := outcome(t, k, subject, `{}`); got != want {
			t.Errorf("%s: %s, want %s: %s", subject, got, want, answer)
		}
	}
	if _, err := as(t, k.srv, "service").Request("$JS.API.DIRECT.GET.KV_tokens.credential."+hotel.String(), nil, patience); err != nil {
		t.Errorf("a look for a credential: %v, want an answer", err)
	}
	if after := k.state(); after != before {
		t.Errorf("harm done\nbefore: %s\nafter: %s", before, after)
	}
	if after := consumersOf(k, "SERVICES"); !maps.EqualFunc(after, services, func(a, b []string) bool { slices.Sort(a); slices.Sort(b); return slices.Equal(a, b) }) {
		t.Errorf("consumers %v, before %v", after, services)
	}
	<-watch.Updates()
	<-watch.Updates() // none: that was all
	k.put(events.TokenSubject(hotel), k.token(hotel, 2))
	select {
	case e := <-watch.Updates():
		if string(e.Value()) != k.token(hotel, 2) {
			t.Errorf("the other service hears %s", e.Value())
		}
	case <-time.After(patience):
		t.Error("the other service hears nothing")
	}
}

// TestGatewayRefused: with the gateway's password nothing is read but what services read, and nothing is changed.
func TestGatewayRefused(t *testing.T) {
	t.Parallel()
	k := newKept(t, accounts)
	before := k.state()
	js := k.jetstream(as(t, k.srv, "gateway"))
	kv, err := js.KeyValue(t.Context(), events.BucketTokens)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := kv.Watch(t.Context(), hotel.String())
	if err != nil {
		t.Fatal(err)
	}
	if e := <-watch.Updates(); string(e.Value()) != k.token(hotel, 1) {
		t.Errorf("the gateway reads %s", e.Value())
	}
	if err := watch.Stop(); err != nil {
		t.Error(err)
	}
	ask := func(subject string) (*nats.Msg, error) {
		nc := as(t, k.srv, "gateway")
		defer nc.Close()
		if err := nc.PublishRequest(subject, "_INBOX_gateway.nobody", nil); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil || errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
			return nil, errors.Join(err, nc.LastError())
		}
		return nc.Request(subject, nil, patience)
	}
	for _, subject := range []string{ // it may not say that
		"$KV.tokens." + hotel.String(), "$KV.status." + hotel.String(), "keeper.API.$KV.tokens." + hotel.String(), events.CredentialSubject(hotel),
		events.ScheduleSubject(hotel), "wechat.auth.wx1.callback", "wechat.message.wx1.wx2.text", "mirror.services.KV_tokens", "_INBOX_service.x",
		events.SubjectRenew, events.SubjectReconcile, events.SubjectQuota, events.SubjectConnectOpen, "$SRV.PING",
		"$JS.API.CONSUMER.RESET.KV_tokens.services", "$JS.API.CONSUMER.CREATE.KV_tokens.services", "$JS.FC.KV_tokens.services.x",
	} {
		if _, err := ask(subject); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("%s: %v, want a violation", subject, err)
		}
	}
	for _, stream := range []string{"KV_tokens", "KV_status", "MESSAGES", "AUTH", "DEAD"} { // nothing is there that would hear it
		for _, verb := range []string{"DELETE", "PURGE", "UPDATE", "CREATE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN"} {
			if _, err := ask("$JS.API.STREAM." + verb + "." + stream); !errors.Is(err, nats.ErrNoResponders) {
				t.Errorf("%s %s: %v, want no responders", verb, stream, err)
			}
		}
	}
	for _, subject := range []string{"$JS.API.STREAM.INFO.AUTH", "$JS.API.DIRECT.GET.AUTH", "$JS.API.STREAM.MSG.GET.AUTH", "$JS.API.ACCOUNT.PURGE.SERVICES", "$JS.API.META.LEADER.STEPDOWN"} {
		if _, err := ask(subject); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("%s: %v, want no responders", subject, err)
		}
	}
	for _, subject := range []string{events.CredentialSubject(hotel), "credential.seal"} { // it is not in the mirror
		if m, err := ask("$JS.API.DIRECT.GET.KV_tokens." + subject); err != nil || m.Header.Get("Status") != "404" || len(m.Data) > 0 {
			t.Errorf("%s: %v, %v, want 404", subject, m, err)
		}
	}
	for _, subject := range []string{"_INBOX_service.>", "_INBOX_refresher.>", "_INBOX.>", "_INBOX_>", ">", "$JS.API.>", "wxtoken.>", "mirror.>"} {
		nc := as(t, k.srv, "gateway")
		if _, err := nc.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil || !errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
			t.Errorf("hears %s: %v, %v", subject, err, nc.LastError())
		}
		nc.Close()
	}
	if after := k.state(); after != before {
		t.Errorf("harm done\nbefore: %s\nafter: %s", before, after)
	}
}

// TestServiceForOneAuthorizer puts to use what deploy/nats/nats-server.conf has as a comment.
func TestServiceForOneAuthorizer(t *testing.T) {
	t.Parallel()
	k := &kept{T: t, srv: shipped(t, accounts, adminUser, func(text string) string {
		before, example, ok := strings.Cut(text, "      # {\n")
		if !ok {
			return text // the other file
		}
		example, after, _ := strings.Cut(example, "      # }\n")
		example = strings.ReplaceAll("      # {\n"+example+"      # }\n", "      # ", "      ")
		return before + strings.NewReplacer("<component>", hotel.Component, "<authorizer>", hotel.Authorizer).Replace(example) + after
	})}
	k.nc = as(t, k.srv, "refresher")
	k.js = k.jetstream(k.nc)
	streamstest.Setup(t, k.nc, k.js, cfg)
	k.mirror("services.API", cfg)
	k.put(events.TokenSubject(hotel), k.token(hotel, 1))
	k.put(events.TokenSubject(gone), k.token(gone, 1))
	k.put("$KV.status."+hotel.String(), `{"key":"`+hotel.String()+`","state":"active"}`)
	k.reads(1)
	shop := as(t, k.srv, "shop")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, shop, wxtoken.Config{Keys: []wxtoken.Key{hotel}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	news, err := shop.SubscribeSync("token.updated." + hotel.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := shop.Flush(); err != nil {
		t.Fatal(err)
	}
	k.put(events.TokenSubject(hotel), k.token(hotel, 2))
	if m, err := news.NextMsg(patience); err != nil || string(m.Data) != k.token(hotel, 2) {
		t.Errorf("news: %v, %v", m, err)
	}
	eventually(t, "the next token", func() error {
		token, err := client.Token(hotel)
		if err == nil && token.Generation != 2 {
			err = errors.New("not yet")
		}
		return err
	})
	eventually(t, "the status", func() error {
		_, err := client.Status(t.Context(), hotel)
		return err
	})
	if _, err := client.Report(t.Context(), wxtoken.Token{Key: hotel, Revision: 1}); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a report where nobody listens: %v", err)
	}
	for _, denied := range []string{
		"$JS.API.DIRECT.GET.KV_tokens.$KV.tokens." + gone.String(), "$JS.API.CONSUMER.CREATE.KV_tokens.x.$KV.tokens.>", "$JS.API.CONSUMER.CREATE.KV_tokens.x",
		"$JS.API.DIRECT.GET.KV_status.$KV.status." + gone.String(), "$JS.API.STREAM.INFO.MESSAGES", "wxtoken.connect.create", "$KV.tokens." + hotel.String(),
	} {
		nc := as(t, k.srv, "shop")
		if err := nc.Publish(denied, nil); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
			t.Errorf("may publish to %s", denied)
		}
	}
	for _, denied := range []string{"token.updated.>", "token.updated." + gone.String(), "_INBOX_service.>", "wechat.reply.>"} {
		nc := as(t, k.srv, "shop")
		if _, err := nc.SubscribeSync(denied); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
			t.Errorf("may subscribe to %s", denied)
		}
	}
}
