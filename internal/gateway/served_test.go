package gateway_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/internal/events"
	"wxtoken/internal/gateway"
	"wxtoken/internal/logtest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/services"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/wxtokentest"
)

// recorded returns the records of the gateway, the newest last, with their texts.
func recorded(r *rig, js jetstream.JetStream) (all []services.Served, texts []string) {
	r.Helper()
	stream, err := js.Stream(r.Context(), events.StreamTraffic)
	r.must(err)
	for seq := stream.CachedInfo().State.FirstSeq; seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(r.Context(), seq)
		if err != nil || !strings.HasPrefix(m.Subject, "journal.count.gateway.") {
			continue
		}
		var s services.Served
		r.must(json.Unmarshal(m.Data, &s))
		all, texts = append(all, s), append(texts, string(m.Data)+m.Header.Get(jetstream.MsgTTLHeader))
	}
	return all, texts
}

// TestRecordServed: under its own user a gateway writes down whom it serves, at once, and at its end what it did. No key is in it.
func TestRecordServed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ahead.Store(int64(time.Until(time.Now().Truncate(10 * time.Minute).Add(11 * time.Minute)))) // no period ends meanwhile
	js := natsdtest.JetStream(t, r.k.Connect(nats.UserInfo("refresher", "refresher"), nats.CustomInboxPrefix("_INBOX_refresher")))
	ctx, stop := context.WithCancel(t.Context())
	var recording sync.WaitGroup
	recording.Go(func() {
		if err := r.g.RecordServed(ctx); err != nil {
			t.Error(err)
		}
	})
	r.until("nothing is recorded", func() bool { all, _ := recorded(r, js); return len(all) > 0 })
	began := time.Now()
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	r.call("GET", "/cgi-bin/user/get?access_token="+token, nil)
	r.call("GET", "/cgi-bin/user/get?access_token="+token, nil)
	stop()
	recording.Wait()

	all, texts := recorded(r, js)
	first, last := all[0], all[len(all)-1]
	if len(first.Services) != 5 || first.Services[0].Used() || first.Instance == "" || !strings.HasSuffix(texts[0], "11m0s") {
		t.Errorf("at first: %s", texts[0])
	}
	if !last.From.Equal(first.From) || !strings.HasSuffix(texts[len(texts)-1], "48h0m0s") {
		t.Errorf("at the end: %s", texts[len(texts)-1])
	}
	shop := last.Services[0]
	if shop.Name != "shop" || shop.Tokens != 1 || shop.Calls != 2 || shop.Errors != 0 || shop.LastUse.Before(began.Add(-time.Second)) {
		t.Errorf("the shop: %+v", shop)
	}
	if got := strings.Join(shop.Accounts, " "); got != component+"/"+wxtokentest.Merchant.Authorizer {
		t.Errorf("its accounts: %s", got)
	}
	if other := last.Services[1]; other.Name != "all" || other.Used() || !other.LastUse.IsZero() {
		t.Errorf("another: %+v", other)
	}
	for _, text := range texts {
		for _, key := range []string{shopKey, allKey, realKey, tokenKey, narrow} {
			if strings.Contains(text, key) || strings.Contains(text, strings.TrimPrefix(services.Digest(key), "sha256:")) {
				t.Errorf("a key is recorded: %s", text)
			}
		}
	}
}

// TestRecordBeforeTraffic: a gateway that starts before TRAFFIC is there tells whom it serves as soon as it is.
func TestRecordBeforeTraffic(t *testing.T) {
	t.Parallel()
	r := &rig{TB: t, log: &logtest.Buffer{}, file: filepath.Join(t.TempDir(), "services.json"), metrics: prometheus.NewRegistry()}
	nc := natsdtest.Start(t).Connect()
	js := natsdtest.JetStream(t, nc)
	r.write(file())
	watch, err := services.Open(r.file, zerolog.Nop())
	r.must(err)
	signer, err := gateway.ReadSigner(strings.NewReader(gateway.MakeTokenKey()))
	r.must(err)
	g, err := gateway.New(gateway.Config{}, gateway.Deps{
		NATS: nc, Services: watch, Signer: signer, WeChat: "http://127.0.0.1:1", Log: zerolog.New(r.log), Metrics: r.metrics, Figures: r.metrics, Now: time.Now,
	})
	r.must(err)
	ctx, stop := context.WithCancel(t.Context())
	var recording sync.WaitGroup
	recording.Go(func() { _ = g.RecordServed(ctx) })
	defer recording.Wait()
	defer stop()
	r.until("no record is tried", func() bool { return strings.Contains(r.log.String(), "failed to store record of services") })
	streamstest.Setup(t, nc, js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	r.until("nothing is recorded", func() bool { all, _ := recorded(r, js); return len(all) > 0 })
}
