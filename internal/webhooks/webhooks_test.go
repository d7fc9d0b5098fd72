package webhooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// TestDelivered looks at what a receiver gets, and that it gets what it asked for alone.
func TestDelivered(t *testing.T) {
	t.Parallel()
	r, in := newRig(t, natsdtest.Start(t)), newReceiver(t, nil)
	r.serve([]webhook{{URL: in.URL + "/SEKRET", Messages: []string{
		component + "/*/text", component + "/wxa/*", component + "/*/event/subscribe", component + "/*/notice/unauthorized",
	}}})
	g := r.gateway()
	r.ready(1)
	r.message("wxa", "<xml>1</xml>")
	r.publish(events.MessageSubject(component, "wxb", "image", ""), "wxb", "an image that is not asked for")
	r.publish(events.MessageSubject("wxother", "wxb", "text", ""), "wxb", "another component")
	r.publish(events.MessageSubject(component, "wxa", "image", ""), "wxa", "<xml>2</xml>")
	r.publish(events.MessageSubject(component, "wxb", "event", "subscribe"), "wxb", "<xml>3</xml>")
	r.publish(events.MessageSubject(component, "wxb", "event", "CLICK"), "wxb", "another event")
	r.publish(events.NoticeSubject(component, "authorized"), "wxb", "another notice")
	r.publish(events.NoticeSubject(component, "unauthorized"), "wxb", "<xml>4</xml>")
	eventually(t, "four deliveries", func() bool { return len(in.accepted()) == 4 })
	r.message("wxa", "<xml>5</xml>")
	eventually(t, "the fifth", func() bool { return len(in.accepted()) == 5 })
	for _, g := range in.all {
		h := g.header
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "%s.%s.%s", h.Get("webhook-id"), h.Get("webhook-timestamp"), g.body)
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); h.Get("webhook-signature") != want {
			t.Errorf("%s: signature %q, want %q", g.body, h.Get("webhook-signature"), want)
		}
		if at, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64); err != nil || time.Since(time.Unix(at, 0)) > 10*time.Minute {
			t.Errorf("%s: timestamp %q", g.body, h.Get("webhook-timestamp"))
		}
		if h.Get("webhook-id") == "" || h.Get("webhook-id") != h.Get("ce-id") || h.Get("Wxtoken-Component") != component || h.Get("Content-Type") != "application/xml" || h.Get("Nats-Pin-Id") != "" || h.Get("Nats-Msg-Id") != "" {
			t.Errorf("%s: headers %v", g.body, h)
		}
	}
	of := func(body string) string {
		i := slices.IndexFunc(in.all, func(g got) bool { return g.body == body })
		h := in.all[i].header
		return strings.Join([]string{h.Get("Wxtoken-Appid"), h.Get("Wxtoken-Msgtype"), h.Get("Wxtoken-Event"), h.Get("ce-subject")}, " ")
	}
	for body, want := range map[string]string{"<xml>3</xml>": "wxb event subscribe wxb", "<xml>4</xml>": "wxb notice unauthorized wxb", "<xml>2</xml>": "wxa image  wxa"} {
		if of(body) != want {
			t.Errorf("%s: %q, want %q", body, of(body), want)
		}
	}
	eventually(t, "5 deliveries to be counted", func() bool { // that comes after the receiver's answer
		return g.value(t, "wxtoken_webhook_deliveries_total", "shop", "ok") == 5
	})
	if strings.Contains(g.log.String(), "SEKRET") {
		t.Errorf("the URL is in the log:\n%s", g.log)
	}
}

