//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/client/message"
	"wxtoken/internal/events"
	"wxtoken/internal/settings"
	"wxtoken/wechatsim"
)

// life is ingest and refresher as they are deployed, each under its own user, with two components
// of the fake platform in a directory, and what a service needs.
type life struct {
	*testing.T
	nats       *server.Server
	sim        *wechatsim.Platform
	components []wechatsim.Component // the last one is not in the directory yet
	dir, seeds string
	simURL     string
	publicURL  string
	service    *nats.Conn
	client     *wxtoken.Client
}

func newLife(t *testing.T) *life { return newLifeOf(t, 2) }

// newLifeOf is newLife with so many accounts in each component.
func newLifeOf(t *testing.T, accountsEach int) *life {
	l := &life{T: t, nats: shipped(t, accounts), dir: filepath.Join(t.TempDir(), "components")}
	l.components = wechatsim.DemoOf(3, 10*time.Second, accountsEach, "http://unused").Components
	l.add(l.components[0])
	l.add(l.components[1])
	l.seeds = filepath.Join(t.TempDir(), "seal.key")
	public, err := settings.MakeSealKey(l.seeds)
	if err != nil {
		t.Fatal(err)
	}
	in := deployed(t, "ingest", l.nats, "--seal-key="+public, "--component-appid=", "--components-dir="+l.dir, "--http-addr=127.0.0.1:0")
	l.publicURL = "http://" + in.find(t, `"server":"pushes","addr":"([^"]+)"`)

	config := wechatsim.DemoOf(len(l.components), 10*time.Second, accountsEach, l.publicURL)
	l.components = config.Components
	if l.sim, err = wechatsim.New(config); err != nil {
		t.Fatal(err)
	}
	api := httptest.NewServer(l.sim.Handler())
	t.Cleanup(api.Close)
	l.simURL = api.URL
	deployed(t, "refresher", l.nats, "--seal-key-file="+l.seeds, "--component-appid=", "--components-dir="+l.dir, "--sweep-every=1s", "--wechat-api-url="+api.URL,
		"--wechat-page-url="+api.URL, "--public-url="+l.publicURL, "--return-hosts=shop.example.com", "--derive=jsapi,wx_card")
	begin(t, l.sim)
	l.service = as(t, l.nats, "service")
	eventually(t, "a service to read the bucket", func() (err error) {
		l.client, err = wxtoken.NewClient(t.Context(), l.service, wxtoken.Config{})
		return err
	})
	t.Cleanup(l.client.Close)
	return l
}

// add puts a component into the directory.
func (l *life) add(c wechatsim.Component) {
	l.Helper()
	dir := filepath.Join(l.dir, c.AppID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		l.Fatal(err)
	}
	for name, value := range map[string]string{"appsecret": c.AppSecret, "token": c.Token, "aes_key": c.EncodingAESKey} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600); err != nil {
			l.Fatal(err)
		}
	}
}

// ask makes a request as a user, and reads the answer into answer.
func (l *life) ask(user, subject string, q, answer any) {
	l.Helper()
	data, err := json.Marshal(q)
	if err != nil {
		l.Fatal(err)
	}
	nc := as(l.T, l.nats, user)
	defer nc.Close()
	eventually(l.T, subject, func() error { // a refresher says 503 while WeChat is busy
		m, err := nc.Request(subject, data, patience)
		if err != nil {
			return err
		}
		if text := m.Header.Get("Nats-Service-Error"); text != "" {
			return errors.New(text)
		}
		return json.Unmarshal(m.Data, answer)
	})
}

