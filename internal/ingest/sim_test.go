package ingest_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken"
	"wxtoken/internal/events"
	"wxtoken/internal/ingest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/wechatsim"
)

// TestAgainstPlatform takes what the fake platform sends, which encrypts with code of its own, in every form that it
// knows, with repeats. Each push that was answered with success has to be stored, once, and no secret where it
// does not belong.
func TestAgainstPlatform(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	log, registry := &logBuffer{}, prometheus.NewRegistry()
	in, err := ingest.New(ingest.Config{ReleaseCheck: true}, []ingest.Component{{
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
	for deadline := time.Now().Add(time.Minute); !settled() && !t.Failed(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the platform waits for answers")
		}
	}
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
