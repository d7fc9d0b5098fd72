//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
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
	js, err := jetstream.New(nc)
	if err != nil {
		k.Fatal(err)
	}
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

// targets are the subjects on which a message that the server is made to publish could do harm.
func targets() []string {
	key := hotel.String()
	all := []string{
		"$KV.tokens." + key, "credential." + key, "credential.seal", "renewal.scheduled." + key, "renewal.due." + key, "$KV.status." + key,
		"dead.wx1", "wechat.auth.wx1.unauthorized", "wechat.message.wx1.wx2.text",
		"mirror.services.KV_tokens", "$JS.FC.KV_tokens.services.x", "_INBOX_refresher.x", "_INBOX_ingest.x",
		"wxtoken.renew", "wxtoken.connect.open", "$JS.API.CONSUMER.DELETE.KV_tokens.refresher-due", "$JS.API.CONSUMER.DELETE.KV_tokens.services",
		"$JS.API.CONSUMER.CREATE.KV_tokens.refresher-due", "$JS.API.CONSUMER.DELETE.AUTH.refresher-auth", "$JS.API.META.LEADER.STEPDOWN",
	}
	for _, stream := range []string{"KV_tokens", "KV_status", "MESSAGES", "AUTH"} {
		for _, prefix := range []string{"$JS.API", "setup.API", "services.API", "keeper.API"} {
			for _, verb := range []string{"DELETE", "PURGE", "UPDATE", "CREATE", "SNAPSHOT", "RESTORE", "MSG.DELETE", "LEADER.STEPDOWN"} {
				all = append(all, prefix+".STREAM."+verb+"."+stream)
			}
		}
	}
	return all
}

// apiTargets are the subjects on which an answer could pass for a request about what feeds the
// mirrors. (What a stolen ingest handed in would, there: TestMirrorFollows.)
func apiTargets() (all []string) {
	for _, stream := range []string{"KV_tokens", "KV_status", "MESSAGES"} {
		for _, subject := range []string{
			"$JS.API.CONSUMER.CREATE.%s.services", "$JS.API.CONSUMER.CREATE.%s", "$JS.API.CONSUMER.DURABLE.CREATE.%s.services",
			"$JS.API.CONSUMER.DELETE.%s.services", "keeper.API.CONSUMER.RESET.%s.services", "setup.API.STREAM.INFO.%s",
		} {
			all = append(all, fmt.Sprintf(subject, stream))
		}
	}
	return all
}

// feeder is the request for a consumer that would be taken for the one that feeds a mirror: with
// its name, and delivering where it delivers.
func feeder(stream, filter string) string {
	return fmt.Sprintf(`{"stream_name":%q,"config":{"name":"services","ack_policy":"none","deliver_policy":"all","filter_subject":%q,"deliver_subject":"mirror.services.%[1]s"}}`,
		stream, filter)
}