// TestScope gives a service that has one account that account's messages, and one that has refs those whose ref is known to be its own.
func TestScope(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		accounts string
		want     []string
	}{
		{component + "/wxa", []string{"a1", "a2"}},
		{"ref:a-*", []string{"a1", "a2"}},
		{component + "/*", []string{"a1", "a2", "b1", "c1"}},
	} {
		t.Run(row.accounts, func(t *testing.T) {
			t.Parallel()
			r, in := newRig(t, natsdtest.Start(t)), newReceiver(t, nil)
			r.serve([]webhook{{URL: in.URL, Messages: []string{component + "/*/*"}}}, row.accounts)
			var told atomic.Bool
			r.gateway(func(w *Webhooks) {
				w.d.Ref = func(key wxtoken.Key) (string, bool) {
					return strings.TrimPrefix(key.Authorizer, "wx") + "-1", told.Load()
				}
			})
			r.ready(1)
			r.message("wxb", "b1")
			r.message("wxa", "a1")
			r.message("wxc", "c1")
			time.Sleep(100 * time.Millisecond)
			told.Store(true)
			r.message("wxa", "a2")
			eventually(t, "deliveries", func() bool { return len(in.accepted()) >= len(row.want) })
			if got := slices.Sorted(slices.Values(in.accepted())); !slices.Equal(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

// checkOrder looks that nothing is lost, and that each account's messages were first taken in their order.
func checkOrder(t testing.TB, taken []string, accounts, each int) {
	t.Helper()
	if len(taken) != accounts*each {
		t.Errorf("%d taken, want %d", len(taken), accounts*each)
	}
	last := map[string]int{}
	for _, body := range taken {
		account, text, _ := strings.Cut(body, " ")
		n, err := strconv.Atoi(text)
		if err != nil || n != last[account]+1 {
			t.Errorf("account %s: %s comes after %d", account, text, last[account])
		}
		last[account] = n
	}
}

// TestOrder has two gateways deliver to a receiver that fails now and then. One gateway ends in the middle, and the NATS server
// restarts.
func TestOrder(t *testing.T) {
	t.Parallel()
	const accounts, each = 10, 40
	r := newRig(t, natsdtest.Start(t))
	in := newReceiver(t, func(string, http.Header) (int, string) {
		switch n := rand.IntN(100); {
		case n < 2:
			return 500, "broken"
		case n < 3:
			return 0, ""
		}
		return 204, ""
	})
	r.serve([]webhook{{URL: in.URL, Messages: []string{component + "/*/*"}}})
	first := r.gateway()
	r.ready(1)
	r.gateway()
	for n := 1; n <= each; n++ {
		for a := range accounts {
			r.message(fmt.Sprintf("wx%d", a), fmt.Sprintf("wx%d %d", a, n))
		}
		switch n {
		case each / 4:
			eventually(t, "the first deliveries", func() bool { return len(in.accepted()) > accounts })
			first.stop()
		case each / 2:
			eventually(t, "deliveries by the other", func() bool { return len(in.accepted()) >= accounts*each/4 })
			r.srv.Restart()
		}
	}
	eventually(t, "all of them", func() bool { return len(in.accepted()) >= accounts*each })
	checkOrder(t, in.accepted(), accounts, each)
}

// TestFailingAccountHoldsUpNoOther has the receiver refuse one account: the others go on, and it comes in order afterwards.
func TestFailingAccountHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	var mended atomic.Bool
	in := newReceiver(t, func(body string, _ http.Header) (int, string) {
		if strings.HasPrefix(body, "wx0 ") && !mended.Load() {
			return 503, "no"
		}
		return 200, ""
	})
	r.serve([]webhook{{URL: in.URL, Messages: []string{component + "/*/*"}}})
	g := r.gateway()
	r.ready(1)
	for n := 1; n <= 200; n++ {
		r.message("wx0", fmt.Sprintf("wx0 %d", n))
		r.message("wx1", fmt.Sprintf("wx1 %d", n))
	}
	eventually(t, "the other account", func() bool { return len(in.accepted()) == 200 })
	eventually(t, "the rest to be pending", func() bool { return g.value(t, "wxtoken_webhook_pending", "shop") == 200 })
	mended.Store(true)
	eventually(t, "all of them", func() bool { return len(in.accepted()) >= 400 })
	checkOrder(t, in.accepted(), 2, 200)
	eventually(t, "nothing to be pending", func() bool { return g.value(t, "wxtoken_webhook_pending", "shop") == 0 })
}

// TestBadReceivers has receivers that do wrong once: it is counted, and the message comes again.
func TestBadReceivers(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int64
	other := newReceiver(t, func(string, http.Header) (int, string) { elsewhere.Add(1); return 200, "" })
	for outcome, wrong := range map[string]http.HandlerFunc{
		outcomeTimeout: func(_ http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			<-req.Context().Done()
		},
		outcomeFailed:  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		outcomeRefused: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) },
		outcomeRedirect: func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, other.URL, http.StatusTemporaryRedirect)
		},
		outcomeUnreachable: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, natsdtest.Start(t))
			in := newReceiver(t, nil)
			var tries atomic.Int64
			good := in.Config.Handler
			in.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if tries.Add(1) == 1 {
					wrong(w, req)
					return
				}
				good.ServeHTTP(w, req)
			})
			r.serve([]webhook{{URL: in.URL + "/SEKRET", Messages: []string{component + "/*/*"}}})
			g := r.gateway()
			r.ready(1)
			r.message("wxa", "hello")
			eventually(t, "the second try", func() bool { return len(in.accepted()) == 1 })
			if n := g.value(t, "wxtoken_webhook_deliveries_total", outcome); n != 1 {
				t.Errorf("%v counted as %s, want 1\n%s", n, outcome, g.log)
			}
			if !strings.Contains(g.log.String(), "failed to deliver to webhook") || strings.Contains(g.log.String(), "SEKRET") {
				t.Errorf("log:\n%s", g.log)
			}
		})
	}
	t.Cleanup(func() {
		if elsewhere.Load() > 0 {
			t.Error("a redirect was followed")
		}
	})
}