// accepted waits until the bucket has a token for key that WeChat takes, of that generation at
// least.
func (l *life) accepted(key wxtoken.Key, generation uint64) wxtoken.Token {
	l.Helper()
	var token wxtoken.Token
	eventually(l.T, "a good token of "+key.String(), func() (err error) {
		switch token, err = l.client.Token(key); {
		case err != nil:
		case token.Generation < generation:
			err = fmt.Errorf("generation %d", token.Generation)
		case key.Kind == wxtoken.KindJSAPITicket && !l.sim.AcceptsAccountTicket(key.Component, key.Authorizer, "jsapi", token.Value.Reveal()),
			key.Kind == wxtoken.KindWxCardTicket && !l.sim.AcceptsAccountTicket(key.Component, key.Authorizer, "wx_card", token.Value.Reveal()),
			key.Kind == wxtoken.KindAuthorizer && !l.sim.Accepts(key.Component, key.Authorizer, token.Value.Reveal()):
			err = errors.New("WeChat does not take it")
		}
		return err
	})
	return token
}

// refOf waits for the ref of an account.
func (l *life) refOf(key wxtoken.Key, want string) {
	l.Helper()
	eventually(l.T, "the ref of "+key.String(), func() error {
		status, err := l.client.Status(l.Context(), key)
		if err == nil && (status.Authorizer == nil || status.Authorizer.Ref != want) {
			err = fmt.Errorf("%+v", status.Authorizer)
		}
		return err
	})
}

