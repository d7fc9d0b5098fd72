//go:build unix

package main

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/internal/events"
	"wxtoken/internal/services"
	"wxtoken/internal/webhooks"
)

// TestDeployedWebhooks delivers messages as the user gateway of the shipped files, and puts one on DEAD.
func TestDeployedWebhooks(t *testing.T) {
	t.Parallel()
	for _, file := range []string{accounts, single} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			testWebhooks(t, newKept(t, file))
		})
	}
}

func testWebhooks(t *testing.T, k *kept) {
	const answer = "<xml><MsgType>text</MsgType><Content>hi</Content></xml>"
	var mu sync.Mutex
	got := map[string]int{}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		mu.Lock()
		got[string(body)]++
		mu.Unlock()
		if req.Header.Get("Wxtoken-Reply") == "wanted" {
			_, _ = io.WriteString(w, answer)
		}
	}))
	t.Cleanup(receiver.Close)
	path := filepath.Join(t.TempDir(), "services.json")
	text := `{"services":[{"name":"shop","keys":["sha256:` + strings.Repeat("ab", 32) + `"],"accounts":["wx1/*"],"may":[],"webhooks":[
		{"url":"` + receiver.URL + `","messages":["wx1/*/text"],"reply":true,"secret":"whsec_` + base64.StdEncoding.EncodeToString(make([]byte, 32)) + `"}]}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	watch, err := services.Open(path, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	nc := as(t, k.srv, "gateway")
	hooks, err := webhooks.New(webhooks.Deps{NATS: nc, Services: watch, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	ingest := as(t, k.srv, "ingest")
	js := k.jetstream(ingest)
	within(t, 3*time.Minute, "a message to be delivered", func() error { // those that came before the consumer are not
		if _, err := js.Publish(t.Context(), "wechat.message.wx1.wx9.text", []byte("unasked")); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if got["unasked"] == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	question := nats.NewMsg("wechat.reply.wx1.wx2.text")
	question.Header.Set("ce-id", "asked")
	question.Data = []byte("asked")
	stored := nats.NewMsg("wechat.message.wx1.wx2.text")
	stored.Header, stored.Data = question.Header, question.Data
	if _, err := js.PublishMsg(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	reply, err := ingest.RequestMsg(question, 10*time.Second)
	if err != nil || string(reply.Data) != answer {
		t.Errorf("the question is answered with %v, %v", reply, err)
	}
	if _, err := k.jetstream(nc).Publish(t.Context(), events.DeadWebhookSubject("shop", stored.Subject), []byte("x")); err != nil {
		t.Errorf("DEAD: %v", err)
	}
	dead, err := k.admin.Stream(t.Context(), events.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dead.GetLastMsgForSubject(t.Context(), "dead.webhook.shop.wechat.message.wx1.wx2.text"); err != nil {
		t.Error(err)
	}
	time.Sleep(200 * time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	if got["asked"] != 1 {
		t.Errorf("a message whose reply was asked for came %d times, want 1", got["asked"])
	}
}
