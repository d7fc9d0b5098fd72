package ingest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/ingest"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/settings"
	"wxtoken/wechatsim"
)

// TestAgainstPlatform takes what the fake platform sends, which encrypts with code of its own, in
// every form that it knows, with repeats. Each push that was answered with success has to be
// stored, once, and no secret where it does not belong.
func TestAgainstPlatform(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	log, registry := &logBuffer{}, prometheus.NewRegistry()
	in, err := ingest.New(ingest.Config{ReleaseCheck: true}, []settings.Component{{
		AppID: component, Tokens: []wxtoken.Secret{wxtoken.NewSecret(token)}, AESKeys: []wxtoken.Secret{wxtoken.NewSecret(aesKey)},
	}}, ingest.Deps{JetStream: r.js, Log: zerolog.New(log), Metrics: registry, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(in.Handler())
	t.Cleanup(srv.Close)

	config := wechatsim.Unkind()
	config.RepeatPushRate, config.LatePushRate = 0.3, 0
	config.Components = []wechatsim.Component{{
		AppID: component, AppSecret: "SEKRETsecret", Token: token, EncodingAESKey: aesKey,
		AuthURL: srv.URL + authPath, MessageURL: srv.URL + "/wechat/" + component + "/message/$APPID$", AutoPush: true,
	}}
	platform, err := wechatsim.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- platform.Run(ctx) }()

	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, account := range []string{"wxa", "wxb", "wxc", "wxd", "wxe"} {
		must(platform.Authorize(component, account))
		must(platform.Reauthorize(component, account))
		must(platform.PushTicket(component))
		must(platform.PushInfo(component, "notify_3rd_wxa_auth", "appid", account, "taskid", "7"))
		must(platform.PushInfo(component, "brand_new", "auth_code", "SEKRET-of-a-new-kind", "appid", account))
		must(platform.PushMessage(component, account, wechatsim.Message{Content: "你好 <&> " + account}))
		must(platform.PushMessage(component, account, wechatsim.Message{Event: "subscribe"}))
	}
	must(platform.Cancel(component, "wxa"))
	must(platform.Register(component, "wxnew"))

	// Every push is sent, and answered with success.
	onAuth, onMessages := map[string]bool{}, map[string]bool{}
	settled := func() bool {
		sent, done := 0, map[int]bool{}
		clear(onAuth)
		clear(onMessages)
		for _, entry := range platform.History() {
			switch entry.Kind {
			case wechatsim.EntryPush:
				sent = max(sent, entry.Push)
			case wechatsim.EntryPushAnswer:
				if entry.Outcome != wechatsim.OutcomeSuccess {
					t.Errorf("push %d of %s: %s, status %d", entry.Push, entry.InfoType, entry.Outcome, entry.Status)
				}
				done[entry.Push] = true
				switch entry.InfoType {
				case "component_verify_ticket":
					onAuth[entry.Digest] = true
				case "authorized", "updateauthorized", "unauthorized", "notify_third_fasteregister":
					onAuth[entry.Digest], onMessages[entry.Digest] = true, true
				default:
					onMessages[entry.Digest] = true
				}
			}
		}
		return len(done) >= 38 && len(done) == sent
	}
	looktest.Until(t, "the platform waits for answers", func() bool { return settled() || t.Failed() })
	cancel()
	must(<-ended)
	settled() // the last repeats

	if got := len(r.messages(t, events.StreamAuth)); got != len(onAuth) {
		t.Errorf("%d events on AUTH, want %d", got, len(onAuth))
	}
	stored := r.messages(t, events.StreamMessages)
	if len(stored) != len(onMessages) {
		t.Errorf("%d events on MESSAGES, want %d", len(stored), len(onMessages))
	}
	var seen strings.Builder
	for _, m := range stored {
		seen.Write(m.Data)
		header, err := json.Marshal(m.Header)
		must(err)
		seen.Write(header)
	}
	families, err := registry.Gather()
	must(err)
	for _, family := range families {
		seen.WriteString(family.String())
	}
	seen.WriteString(log.String())
	for _, secret := range append(platform.Secrets(), "SEKRET") {
		if strings.Contains(seen.String(), secret) {
			t.Errorf("secret %s on MESSAGES, in a metric or in the log", wechatsim.Fingerprint(secret))
		}
	}
}

// TestOddPlatform has all pushes of the fake platform odd, one way after the other, in WeChat's
// order of fields and in any other: every one is answered with success, and what the refresher
// needs is read from each.
func TestOddPlatform(t *testing.T) {
	t.Parallel()
	for name, vary := range map[string]bool{"as printed": false, "in any order": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			oddPlatform(t, vary)
		})
	}
}