// TestWholeLife plays what happens between a merchant's first scan and the day they cancel, on real
// processes with the rights that they are deployed with.
func TestWholeLife(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	first, second, third := l.components[0], l.components[1], l.components[2]
	account := first.Authorizers[0]
	key := wxtoken.AuthorizerKey(first.AppID, account)

	// The same accounts under two components: nothing mixes.
	for _, c := range []wechatsim.Component{first, second} {
		for _, a := range c.Authorizers {
			l.accepted(wxtoken.AuthorizerKey(c.AppID, a), 1)
			l.accepted(wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: c.AppID, Authorizer: a}, 1)
			l.accepted(wxtoken.Key{Kind: wxtoken.KindWxCardTicket, Component: c.AppID, Authorizer: a}, 1)
		}
	}

	t.Run("link", func(t *testing.T) {
		l := l.in(t)
		const merchant = "wxmerchant000001"
		page := l.byLink(first.AppID, merchant, events.ConnectCreate{Component: first.AppID, Ref: "tenant-17"})
		if page.StatusCode != http.StatusOK || !strings.Contains(page.body, merchant) {
			t.Errorf("the result is %d:\n%s", page.StatusCode, page.body)
		}
		merchantKey := wxtoken.AuthorizerKey(first.AppID, merchant)
		l.accepted(merchantKey, 1)
		l.refOf(merchantKey, "tenant-17")

		// Another tenant's link does not take the account away, and says so.
		page = l.byLink(first.AppID, merchant, events.ConnectCreate{Component: first.AppID, Ref: "tenant-18"})
		if page.StatusCode != http.StatusConflict {
			t.Errorf("another tenant's link ends with %d:\n%s", page.StatusCode, page.body)
		}
		l.accepted(merchantKey, 2)
		l.refOf(merchantKey, "tenant-17")

		// To the caller's own address.
		page = l.byLink(first.AppID, "wxmerchant000002", events.ConnectCreate{Component: first.AppID, Ref: "t 19", Return: "https://shop.example.com/done?x=1"})
		want := "https://shop.example.com/done?authorizer_appid=wxmerchant000002&component_appid=" + first.AppID + "&ref=t+19&x=1"
		if page.StatusCode != http.StatusSeeOther || page.Header.Get("Location") != want {
			t.Errorf("the browser ends with %d at %q, want 303 to %q", page.StatusCode, page.Header.Get("Location"), want)
		}
	})

	t.Run("report", func(t *testing.T) {
		l := l.in(t)
		token := l.accepted(key, 1)
		if err := l.sim.Invalidate(first.AppID, account); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a report to be taken", func() error { // within the cool-down nobody believes it
			outcome, err := l.client.Report(t.Context(), token)
			if err == nil && outcome == wxtoken.OutcomeTooSoon {
				err = errors.New("too soon")
			}
			return err
		})
		next, err := l.client.Next(t.Context(), token)
		if err != nil || next.Generation <= token.Generation {
			t.Errorf("after a report comes generation %d after %d, %v", next.Generation, token.Generation, err)
		}
		l.accepted(key, next.Generation)
	})

	t.Run("operator", func(t *testing.T) {
		l := l.in(t)
		before := l.accepted(key, 1)
		eventually(t, "a renewal", func() error {
			var verdict events.Verdict
			l.ask("operator", events.SubjectRenew, events.Renew{Key: key}, &verdict)
			if verdict.Outcome != wxtoken.OutcomeRenewing {
				return errors.New(string(verdict.Outcome))
			}
			return nil
		})
		l.accepted(key, before.Generation+1)
		var quota events.QuotaAnswer
		l.ask("operator", events.SubjectQuota, events.QuotaRequest{Component: first.AppID, Clear: true, Confirm: first.AppID}, &quota)
		if !quota.Cleared || len(quota.APIs) == 0 || quota.APIs[0].QuotaLeft == nil && quota.APIs[0].Error == "" {
			t.Errorf("quota: %+v", quota)
		}
		var reconciling events.Reconciling
		l.ask("operator", events.SubjectReconcile, events.ReconcileRequest{Component: first.AppID}, &reconciling)
	})

	t.Run("messages", func(t *testing.T) {
		l := l.in(t)
		sub, err := l.service.QueueSubscribe(message.ReplySubject(first.AppID, account), "shop", func(m *nats.Msg) {
			received, err := message.Parse(m.Data)
			if err == nil {
				err = m.Respond(received.Reply(time.Now()).Text("you said: " + received.Content))
			}
			if err != nil {
				t.Error(err)
			}
		})
		if err == nil {
			err = l.service.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		if err := l.sim.PushMessage(first.AppID, account, wechatsim.Message{Content: "hello"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the reply", func() error {
			for _, e := range l.sim.History() {
				if e.Kind == wechatsim.EntryPushAnswer && e.Content == "you said: hello" {
					return nil
				}
			}
			return errors.New("not yet")
		})
	})

	t.Run("release check", func(t *testing.T) {
		l := l.in(t)
		for _, account := range wechatsim.ReleaseAccounts() {
			report, err := l.sim.ReleaseCheck(t.Context(), second.AppID, account, patience)
			if err != nil || !report.OK {
				t.Errorf("%s: %v, %+v", account, err, report)
			}
		}
	})

	t.Run("export and import", func(t *testing.T) {
		l := l.in(t)
		eventually(t, "what was exported to be the same", func() error { // a lent account's cancellation may be on its way
			file := filepath.Join(t.TempDir(), "authorizations.jsonl")
			l.refresherJob("--export=" + file)
			text, err := os.ReadFile(file)
			if err != nil || !strings.Contains(string(text), `"ref":"tenant-17"`) {
				t.Fatalf("%v; the export lacks the merchant", err)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, mode %v", err, info.Mode())
			}
			out := l.refresherJob("--import="+file, "--import-apply")
			lines := strings.Count(string(text), "\n")
			if want := fmt.Sprintf(`"lines":%d,"fates":{"same":%d}`, lines, lines); !strings.Contains(out, want) {
				return fmt.Errorf("%s, want %s", out, want)
			}
			return nil
		})
	})

	t.Run("components", func(t *testing.T) {
		l := l.in(t)
		l.add(third)
		l.accepted(wxtoken.AuthorizerKey(third.AppID, third.Authorizers[0]), 1)
		if err := os.RemoveAll(filepath.Join(l.dir, second.AppID)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the push URL of a removed component to be gone", func() error {
			response, err := http.Get(l.publicURL + "/wechat/" + second.AppID + "/message/wx1?timestamp=1414055232&nonce=1")
			if err != nil {
				return err
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusNotFound {
				return errors.New(response.Status)
			}
			return nil
		})
	})

	t.Run("cancelled", func(t *testing.T) {
		l := l.in(t)
		if err := l.sim.Cancel(first.AppID, account); err != nil {
			t.Fatal(err)
		}
		tickets := wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: first.AppID, Authorizer: account}
		eventually(t, "token and ticket to be gone", func() error {
			for _, k := range []wxtoken.Key{key, tickets} {
				if _, err := l.client.Token(k); !errors.Is(err, wxtoken.ErrRevoked) {
					return fmt.Errorf("%s: %v", k, err)
				}
			}
			return nil
		})
	})
}