// TestServicesFileChanges changes the services file under a gateway that runs.
func TestServicesFileChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	one, two := newReceiver(t, nil), newReceiver(t, nil)
	r.serve([]webhook{{URL: one.URL, Messages: []string{component + "/*/text"}}})
	g := r.gateway()
	names := r.ready(1)
	r.message("wxa", "1")
	eventually(t, "the first", func() bool { return len(one.accepted()) == 1 })

	r.serve([]webhook{{URL: two.URL, Messages: []string{component + "/*/text"}}})
	r.ready(2) // that of the first stays for a while
	r.message("wxa", "2")
	eventually(t, "the second", func() bool { return len(two.accepted()) == 1 })
	if len(one.accepted()) != 1 {
		t.Errorf("the first got %q after it was removed", one.accepted())
	}

	// It comes back with other messages, and goes on where it left off.
	r.publish(events.MessageSubject(component, "wxa", "image", ""), "wxa", "3")
	r.serve([]webhook{{URL: one.URL, Messages: []string{component + "/*/text", component + "/*/image"}}, {URL: two.URL, Messages: []string{component + "/*/text"}}})
	eventually(t, "what came meanwhile", func() bool { return slices.Contains(one.accepted(), "2") && slices.Contains(one.accepted(), "3") })
	cons, err := r.js.Consumer(t.Context(), events.StreamMessages, names[0])
	if err != nil {
		t.Fatal(err)
	}
	if c := cons.CachedInfo().Config; c.InactiveThreshold != inactiveAfter || c.Durable != names[0] {
		t.Errorf("consumer %+v", c)
	}
	g.stop()
}

// TestConsumerLost has the consumer deleted while messages wait.
func TestConsumerLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	var mended atomic.Bool
	in := newReceiver(t, func(string, http.Header) (int, string) {
		if mended.Load() {
			return 200, ""
		}
		return 500, ""
	})
	r.serve([]webhook{{URL: in.URL, Messages: []string{component + "/*/*"}}})
	r.gateway()
	names := r.ready(1)
	for n := 1; n <= 10; n++ {
		r.message("wxa", fmt.Sprintf("wxa %d", n))
	}
	eventually(t, "a try", func() bool { return in.attempts("wxa 1") > 0 })
	if err := r.js.DeleteConsumer(t.Context(), events.StreamMessages, names[0]); err != nil {
		t.Fatal(err)
	}
	mended.Store(true)
	eventually(t, "all of them", func() bool { return len(in.accepted()) == 10 })
	checkOrder(t, in.accepted(), 1, 10)
}

// TestAccountGoes has an account become another service's while a message waits for its next try: the service gets it no more.
func TestAccountGoes(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	var gone atomic.Bool
	in := newReceiver(t, func(string, http.Header) (int, string) {
		if gone.CompareAndSwap(false, true) {
			return 500, ""
		}
		return 200, ""
	})
	r.serve([]webhook{{URL: in.URL, Messages: []string{component + "/*/*"}}}, "ref:shop-*")
	g := r.gateway(func(w *Webhooks) {
		w.d.Ref = func(wxtoken.Key) (string, bool) {
			return map[bool]string{false: "shop-1", true: "hotel-1"}[gone.Load()], true
		}
	})
	r.ready(1)
	r.message("wxa", "hello")
	eventually(t, "the first try", gone.Load)
	s, err := r.js.Stream(t.Context(), events.StreamMessages)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing to be pending", func() bool {
		for info := range s.ListConsumers(t.Context()).Info() {
			if info.NumAckPending > 0 || info.NumPending > 0 {
				return false
			}
		}
		return true
	})
	if n := in.attempts("hello"); n != 1 {
		t.Errorf("it came %d times, want 1\n%s", n, g.log)
	}
}

// TestCutShort ends a gateway while a receiver takes its time: that is no fault of the receiver's, and is not counted as one.
func TestCutShort(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	asked := make(chan struct{}, 1)
	in := newReceiver(t, nil)
	in.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		asked <- struct{}{}
		<-req.Context().Done()
	})
	r.serve([]webhook{{URL: in.URL, Messages: []string{component + "/*/*"}}})
	g := r.gateway()
	r.ready(1)
	r.message("wxa", "hello")
	<-asked
	g.stop()
	if n := g.value(t, "wxtoken_webhook_deliveries_total"); n != 0 || strings.Contains(g.log.String(), "failed") {
		t.Errorf("%v counted, want none\n%s", n, g.log)
	}
}
