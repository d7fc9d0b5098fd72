package ingest_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/ingest"
	"wxtoken/internal/settings"
)

// TestFlood sends refused pushes faster than they are allowed, in virtual time.
func TestFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rigOn(t, nil) // nothing here gets as far as NATS
		bad := componentPush(t, authPath, ticketEvent())
		bad.query.Set("msg_signature", strings.Repeat("a", 40))
		send := func(c *call, remote, forwarded string) int {
			req := httptest.NewRequest(c.method, c.target(), strings.NewReader(string(c.body)))
			req.RemoteAddr = remote
			req.Header.Set("X-Forwarded-For", forwarded)
			rec := httptest.NewRecorder()
			r.ingest.Handler().ServeHTTP(rec, req)
			return rec.Code
		}
		counts := map[int]int{}
		for range 1000 {
			counts[send(bad, "203.0.113.7:1000", "198.51.100.1")]++
		}
		if counts[http.StatusForbidden] != 100 || counts[http.StatusTooManyRequests] != 900 {
			t.Errorf("answers %v, want 100 x 403 and 900 x 429", counts)
		}
		if n := len(r.log.lines(t)); n != 10 {
			t.Errorf("%d log lines, want 10", n)
		}
		if got := r.count(t, "wxtoken_push_log_suppressed_total"); got != 990 {
			t.Errorf("counted %v lines left out, want 990", got)
		}
		if got := r.count(t, "wxtoken_push_rejected_total", "signature"); got != 1000 {
			t.Errorf("counted %v refused pushes, want 1000", got)
		}

		rows := []struct {
			name              string
			call              *call
			remote, forwarded string
			want              int
		}{
			{"another port and another word for it", bad, "203.0.113.7:2000", "198.51.100.2", http.StatusTooManyRequests},
			{"IPv4 in IPv6", bad, "[::ffff:203.0.113.7]:1", "", http.StatusTooManyRequests},
			{"another address", bad, "203.0.113.8:1000", "198.51.100.1", http.StatusForbidden},
			{"no address", bad, "@", "", http.StatusForbidden},
			{"a good push, though an old one", componentPush(t, authPath, ticketAt(now.Add(-25*time.Hour))), "203.0.113.7:1000", "", http.StatusOK},
			{"a good GET", echoCall(), "203.0.113.7:1000", "", http.StatusOK},
		}
		for _, row := range rows {
			if got := send(row.call, row.remote, row.forwarded); got != row.want {
				t.Errorf("%s: answer %d, want %d", row.name, got, row.want)
			}
		}

		time.Sleep(time.Second)
		clear(counts)
		for range 100 {
			counts[send(bad, "203.0.113.7:1000", "")]++
		}
		if counts[http.StatusForbidden] != 50 {
			t.Errorf("answers a second later %v, want 50 x 403", counts)
		}
		if lines := r.log.lines(t); lines[len(lines)-10]["suppressed"] == nil {
			t.Error("the first line after the flood does not say how many were left out")
		}

		// The neighbours of an IPv6 address share its bound; many networks do not fill the memory.
		for n := range 101 {
			counts[1000+send(bad, "[2001:db8::"+string("0123456789abcdef"[n%16])+"]:1", "")]++
		}
		if counts[1000+http.StatusTooManyRequests] != 1 {
			t.Errorf("answers to one IPv6 network %v, want one 429", counts)
		}
	})
}

// echoCall is the published example of "message-push" for GET, made with our token.
func echoCall() *call {
	return &call{method: http.MethodGet, path: msgPath, raw: "signature=" + signature3(token, "1714036504", "1514711492") +
		"&echostr=4375120948345356249%3Cscript%3E&timestamp=1714036504&nonce=1514711492"}
}

