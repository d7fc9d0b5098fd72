package wxtoken_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/wxtokentest"
)

// within bounds a test's requests.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestClientCreateLink(t *testing.T) {
	t.Parallel()
	keeper := wxtokentest.New(t)
	client := keeper.Client(wxtoken.Config{})
	component := wxtokentest.Component.Component
	link, err := client.CreateLink(within(t), wxtoken.LinkRequest{Component: component, Ref: "tenant-17", ExpiresIn: 600, AuthType: 3})
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(link.ExpiresAt); link.ID == "" || !strings.Contains(link.URL, "/connect/"+link.ID) || left < 8*time.Minute || left > 11*time.Minute {
		t.Errorf("the link is %+v", link)
	}
	for name, row := range map[string]struct {
		request wxtoken.LinkRequest
		code    string
		says    string
	}{
		"no component":      {wxtoken.LinkRequest{}, "404", "component"},
		"unknown component": {wxtoken.LinkRequest{Component: "wx00000000000000ff"}, "404", "component"},
		"a ref too long":    {wxtoken.LinkRequest{Component: component, Ref: strings.Repeat("x", 300)}, "400", "ref"},
		"a foreign host":    {wxtoken.LinkRequest{Component: component, Return: "https://example.org/x"}, "400", "return"},
		"too short a life":  {wxtoken.LinkRequest{Component: component, ExpiresIn: 1}, "400", "expires_in"},
	} {
		link, err := client.CreateLink(within(t), row.request)
		refused, ok := errors.AsType[*wxtoken.RequestError](err)
		if !ok || refused.Code != row.code || !strings.Contains(refused.Message, row.says) || link != (wxtoken.Link{}) {
			t.Errorf("%s: %+v, %v; want %s and %q", name, link, err, row.code, row.says)
			continue
		}
		if text := err.Error(); !strings.Contains(text, row.code) || !strings.Contains(text, row.says) {
			t.Errorf("%s: the text is %q", name, text)
		}
	}
	client.Close()
	_, err = client.CreateLink(within(t), wxtoken.LinkRequest{Component: component})
	wantError(t, err, wxtoken.ErrClosed)
}

// Without a refresher, and with something else in its place, the error says so.
func TestClientCreateLinkUnheard(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	client := p.client(wxtoken.Config{})
	request := wxtoken.LinkRequest{Component: shop.Component}
	_, err := client.CreateLink(within(t), request)
	wantError(t, err, nats.ErrNoResponders, "start it")

	other := p.srv.Connect()
	sub, err := other.Subscribe("wxtoken.connect.create", func(m *nats.Msg) { _ = m.Respond([]byte("SEKRET")) })
	if err == nil {
		err = other.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CreateLink(within(t), request); err == nil || !strings.Contains(err.Error(), "something else") || strings.Contains(err.Error(), "SEKRET") {
		t.Errorf("the error of an answer that is no link: %v", err)
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	silent, err := other.Subscribe("wxtoken.connect.create", func(*nats.Msg) {})
	if err == nil {
		err = other.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Unsubscribe() }()
	givesUp(t, func(ctx context.Context) error {
		_, err := client.CreateLink(ctx, request)
		return err
	}, context.DeadlineExceeded, "link")
}

// The whole ritual with a refresher and a WeChat: a token that was killed is replaced within one call.
func TestTransportWithKeeper(t *testing.T) {
	t.Parallel()
	keeper := wxtokentest.New(t)
	client := keeper.Client(accounts)
	key := wxtokentest.Merchant
	a := startAPI(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if !keeper.WeChat.Accepts(key.Component, key.Authorizer, r.URL.Query().Get("access_token")) {
			_, _ = io.WriteString(w, `{"errcode":40001,"errmsg":"invalid credential, access_token is invalid or not latest"}`)
			return
		}
		_, _ = io.WriteString(w, `{"errcode":0,"errmsg":"ok"}`)
	})
	c := newCaller(t, client)
	c.Key = key
	keeper.Reject(key)
	before := keeper.Token(key)
	_, text, err := c.call(t, "POST", a.url+"/cgi-bin/message/custom/send", strings.NewReader("{}"))
	if err != nil || !strings.Contains(text, "ok") || len(a.got()) != 2 || keeper.Token(key).Generation != before.Generation+1 {
		t.Errorf("answer %q, %v after %d calls", text, err, len(a.got()))
	}
	keeper.Reject(key) // so soon after the first that another keeper must be at work
	_, text, err = c.call(t, "POST", a.url, strings.NewReader("{}"))
	if err != nil || !strings.Contains(text, "40001") || len(a.got()) != 3 {
		t.Errorf("answer %q, %v after %d calls; want WeChat's refusal", text, err, len(a.got()))
	}
	if told := c.told[1]; !errors.Is(told.Err, wxtoken.ErrTooSoon) || !told.Refused || told.Again {
		t.Errorf("told of %+v", told)
	}
	if status, err := client.Account(key); err != nil || status.Authorizer == nil {
		t.Errorf("Account = %+v, %v", status, err)
	}
	keeper.Revoke(key)
	eventually(t, "the cancellation", fails(client, key, wxtoken.ErrRevoked))
	_, _, err = c.call(t, "GET", a.url, nil)
	wantError(t, err, wxtoken.ErrRevoked)
	eventually(t, "the state", func() bool {
		status, err := client.Account(key)
		return err == nil && status.State == wxtoken.StateRevoked
	})
}
