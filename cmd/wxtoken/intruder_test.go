//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"wxtoken/internal/events"
	"wxtoken/internal/looktest"
)

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
			looktest.Until(t, "no consumer was made at all", func() bool {
				names = consumersOf(k, "SERVICES")[events.StreamTokens]
				return len(names) > 0
			})
			if harmed := slices.Contains(names, "services"); harmed != row.harmful {
				t.Errorf("consumers %v: with the mirror's name %t, want %t", names, harmed, row.harmful)
			}
		})
	}
}
