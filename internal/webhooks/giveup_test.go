package webhooks

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/internal/events"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
)

// within serves requests in this process: a bubble's time does not pass while a socket is waited for.
type within struct{ http.Handler }

func (w within) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, req)
	return rec.Result(), nil
}

// TestGivenUp lets a message fail until it is given up, after four hours here, since a day takes a minute of a core: it is on DEAD with its
// document, and the next ones are delivered. Not in parallel: a bubble.
func TestGivenUp(t *testing.T) {
	natsdtest.Bubble(t, func(t *testing.T) {
		r := newRig(t, natsdtest.Start(t, natsdtest.InBubble))
		var tries atomic.Int64
		in := &receiver{decide: func(body string, _ http.Header) (int, string) {
			if body == "bad" {
				tries.Add(1)
				return 500, "SEKRET in an answer"
			}
			return 200, ""
		}}
		r.serve([]webhook{{URL: "http://receiver.example/SEKRET?key=SEKRET", Messages: []string{component + "/*/*"}}})
		g := r.gateway(func(w *Webhooks) {
			if w.giveUp != 24*time.Hour {
				t.Errorf("a message is given up after %s", w.giveUp)
			}
			w.http.Transport, w.giveUp = within{in}, 4*time.Hour
		})
		r.ready(1)
		r.message("wxa", "bad")
		r.message("wxa", "good")
		r.message("wxb", "other")
		time.Sleep(3 * time.Hour)
		if got := in.accepted(); len(got) != 1 || got[0] != "other" {
			t.Errorf("after 3 hours %q were taken", got)
		}
		if n := tries.Load(); n < 3*12 || n > 3*12*2 {
			t.Errorf("%d tries in 3 hours", n)
		}
		if n, series := looktest.Sum(t, g.reg, "wxtoken_webhook_dead_total"); n != 0 || series == 0 { // without a series, an alert would not see the first one
			t.Errorf("%v given up too early, in %d series", n, series)
		}
		time.Sleep(70 * time.Minute)
		if got := in.accepted(); len(got) != 2 || got[1] != "good" {
			t.Errorf("after 4 hours %q were taken", got)
		}
		if n := g.value(t, "wxtoken_webhook_dead_total", "shop"); n != 1 {
			t.Errorf("%v counted as dead, want 1", n)
		}
		dead, err := r.js.Stream(t.Context(), events.StreamDead)
		if err != nil {
			t.Fatal(err)
		}
		m, err := dead.GetLastMsgForSubject(t.Context(), "dead.webhook.shop.wechat.message."+component+".wxa.text")
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Data) != "bad" || m.Header.Get(events.HeaderReason) != "webhook at receiver.example: status 500, for a day" || m.Header.Get("ce-subject") != "wxa" {
			t.Errorf("on DEAD %q with %v", m.Data, m.Header)
		}
		if log := g.log.String(); !strings.Contains(log, "message given up, it is on DEAD") || strings.Contains(log, "SEKRET") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// TestDeadRefused takes away the right to write to DEAD: the message is not given up.
func TestDeadRefused(t *testing.T) {
	natsdtest.Bubble(t, func(t *testing.T) {
		r := newRig(t, natsdtest.Start(t, natsdtest.InBubble))
		if err := r.js.DeleteStream(t.Context(), events.StreamDead); err != nil {
			t.Fatal(err)
		}
		var mended atomic.Bool
		in := &receiver{decide: func(string, http.Header) (int, string) {
			if mended.Load() {
				return 200, ""
			}
			return 500, ""
		}}
		r.serve([]webhook{{URL: "http://receiver.example/", Messages: []string{component + "/*/*"}}})
		g := r.gateway(func(w *Webhooks) { w.http.Transport, w.giveUp = within{in}, time.Hour })
		r.ready(1)
		r.message("wxa", "kept")
		time.Sleep(2 * time.Hour)
		if !strings.Contains(g.log.String(), "failed to put message on DEAD") {
			t.Errorf("log:\n%s", g.log)
		}
		mended.Store(true)
		time.Sleep(10 * time.Minute)
		if got := in.accepted(); len(got) != 1 {
			t.Errorf("%q taken, want the message", got)
		}
	})
}