// intrude does all that a user may ask the server for, and has each answer published on each
// target.
func (k *kept) intrude(user string) {
	nc := as(k.T, k.srv, user)
	asks := map[string]string{
		"$JS.API.STREAM.INFO.AUTH": "", "wechat.auth.wx1.callback": "{}", "wechat.message.wx1.wx2.text": "{}", // a publish ack
		"$JS.API.DIRECT.GET.KV_tokens.$KV.tokens." + hotel.String(): "",
		"$JS.API.DIRECT.GET.KV_tokens.$KV.tokens.nobody":            "", // an answer without a payload
		"$JS.API.STREAM.INFO.KV_tokens":                             "",
		"$JS.API.STREAM.INFO.MESSAGES":                              "",
		"$JS.API.CONSUMER.INFO.MESSAGES.intruder":                   "",
		"$JS.API.CONSUMER.MSG.NEXT.MESSAGES.intruder":               `{"batch":8,"no_wait":true}`, // the messages, and 404
		"$JS.API.INFO": "", "$JS.API.STREAM.NAMES": "", "$JS.API.STREAM.LIST": "",
		"$JS.API.STREAM.MSG.GET.KV_tokens":         `{"last_by_subj":"$KV.tokens.` + hotel.String() + `"}`,
		"$JS.API.STREAM.MSG.GET.KV_status":         `{"last_by_subj":"$KV.status.nobody"}`,
		"$JS.API.DIRECT.GET.KV_tokens":             `{"multi_last":["$KV.tokens.>"]}`,
		"$JS.API.CONSUMER.INFO.KV_tokens.intruder": "",
		"$JS.API.CONSUMER.CREATE.KV_tokens":        feeder("KV_tokens", "$KV.tokens.>"),
		"$JS.API.CONSUMER.CREATE.KV_status":        feeder("KV_status", "$KV.status.>"),
		"$JS.API.CONSUMER.CREATE.MESSAGES":         feeder("MESSAGES", "wechat.>"),
		"$JS.API.CONSUMER.CREATE.KV_tokens.feed.>": strings.Replace(feeder("KV_tokens", ">"), `"services"`, `"feed"`, 1), // its answer looks like a request for it
		"$JS.API.CONSUMER.INFO.KV_tokens.feed":     "",
		"$JS.API.CONSUMER.DELETE.KV_tokens.nobody": "",
		"wxtoken.reject":                           "{}", // nobody is there
		"wxtoken.connect.create":                   "{}",
	}
	create := func(stream, name, filter, deliver string, start ...int) (subject, payload string) {
		config := map[string]any{"name": name, "ack_policy": "none", "deliver_policy": "all", "filter_subject": filter, "mem_storage": true}
		if len(start) > 0 {
			config["deliver_policy"], config["opt_start_seq"] = "by_start_sequence", start[0]
		}
		if deliver != "" {
			config["deliver_subject"] = deliver
		}
		text, err := json.Marshal(map[string]any{"stream_name": stream, "config": config})
		if err != nil {
			k.Fatal(err)
		}
		return "$JS.API.CONSUMER.CREATE." + stream + "." + name + "." + filter, string(text)
	}
	publish := func(subject, reply, payload string) {
		if err := nc.PublishRequest(subject, reply, []byte(payload)); err != nil {
			k.Fatal(err)
		}
	}
	for _, target := range apiTargets() {
		for _, ask := range slices.Sorted(maps.Keys(asks)) {
			publish(ask, target, asks[ask])
		}
	}
	for i, target := range targets() {
		subject, payload := create("KV_tokens", "intruder", "$KV.tokens.>", "")
		publish(subject, target, payload)
		subject, payload = create("MESSAGES", "intruder", "wechat.message.>", "")
		publish(subject, target, payload)
		for _, ask := range slices.Sorted(maps.Keys(asks)) {
			publish(ask, target, asks[ask])
		}
		// Consumers that deliver there, all messages and the deletion, which has no payload.
		for j, watch := range []struct{ stream, filter string }{
			{"KV_tokens", "$KV.tokens." + hotel.String()}, {"KV_tokens", "$KV.tokens." + gone.String()}, {"KV_status", "$KV.status.>"}, {"MESSAGES", "wechat.message.>"},
		} {
			subject, payload := create(watch.stream, fmt.Sprintf("i%d-%d", i, j), watch.filter, target)
			publish(subject, "_INBOX_"+user+".x", payload)
			subject, payload = create(watch.stream, "services", watch.filter, target, 20)
			publish(subject, target, payload)
		}
		if err := nc.Flush(); err != nil {
			k.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond) // what the server still has to do
	_, err := nc.Request("$JS.API.STREAM.INFO.AUTH", nil, time.Second)
	_ = err // only to have everything before it done
}

// TestIntruders: a service, a gateway and an ingest that are in somebody else's hands change nothing of what
// is kept, and nothing of what other services read, by whatever route. (Both together can have a
// mirror stand still: TestMirrorFollows.) In a single account they can, and that is shown, too, so
// that it is known what the attempts are worth.
func TestIntruders(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		file    string
		user    string
		harmful bool
	}{
		{accounts, "service", false},
		{accounts, "gateway", false},
		{accounts, "ingest", false},
		{single, "service", true},
		{single, "gateway", true},
		{single, "ingest", true},
	} {
		t.Run(row.file+" "+row.user, func(t *testing.T) {
			t.Parallel()
			k := newKept(t, row.file)
			before := k.state()
			k.intrude(row.user)
			if after := k.state(); (after != before) != row.harmful {
				t.Errorf("harm done: %t, want %t\nbefore: %s\nafter: %s", after != before, row.harmful, before, after)
			}
			if row.harmful {
				return
			}
			for stream, names := range consumersOf(k, "SERVICES") {
				if slices.Contains(names, "services") {
					t.Errorf("%s in the services' account is fed by a consumer of its own", stream)
				}
			}
			k.put(events.TokenSubject(hotel), k.token(hotel, 2))
			k.put("$KV.status."+hotel.String(), "second")
			k.put(events.TokenSubject(gone), k.token(gone, 7))
			k.reads(2)
			service := k.jetstream(as(t, k.srv, "service"))
			for stream, want := range map[string]uint64{"KV_tokens": 2, "KV_status": 1} {
				s, err := service.Stream(t.Context(), stream)
				if err != nil {
					t.Fatal(err)
				}
				if i := s.CachedInfo(); i.State.Msgs != want || i.Config.Mirror == nil {
					t.Errorf("mirror of %s: %+v", stream, i)
				}
			}
		})
	}
}

