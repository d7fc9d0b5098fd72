//go:build unix

package main

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams"
)

// TestNoConsumersLeft has services use up max_consumers: the refresher says so before it is too
// late, its metrics and --check show it, and the client that gets none names the limit.
func TestNoConsumersLeft(t *testing.T) {
	t.Parallel()
	const limit = 10
	few := func(text string) string {
		return strings.Replace(text, "max_consumers: 1000", fmt.Sprintf("max_consumers: %d", limit), 1)
	}
	srv := shipped(t, accounts, few)
	refresher := deployed(t, "refresher", srv, "--component-appsecret-file=../../deploy/sim/appsecret", "--wechat-api-url=http://127.0.0.1:1")
	refresher.find(t, `(mirror created)`)
	refresher.find(t, `(?s)mirror created.*mirror created.*(mirror created)`)
	service := as(t, srv, "service")
	js := natsdtest.JetStream(t, service)
	kv, err := js.KeyValue(t.Context(), events.BucketTokens)
	if err != nil {
		t.Fatal(err)
	}
	for range limit {
		if _, err := kv.WatchAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := wxtoken.NewClient(ctx, service, wxtoken.Config{}); err == nil || !strings.Contains(err.Error(), "max_consumers") {
		t.Errorf("NewClient: %v, want an error that names the limit", err)
	}
	keeper := as(t, srv, "refresher")
	keepers := natsdtest.JetStream(t, keeper)
	cfg := cfg
	cfg.ServicesAPI = []string{events.DefaultServicesAPI}
	if err := streams.CheckMirrors(t.Context(), keeper, keepers, cfg); err == nil || !strings.Contains(err.Error(), "KV_tokens") || !strings.Contains(err.Error(), "max_consumers") {
		t.Errorf("--check: %v", err)
	}
	refresher.find(t, `"stream":"KV_tokens","consumers":10,"max_consumers":10,"hint":"[^"]*","ts":"[^"]*","msg":"(few consumers left for services)"`)
	ops := "http://" + refresher.find(t, `"server":"ops","addr":"([^"]+)"`)
	resp, err := http.Get(ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body := new(strings.Builder)
	if err := resp.Write(body); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`wxtoken_mirror_consumers\{account="services",stream="KV_tokens"\} 10`, `wxtoken_mirror_consumers_max\{account="services",stream="KV_tokens"\} 10`} {
		if !regexp.MustCompile(want).MatchString(body.String()) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}