// in is l for a part of a test.
func (l *life) in(t *testing.T) *life {
	part := *l
	part.T = t
	return &part
}

// refresherJob runs the refresher's program for a job, and returns what it says.
func (l *life) refresherJob(args ...string) string {
	l.Helper()
	cmd := exec.CommandContext(l.Context(), filepath.Join(bin, "refresher"), append(args, "--components-dir="+l.dir, "--ops-addr=127.0.0.1:0", "--log-level=warn")...)
	cmd.Env = []string{"WXTOKEN_NATS_URL=" + urlOf(l.nats, "refresher"), "WXTOKEN_SEAL_KEY_FILE=" + l.seeds}
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.Fatalf("refresher %v: %v\n%s", args, err, out)
	}
	if strings.Contains(string(out), "SEKRET") {
		l.Errorf("refresher %v shows a secret", args)
	}
	return string(out)
}

// page is what a browser was shown.
type page struct {
	*http.Response
	body string
}

// byLink has a merchant authorize through a link, with a browser that keeps cookies and sends the
// Referer.
func (l *life) byLink(component, account string, q events.ConnectCreate) page {
	l.Helper()
	var link events.ConnectCreated
	l.ask("service", events.SubjectConnectCreate, q, &link)
	jar, err := cookiejar.New(nil)
	if err != nil {
		l.Fatal(err)
	}
	browser := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if !strings.HasPrefix(r.URL.String(), l.publicURL) {
			return http.ErrUseLastResponse // a host that does not exist
		}
		return nil
	}}
	show := func(method, address, referer string, form url.Values) (p page) {
		l.Helper()
		eventually(l.T, "the page "+method+" of "+component, func() error {
			request, err := http.NewRequestWithContext(l.Context(), method, address, strings.NewReader(form.Encode()))
			if err != nil {
				l.Fatal(err)
			}
			if form != nil {
				request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			request.Header.Set("Referer", referer)
			response, err := browser.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			p = page{response, string(body)}
			switch {
			case err != nil:
				return err
			case response.StatusCode == http.StatusServiceUnavailable:
				return errors.New("not now")
			case strings.Contains(p.body, `http-equiv="refresh"`):
				method, address, form = http.MethodGet, response.Request.URL.String(), nil // it loads itself again
				return errors.New("still at it")
			}
			return nil
		})
		return p
	}
	landing := show(http.MethodGet, link.URL, "", nil)
	found := regexp.MustCompile(`href="([^"]*componentloginpage[^"]*)"`).FindStringSubmatch(landing.body)
	if found == nil {
		l.Fatalf("no link to WeChat on\n%s", landing.body)
	}
	address := strings.ReplaceAll(found[1], "&amp;", "&")
	wechat := show(http.MethodGet, address, l.publicURL+"/", nil)
	if !strings.Contains(wechat.body, "<form") {
		l.Fatalf("WeChat's page does not go on:\n%s", wechat.body)
	}
	u, err := url.Parse(address)
	if err != nil {
		l.Fatal(err)
	}
	form := u.Query()
	form.Set("authorizer", account)
	return show(http.MethodPost, l.simURL+"/sim/consent", l.simURL, form)
}