func TestEchoStr(t *testing.T) {
	t.Parallel()
	r := rigOn(t, nil)
	rec := echoCall().serveDirectly(r)
	if rec.Code != http.StatusOK || rec.Body.String() != "4375120948345356249<script>" {
		t.Errorf("answer %d %q, want 200 and the echostr", rec.Code, rec.Body)
	}
	// A browser must not show that text as a page.
	if got := rec.Header().Get("Content-Type") + " " + rec.Header().Get("X-Content-Type-Options"); got != "text/plain; charset=utf-8 nosniff" {
		t.Errorf("headers %q", got)
	}
	before := echoCall()
	before.raw = strings.Replace(before.raw, signature3(token, "1714036504", "1514711492"), signature3(tokenBefore, "1714036504", "1514711492"), 1)
	if rec := before.serveDirectly(r); rec.Code != http.StatusOK {
		t.Errorf("answer to the token before %d, want 200", rec.Code)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	secrets := func(values ...string) (all []wxtoken.Secret) {
		for _, value := range values {
			all = append(all, wxtoken.NewSecret(value))
		}
		return all
	}
	good := settings.Component{AppID: "wx1", Tokens: secrets(token), AESKeys: secrets(aesKey)}
	rows := []struct {
		name       string
		components []settings.Component
		says       []string
	}{
		{"nothing", nil, []string{"component-appid", "components-dir"}},
		{"twice", []settings.Component{good, good}, []string{`"wx1" is given twice`}},
		{"all at once", []settings.Component{
			{AppID: "wx1", Tokens: secrets(token), AESKeys: secrets("SEKRETshort")},
			{AppID: "wx2", AESKeys: secrets(aesKey)},
			{AppID: "a.b", Tokens: secrets(token), AESKeys: secrets(aesKey)},
		}, []string{"wx1", "EncodingAESKey", "43", "wx2", "token", "a.b", "appid"}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, err := ingest.New(ingest.Config{}, row.components, ingest.Deps{Metrics: prometheus.NewRegistry(), Log: zerolog.Nop(), Now: time.Now})
			if err == nil {
				t.Fatal("no error")
			}
			for _, words := range row.says {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("error %q lacks %q", err, words)
				}
			}
			if strings.Contains(err.Error(), "SEKRET") {
				t.Errorf("error %q shows a secret", err)
			}
		})
	}

	registry := prometheus.NewRegistry()
	deps := ingest.Deps{Metrics: registry, Log: zerolog.Nop(), Now: time.Now}
	if _, err := ingest.New(ingest.Config{}, []settings.Component{good}, deps); err != nil {
		t.Fatal(err)
	}
	var twice prometheus.AlreadyRegisteredError
	if _, err := ingest.New(ingest.Config{}, []settings.Component{good}, deps); !errors.As(err, &twice) {
		t.Errorf("a second Ingest on one registry: %v, want an AlreadyRegisteredError", err)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	for addr, good := range map[string]bool{
		":8080": true, "127.0.0.1:0": true, "[::1]:80": true, "push.example:https": true,
		"": false, "8080": false, "here": false, ":99999": false, "::1:80": false,
	} {
		if err := (ingest.Config{HTTPAddr: addr}).Validate(); (err == nil) != good {
			t.Errorf("%q: %v", addr, err)
		} else if err != nil && !strings.Contains(err.Error(), "--http-addr (WXTOKEN_HTTP_ADDR)") {
			t.Errorf("%q: error %q names neither flag nor variable", addr, err)
		}
	}
}

// TestMetricsBeforeThePush looks that every metric is there, with zero, before it is needed.
func TestMetricsBeforeThePush(t *testing.T) {
	t.Parallel()
	r := rigOn(t, nil)
	for _, kind := range []string{"component_verify_ticket", "authorized", "message", "release_check", "echostr", "other"} {
		for _, result := range []string{"accepted", "duplicate", "stale", "rejected", "nats_unavailable"} {
			if got := r.count(t, "wxtoken_push_total", kind, result); got != 0 {
				t.Errorf("%s %s: %v", kind, result, got)
			}
		}
		r.count(t, "wxtoken_push_skew_seconds", kind)
	}
	for _, reason := range []string{"method", "too_large", "no_encrypt", "signature", "decrypt", "appid", "field"} {
		r.count(t, "wxtoken_push_rejected_total", reason)
	}
	for _, result := range []string{"accepted", "nats_unavailable"} {
		r.count(t, "wxtoken_push_duration_seconds", result)
	}
}
