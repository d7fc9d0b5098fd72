package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/console"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/wechatsim"
)

// manyAccounts is how many accounts walkMany has; WXTOKEN_TEST_ACCOUNTS is another number.
const manyAccounts = 10_000

// walkMany walks through the pages that grow with the accounts, with as many as a large platform has. They lie in NATS as refreshers store
// them, since to authorize them takes longer than CI may.
func (w *walker) walkMany() {
	w.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv("WXTOKEN_TEST_ACCOUNTS"), strconv.Itoa(manyAccounts)))
	if err != nil {
		w.Fatal(err)
	}
	many := *w
	many.base = consoleOf(w.T, n)
	broken := "/accounts/" + wxtoken.AuthorizerKey(wechatsim.DemoAppID, manyName(3)).String()
	for i, path := range []string{"/", "/accounts", "/accounts?page=" + strconv.Itoa((n+49)/50), "/accounts?token=dead&sort=since", "/accounts?q=tenant-99", broken} {
		language := []string{"en", "zh-CN"}[i%2]
		w.Run(fmt.Sprint(n, " accounts, ", language, path), func(t *testing.T) {
			w := many.in(t)
			began := time.Now()
			w.open(path, language, 200)
			t.Logf("there after %s, %d bytes", time.Since(began).Round(time.Millisecond), eval[int](w, `performance.getEntriesByType("navigation")[0].transferSize`))
			w.look(path, language)
		})
	}
}

// manyName is the appid of an account.
func manyName(i int) string { return fmt.Sprintf("wxa%015d", i) }

// consoleOf serves the page over a NATS with n accounts: of each hundred four are not as they should be.
func consoleOf(t *testing.T, n int) (base string) {
	t.Helper()
	nats := natsdtest.Start(t)
	nc := nats.Connect()
	js := natsdtest.JetStream(t, nc)
	streamstest.Setup(t, nc, js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	now := time.Now().UTC().Truncate(time.Second)
	put := func(subject string, record any) {
		data, err := json.Marshal(record)
		if err == nil {
			_, err = js.PublishAsync(subject, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		key := wxtoken.AuthorizerKey(wechatsim.DemoAppID, manyName(i))
		s, life := wxtoken.Status{Key: key, State: wxtoken.StateActive}, time.Duration(i%6000+600)*time.Second
		ready := wxtoken.Condition{Type: wxtoken.ConditionReady, Status: "True", Reason: wxtoken.ReasonRenewed, Since: now.Add(-time.Hour)}
		failed := func(state wxtoken.State, reason wxtoken.Reason, code int) {
			s.State, s.Failures, s.LastError = state, 3, &wxtoken.LastError{Code: code, Message: "refused by WeChat", API: "api_authorizer_token", At: now}
			ready.Status, ready.Reason = "False", reason
		}
		switch i % 100 {
		case 3:
			failed(wxtoken.StateOperator, wxtoken.ReasonOperatorNeeded, 61007)
		case 4:
			failed(wxtoken.StateRenewingFailed, wxtoken.ReasonRenewalFailed, -1)
			life = -time.Minute
		case 5, 6:
			failed(wxtoken.StateNeedsAuthorization, wxtoken.ReasonRefreshTokenInvalid, 61023)
			life = -time.Hour
		}
		s.Conditions = []wxtoken.Condition{ready}
		s.Authorizer = &wxtoken.Authorizer{
			Ref: fmt.Sprintf("tenant-%d", i), FuncInfo: []int{1, 2, 3, 15, 18},
			Profile: map[string]json.RawMessage{"nick_name": json.RawMessage(fmt.Sprintf(`"第 %d 家小店"`, i)), "principal_name": json.RawMessage(`"某某网络科技有限公司"`)},
		}
		put("$KV."+events.BucketStatus+"."+key.String(), s)
		put(events.TokenSubject(key), map[string]any{
			"key": key, "value": "made-up", "generation": 12, "obtained_at": now.Add(-time.Hour), "expires_at": now.Add(life), "renew_at": now.Add(life - 10*time.Minute),
		})
	}
	<-js.PublishAsyncComplete()
	c, err := console.New(console.Config{NATS: nats.Connect(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() { _ = c.Run(ctx) })
	served := httptest.NewServer(c.Handler())
	t.Cleanup(func() {
		end()
		served.CloseClientConnections()
		served.Close()
		following.Wait()
	})
	eventually(t, "all accounts", func() error {
		resp, err := http.Get(served.URL + "/?format=json")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		var o struct {
			Verdict  string
			Accounts struct{ Accounts int }
		}
		if err != nil || json.Unmarshal(text, &o) != nil || o.Accounts.Accounts != n || o.Verdict != "broken" {
			return fmt.Errorf("%d of %d, %s (%v)", o.Accounts.Accounts, n, o.Verdict, err)
		}
		return nil
	})
	return served.URL
}
