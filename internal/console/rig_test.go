package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	wxtoken "wxtoken/client"
	"wxtoken/internal/console"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	component = "wx0123456789abcdef"
	patience  = 2 * time.Minute
)

var now = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// bench is a console over a NATS of its own.
type bench struct {
	t    testing.TB
	nats *natsdtest.Server
	js   jetstream.JetStream
	page http.Handler
	read func() int
	puts int // that the index has to read
	end  func()
}

// newBench returns a console that follows the buckets.
func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, nats: natsdtest.Start(t)}
	nc := b.nats.Connect()
	b.js = natsdtest.JetStream(t, nc)
	streamstest.Setup(t, nc, b.js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	c, err := console.New(console.Config{NATS: b.nats.Connect(), Log: zerolog.Nop(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() { _ = c.Run(ctx) })
	b.end = sync.OnceFunc(func() {
		cancel()
		following.Wait()
	})
	t.Cleanup(b.end)
	b.page, b.read = c.Handler(), c.Read
	return b
}

// put stores a record; a string as it is.
func (b *bench) put(subject string, record any) {
	b.t.Helper()
	data, ok := record.(string)
	if !ok {
		encoded, err := json.Marshal(record)
		if err != nil {
			b.t.Fatal(err)
		}
		data = string(encoded)
	}
	if _, err := b.js.PublishAsync(subject, []byte(data), jetstream.WithStallWait(patience)); err != nil {
		b.t.Fatal(err)
	}
	if parts := strings.SplitN(subject, ".", 3); parts[0] == "$KV" {
		if _, err := wxtoken.ParseKey(parts[2]); err == nil {
			b.puts++
		}
	}
}

// waitStored waits until all that was put is in the index, with so many accounts.
func (b *bench) waitStored(accounts int) {
	b.t.Helper()
	select {
	case <-b.js.PublishAsyncComplete():
	case <-b.t.Context().Done():
		b.t.Fatal("not stored")
	}
	b.until("all records", func() error {
		if n := b.read(); n < b.puts {
			return fmt.Errorf("%d of %d are read", n, b.puts)
		}
		return nil
	})
	b.until("all accounts", func() error {
		_, body, _ := b.ask("/?format=json")
		var o console.Overview
		if err := json.Unmarshal([]byte(body), &o); err != nil || o.Loading != nil || o.Tally.Accounts != accounts {
			return fmt.Errorf("%w %s", err, body)
		}
		return nil
	})
}

// until waits until f returns nil.
func (b *bench) until(what string, f func() error) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// shows waits until a page says something.
func (b *bench) shows(target, want string, headers ...string) (body string) {
	b.t.Helper()
	b.until(target, func() error {
		if _, body, _ = b.ask(target, headers...); !strings.Contains(body, want) {
			return fmt.Errorf("no %q in\n%s", want, body)
		}
		return nil
	})
	return body
}

func (b *bench) token(key wxtoken.Key, generation uint64, expires time.Duration) {
	b.t.Helper()
	record, err := store.TokenRecord(wxtoken.Token{
		Key: key, Value: wxtoken.NewSecret("SEKRET-" + key.String()), Generation: generation,
		ObtainedAt: now.Add(-time.Hour), ExpiresAt: now.Add(expires), RenewAt: now.Add(expires / 3),
		Previous: &wxtoken.Previous{Value: wxtoken.NewSecret("SEKRET-before"), ValidUntil: now},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.put("$KV.tokens."+key.String(), string(record))
}

func (b *bench) status(s wxtoken.Status) {
	b.t.Helper()
	b.put("$KV.status."+s.Key.String(), s)
}

// ask sends a GET and returns the answer.
func (b *bench) ask(target string, headers ...string) (status int, body string, header http.Header) {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), http.MethodGet, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	b.page.ServeHTTP(w, r)
	data, err := io.ReadAll(w.Result().Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if strings.Contains(string(data), "SEKRET") {
		b.t.Errorf("%s shows a secret:\n%s", target, data)
	}
	return w.Code, string(data), w.Result().Header
}

// browser are the headers that a browser sends, chinese those of one in Chinese.
var (
	browser = []string{"Accept", "text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Language", "en"}
	chinese = []string{"Accept", "text/html", "Accept-Language", "zh-CN"}
)

func authorizer(n int) wxtoken.Key {
	return wxtoken.AuthorizerKey(component, fmt.Sprintf("wxa%015d", n))
}

func profile(nickName, principal string) *wxtoken.Authorizer {
	quoted := func(s string) json.RawMessage {
		data, _ := json.Marshal(s) // a string always can
		return data
	}
	return &wxtoken.Authorizer{Profile: map[string]json.RawMessage{"nick_name": quoted(nickName), "principal_name": quoted(principal)}}
}

// ready is the condition Ready.
func ready(ok bool, reason wxtoken.Reason, since time.Duration) []wxtoken.Condition {
	status := "False"
	if ok {
		status = "True"
	}
	return []wxtoken.Condition{{Type: wxtoken.ConditionReady, Status: status, Reason: reason, Since: now.Add(-since)}}
}

// putOneOfEach stores a key of each kind and state.
func (b *bench) putOneOfEach() {
	b.t.Helper()
	ticket := now.Add(-3 * time.Minute)
	own := wxtoken.ComponentKey(component)
	b.token(own, 7, 2*time.Hour)
	b.status(wxtoken.Status{Key: own, State: wxtoken.StateActive, TicketReceivedAt: &ticket})
	b.token(authorizer(1), 3, 90*time.Second)
	named := profile("小店", "小店有限公司")
	named.Ref, named.FuncInfo = "Tenant-17", []int{1, 18}
	b.status(wxtoken.Status{Key: authorizer(1), State: wxtoken.StateActive, Authorizer: named, Conditions: ready(true, wxtoken.ReasonRenewed, time.Hour)})
	b.token(authorizer(2), 4, -5*time.Second)
	few := profile("Bakery", "Bread Ltd")
	few.FuncInfo = []int{1}
	b.status(wxtoken.Status{Key: authorizer(2), State: wxtoken.StateRenewingFailed, Failures: 6, Authorizer: few, Conditions: ready(false, wxtoken.ReasonExpired, time.Second),
		LastError: &wxtoken.LastError{Code: 61004, Message: "access clientip is not registered", RID: "rid-1", At: now.Add(-time.Minute)}})
	b.token(authorizer(3), 9, time.Hour) // no status yet
	b.status(wxtoken.Status{Key: authorizer(4), State: wxtoken.StateRevoked, Conditions: ready(false, wxtoken.ReasonCancelled, 2*time.Second)})
	b.put("$KV.tokens."+authorizer(4).String(), "") // as a deletion lies there
	b.status(wxtoken.Status{Key: authorizer(5), State: wxtoken.StateNeedsAuthorization, Conditions: ready(false, wxtoken.ReasonRefreshTokenInvalid, time.Minute)})
	b.token(authorizer(5), 2, 30*time.Minute)
	b.put("$KV.status."+authorizer(6).String(), "not JSON")
	b.put("$KV.status.neither.a.key", "{}")
	b.waitStored(5)
}

// list is a list as a program reads it. A machine with other work may be too slow for five hundred rows at first.
func (b *bench) list(target string) (a console.Accounts) {
	b.t.Helper()
	b.until(target, func() error {
		status, body, _ := b.ask(target)
		if err := json.Unmarshal([]byte(body), &a); err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %w %s", status, err, body)
		}
		return nil
	})
	return a
}