// TestFeeder: neither a service nor a gateway can make the consumer from which a mirror would be fed, by any of the
// ways in which consumers are made; without the mappings of nats-server.conf it could.
func TestFeeder(t *testing.T) {
	t.Parallel()
	unmapped := func(text string) string {
		before, rest, _ := strings.Cut(text, "    mappings: {\n")
		_, after, _ := strings.Cut(rest, "    }\n")
		const import1 = `      {service: {account: SYS, subject: "$JS.API.CONSUMER.CREATE.KV_tokens`
		return strings.Replace(before+after, import1, import1+"\"}}\n"+import1, 1)
	}
	for _, row := range []struct {
		name, user string
		change     func(string) string
		harmful    bool
	}{
		{"as shipped", "service", func(text string) string { return text }, false},
		{"as shipped", "gateway", func(text string) string { return text }, false},
		{"without mappings", "service", unmapped, true},
	} {
		t.Run(row.name+" "+row.user, func(t *testing.T) {
			t.Parallel()
			k := newKept(t, accounts, row.change)
			nc := as(t, k.srv, row.user)
			body := feeder(events.StreamTokens, "$KV.tokens.>")
			for _, how := range []struct{ subject, body string }{
				{"$JS.API.CONSUMER.CREATE.KV_tokens", body},
				{"$JS.API.CONSUMER.CREATE.KV_tokens", strings.Replace(body, `"name"`, `"durable_name"`, 1)},
				{"$JS.API.CONSUMER.CREATE.KV_tokens", strings.Replace(body, `"name":"services"`, `"name":"services","direct":true`, 1)},
				{"$JS.API.CONSUMER.CREATE.KV_tokens.x", body},
				{"$JS.API.CONSUMER.CREATE.KV_tokens.services", body},
				{"$JS.API.CONSUMER.CREATE.KV_tokens.services.$KV.tokens.>", body},
				{"$JS.API.CONSUMER.DURABLE.CREATE.KV_tokens.services", strings.Replace(body, `"name"`, `"durable_name"`, 1)},
			} {
				if err := nc.PublishRequest(how.subject, nc.NewInbox(), []byte(how.body)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := nc.Request("$JS.API.STREAM.INFO.KV_tokens", nil, patience); err != nil { // what came before is done
				t.Fatal(err)
			}
			var names []string // the API answers in no order: a busy server may be at the first still
			for deadline := time.Now().Add(patience); len(names) == 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				names = consumersOf(k, "SERVICES")[events.StreamTokens]
			}
			if harmed := slices.Contains(names, "services"); harmed != row.harmful {
				t.Errorf("consumers %v: with the mirror's name %t, want %t", names, harmed, row.harmful)
			}
			if !row.harmful && len(names) == 0 {
				t.Error("no consumer was made at all")
			}
		})
	}
}

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

// TestMirrorFollows: what services read goes on after the keeper's data was lost, and nobody is
// told old values for good.
func TestMirrorFollows(t *testing.T) {
	t.Parallel()
	k := newKept(t, accounts)
	cfg := cfg
	cfg.ServicesAPI = k.apis
	setup := func() (created []string, mirrors []streams.Mirror) {
		t.Helper()
		created, err := streams.Setup(t.Context(), k.nc, k.js, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return created, k.mirror(k.apis[0], cfg)
	}
	for range 20 {
		k.put(events.TokenSubject(hotel), k.token(hotel, 1))
	}
	k.reads(1)
	service := k.jetstream(as(t, k.srv, "service"))
	kv, err := service.KeyValue(t.Context(), events.BucketTokens)
	if err != nil {
		t.Fatal(err)
	}
	last, err := kv.Get(t.Context(), hotel.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{events.StreamTokens, "KV_status", events.StreamMessages} {
		if err := k.admin.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if created, _ := setup(); len(created) != 3 {
		t.Errorf("created %v", created)
	}
	if created, _ := setup(); len(created) != 0 {
		t.Errorf("once more: created %v", created)
	}
	k.put(events.TokenSubject(hotel), k.token(hotel, 2))
	k.reads(2)
	next, err := kv.Get(t.Context(), hotel.String())
	if err != nil || next.Revision() <= last.Revision() {
		t.Errorf("revision %d after %d, %v", next.Revision(), last.Revision(), err)
	}
	if _, err := k.js.Publish(t.Context(), "$KV.status."+hotel.String(), []byte("new")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.jetstream(as(t, k.srv, "ingest")).Publish(t.Context(), "wechat.message.wx1.wx2.video", []byte("new")); err != nil {
		t.Fatal(err)
	}
	within(t, 3*time.Minute, "status and message", func() error {
		statuses, err := service.KeyValue(t.Context(), events.BucketStatus)
		if err != nil {
			return err
		}
		if e, err := statuses.Get(t.Context(), hotel.String()); err != nil || string(e.Value()) != "new" {
			return fmt.Errorf("status %v, %w", e, err)
		}
		messages, err := service.CreateOrUpdateConsumer(t.Context(), events.StreamMessages, jetstream.ConsumerConfig{Name: "video", FilterSubject: "wechat.message.wx1.wx2.video"})
		if err == nil && messages.CachedInfo().NumPending != 1 {
			err = errors.New("no message")
		}
		return err
	})
	_, mirrors := setup()
	for _, m := range mirrors {
		if m.Has != m.Newest || m.Created {
			t.Errorf("a mirror that has all: %+v", m)
		}
	}

	// Fed from where nothing is, as somebody with both a service and an ingest could bring about:
	// the mirror stands still until it is fed anew.
	if _, err := as(t, k.srv, "admin").Request("$JS.API.CONSUMER.RESET.KV_tokens.services", []byte(`{"seq":1000000}`), patience); err != nil {
		t.Fatal(err)
	}
	k.put(events.TokenSubject(hotel), k.token(hotel, 3))
	time.Sleep(500 * time.Millisecond)
	if m := k.mirror(k.apis[0], cfg)[1]; m.Stream != events.StreamTokens || m.Has >= m.Newest {
		t.Errorf("the mirror does not stand still: %+v", m)
	} else if err := streams.FeedAnew(t.Context(), k.js, m.MirrorOf, m.Has); err != nil {
		t.Fatal(err)
	}
	k.mirror(k.apis[0], cfg)
	k.reads(3)

	// Other settings: it is said what to do, and it helps.
	cfg.MessagesMaxAge *= 2
	streamstest.Setup(t, k.nc, k.js, cfg)
	for _, m := range streams.SetupMirrors(t.Context(), k.nc, k.js, k.apis[0], cfg) {
		if other := m.Stream == events.StreamMessages; other != (m.Err != nil) || other && !strings.Contains(m.Err.Error(), "account purge") {
			t.Errorf("other settings: %+v", m)
		}
	}
	system, err := nats.Connect("nats://system:secret-of-operator@" + k.srv.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	if _, err := system.Request("$JS.API.ACCOUNT.PURGE.SERVICES", nil, patience); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the mirrors to be gone", func() error {
		if _, err := service.Stream(t.Context(), events.StreamMessages); !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
	for _, m := range func() []streams.Mirror { _, m := setup(); return m }() {
		if !m.Created {
			t.Errorf("after the purge: %+v", m)
		}
	}
	k.reads(3)
}

// TestMirrorFedAgain has a mirror that holds much be fed again and again, as by refreshers that
// find it behind at once, and made its consumer anew.
func TestMirrorFedAgain(t *testing.T) {
	t.Parallel()
	k := newKept(t, accounts)
	ingest := k.jetstream(as(t, k.srv, "ingest"))
	say := func(n int) {
		t.Helper()
		for i := range n {
			if _, err := ingest.PublishAsync("wechat.message.wx1.wx2.text", []byte("{}")); err != nil {
				t.Fatal(err)
			}
			if i%1000 < 999 && i < n-1 {
				continue
			}
			select {
			case <-ingest.PublishAsyncComplete():
			case <-time.After(patience):
				t.Fatal("the messages are not stored")
			}
		}
	}
	messages := func() streams.Mirror {
		t.Helper()
		all := k.mirror(k.apis[0], cfg)
		return all[slices.IndexFunc(all, func(m streams.Mirror) bool { return m.Stream == events.StreamMessages })]
	}
	whole := func(what string) (m streams.Mirror) {
		t.Helper()
		within(t, 30*time.Second, what, func() error {
			if m = messages(); m.Has != m.Newest {
				return fmt.Errorf("%d of %d", m.Has, m.Newest)
			}
			return nil
		})
		return m
	}
	say(6 * 1000) // several times what may be on its way
	m := whole("a mirror of much")
	for range 3 {
		if err := streams.FeedAnew(t.Context(), k.js, m.MirrorOf, m.Has); err != nil {
			t.Fatal(err)
		}
		say(1)
	}
	m = whole("the mirror that was fed again")
	for range 2 {
		if err := k.admin.DeleteConsumer(t.Context(), m.Stream, m.Account); err != nil {
			t.Fatal(err)
		}
		say(1)
		m = whole("the mirror whose consumer was made anew")
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

// BenchmarkNewsAcrossAccounts measures how much later a service hears of a token, and finds it,
// when it is in an account of its own: from the publish ack in the keeper's account on.
func BenchmarkNewsAcrossAccounts(b *testing.B) {
	srv := shipped(b, accounts, adminUser)
	connect := func(user string) (*nats.Conn, jetstream.JetStream) {
		nc := as(b, srv, user)
		js, err := jetstream.New(nc)
		if err != nil {
			b.Fatal(err)
		}
		return nc, js
	}
	keeper, js := connect("refresher")
	streamstest.Setup(b, keeper, js, cfg)
	for _, m := range streams.SetupMirrors(b.Context(), keeper, js, "services.API", cfg) {
		if m.Err != nil {
			b.Fatal(m.Err)
		}
	}
	if _, err := js.Publish(b.Context(), events.TokenSubject(hotel), []byte("{}")); err != nil {
		b.Fatal(err)
	}
	for _, user := range []string{"admin", "service"} { // admin: in the keeper's account
		nc, reader := connect(user)
		var kv jetstream.KeyValue
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			var err error
			if kv, err = reader.KeyValue(b.Context(), events.BucketTokens); err == nil {
				break
			}
			if time.Now().After(deadline) {
				b.Fatal(err)
			}
		}
		news, err := nc.SubscribeSync("token.updated." + hotel.String())
		if err != nil {
			b.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			b.Fatal(err)
		}
		b.Run(user, func(b *testing.B) {
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				ack, err := js.Publish(b.Context(), events.TokenSubject(hotel), []byte("{}"))
				if err != nil {
					b.Fatal(err)
				}
				acked := time.Now()
				if _, err := news.NextMsg(patience); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(acked))
				if e, err := kv.Get(b.Context(), hotel.String()); err != nil || e.Revision() != ack.Sequence {
					b.Fatalf("heard of revision %d, found %v, %v", ack.Sequence, e, err)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
		})
	}
}