func oddPlatform(t *testing.T, vary bool) {
	r := newRig(t, natsdtest.Start(t))
	in, err := ingest.New(ingest.Config{}, []settings.Component{{
		AppID: component, Tokens: []wxtoken.Secret{wxtoken.NewSecret(token)}, AESKeys: []wxtoken.Secret{wxtoken.NewSecret(aesKey)},
	}}, ingest.Deps{JetStream: r.js, Log: zerolog.New(r.log), Metrics: prometheus.NewRegistry(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(in.Handler())
	t.Cleanup(srv.Close)
	platform, err := wechatsim.New(wechatsim.Config{VaryForm: vary, Seed: 7, Components: []wechatsim.Component{{
		AppID: component, AppSecret: "SEKRETsecret", Token: token, EncodingAESKey: aesKey,
		AuthURL: srv.URL + authPath, MessageURL: srv.URL + "/wechat/" + component + "/message/$APPID$",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- platform.Run(ctx) }()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const each = 36 // of a kind, so that each oddity comes up
	pushes := 0
	for n := range each {
		account := fmt.Sprintf("wxa%015d", n)
		must(platform.OddPushes("", 5, wechatsim.Oddities()[n%len(wechatsim.Oddities())]))
		must(platform.Authorize(component, account))
		must(platform.PushTicket(component))
		must(platform.Register(component, fmt.Sprintf("wxb%015d", n)))
		must(platform.PushMessage(component, account, wechatsim.Message{Content: "hello", JSON: n%3 == 2}))
		must(platform.Cancel(component, account))
		pushes += 5
	}
	answered := func() (all int) {
		for _, entry := range platform.History() {
			if entry.Kind == wechatsim.EntryPushAnswer && entry.Outcome == wechatsim.OutcomeSuccess {
				all++
			}
		}
		return all
	}
	for deadline := time.Now().Add(time.Minute); answered() < pushes; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d pushes answered with success: %s", answered(), pushes, r.log)
		}
	}
	cancel()
	must(<-ended)
	read := map[string]int{}
	for _, m := range r.messages(t, events.StreamAuth) {
		a, err := events.ParseAuth(m.Data)
		must(err)
		read[a.Kind]++
		lacks := false
		switch a.Kind {
		case events.KindTicket:
			lacks = a.Ticket == ""
		case events.KindAuthorized:
			lacks = a.Code == "" || a.Authorizer == "" || a.PreAuthCode == ""
		case events.KindFastRegister:
			lacks = a.Code == "" || a.Authorizer == ""
		case events.KindUnauthorized:
			lacks = a.Authorizer == ""
		}
		if lacks {
			t.Errorf("%s of %q lacks something", a.Kind, a.Authorizer)
		}
	}
	for _, m := range r.messages(t, events.StreamMessages) {
		// In any order, what ends a CDATA section too early may stand before MsgType: then that is not beyond doubt, and "_".
		if strings.HasPrefix(m.Subject, "wechat.message.") && (strings.HasSuffix(m.Subject, ".text") || vary && strings.HasSuffix(m.Subject, "._")) {
			read["text"]++
		}
		if strings.Contains(string(m.Data), "SEKRET") {
			t.Errorf("a secret on %s: %q", m.Subject, m.Data)
		}
	}
	for _, kind := range []string{events.KindTicket, events.KindAuthorized, events.KindFastRegister, events.KindUnauthorized, "text"} {
		if read[kind] != each {
			t.Errorf("%d of %s, want %d", read[kind], kind, each)
		}
	}
}
