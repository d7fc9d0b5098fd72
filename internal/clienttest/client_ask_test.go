package wxtoken_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
)

// answerRejects answers reports as the refresher does.
func answerRejects(t testing.TB, nc *nats.Conn, answer func(request map[string]any, req micro.Request)) {
	t.Helper()
	service, err := micro.AddService(nc, micro.Config{Name: "wxtoken", Version: "0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Stop() })
	err = service.AddEndpoint("reject", micro.HandlerFunc(func(req micro.Request) {
		var request map[string]any
		if err := json.Unmarshal(req.Data(), &request); err != nil {
			t.Errorf("a request that is not JSON: %v", err)
		}
		answer(request, req)
	}), micro.WithEndpointSubject("wxtoken.reject"))
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// TestClientName: a client says who reports, as often as it takes: refreshers of before there were names refuse the field.
func TestClientName(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{Name: "shop-backend"})
	token, err := client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}
	var said []any
	old := false
	answerRejects(t, p.srv.Connect(), func(got map[string]any, req micro.Request) {
		said = append(said, got["by"])
		if old && got["by"] != nil {
			_ = req.Error("400", `unknown field "by": want key, revision, token_sha256`, nil)
			return
		}
		_ = req.RespondJSON(map[string]any{"outcome": wxtoken.OutcomeRenewing})
	})
	report := func(ctx context.Context) {
		if got, err := client.Report(ctx, token); err != nil || got != wxtoken.OutcomeRenewing {
			t.Errorf("Report = %q, %v", got, err)
		}
	}
	report(t.Context())
	report(wxtoken.WithName(t.Context(), "gateway/another"))
	old = true
	report(t.Context())
	if want := []any{"shop-backend", "gateway/another", "shop-backend", nil}; !slices.Equal(said, want) {
		t.Errorf("it said %v, want %v", said, want)
	}
	longest := "gateway/" + strings.Repeat("x", 64) // of a service in a services file
	if err := wxtoken.CheckName(longest); err != nil {
		t.Errorf("%q: %v", longest, err)
	}
	for _, name := range []string{"-shop", "a b", "<b>", "店", "a\n", strings.Repeat("x", 81)} {
		if _, err := wxtoken.NewClient(t.Context(), p.srv.Connect(), wxtoken.Config{Name: name}); err == nil || strings.Contains(err.Error(), name) {
			t.Errorf("%q is a name: %v", name, err)
		}
		if _, err := client.Report(wxtoken.WithName(t.Context(), name), token); err == nil {
			t.Errorf("%q is a name", name)
		}
	}
}

func TestClientReject(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	revision := p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	token, err := client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Report(t.Context(), token)
	wantError(t, err, nats.ErrNoResponders, shop.String(), "refresher")

	var request map[string]any
	var respond func(req micro.Request) error
	answerRejects(t, p.srv.Connect(), func(got map[string]any, req micro.Request) {
		request = got
		if err := respond(req); err != nil {
			t.Errorf("respond: %v", err)
		}
	})
	for _, want := range []wxtoken.Outcome{
		wxtoken.OutcomeRenewing, wxtoken.OutcomeAlreadyRenewed, wxtoken.OutcomeTooSoon, wxtoken.OutcomeUnknownKey, "of_a_later_version",
	} {
		respond = func(req micro.Request) error {
			return req.RespondJSON(map[string]any{"outcome": want, "revision": revision, "more": true})
		}
		got, err := client.Report(t.Context(), token)
		if err != nil || got != want {
			t.Errorf("Report = %q, %v; want %q", got, err, want)
		}
		if len(request) != 2 || request["key"] != shop.String() || request["revision"] != float64(revision) {
			t.Errorf("request %v, want key and revision %d", request, revision)
		}
	}

	token.Revision, token.Value = 0, wxtoken.NewSecret("SEKRET")
	if _, err := client.Report(t.Context(), token); err != nil {
		t.Errorf("Report without a revision: %v", err)
	}
	const digest = "09e1d052992c468a671ba47561c3157b46daeeac5eb00185e5394733892c0ab5" // printf SEKRET | sha256sum
	if len(request) != 2 || request["key"] != shop.String() || request["token_sha256"] != digest {
		t.Errorf("request %v, want key and digest", request)
	}

	respond = func(req micro.Request) error { return req.Error("400", "no such component", nil) }
	_, err = client.Report(t.Context(), token)
	if err == nil || !strings.Contains(err.Error(), `400 "no such component"`) || strings.Contains(err.Error(), "SEKRET") {
		t.Errorf("Report = %v, want what the service said", err)
	}
	respond = func(req micro.Request) error { return req.Respond([]byte("SEKRET")) }
	if _, err = client.Report(t.Context(), token); err == nil || strings.Contains(err.Error(), "SEKRET") {
		t.Errorf("Report = %v, want an error that does not repeat the answer", err)
	}
	respond = func(micro.Request) error { return nil }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = client.Report(ctx, token)
	wantError(t, err, context.DeadlineExceeded, shop.String())

	_, err = client.Report(t.Context(), wxtoken.Token{Value: token.Value})
	wantError(t, err, wxtoken.ErrBadKey)
	client.Close()
	_, err = client.Report(t.Context(), token)
	wantError(t, err, wxtoken.ErrClosed)
}

func TestClientStatus(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	client := p.client(wxtoken.Config{})
	_, err := client.Status(t.Context(), shop)
	wantError(t, err, jetstream.ErrBucketNotFound, shop.String(), "refresher")

	kv, err := p.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "status", History: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Status(t.Context(), shop)
	wantError(t, err, wxtoken.ErrNoStatus, shop.String(), "connected")

	record := `{"key":"` + shop.String() + `","state":"needs_authorization","conditions":[],"failures":3,
		"authorizer":{"nick_name":"Tea House","func_info":[1,15],"ref":"tenant-7"},
		"last_error":{"code":61023,"message":"refresh_token is invalid","rid":"r-1","at":"2026-11-22T10:00:00Z"},"later":1}`
	if _, err := kv.PutString(t.Context(), shop.String(), record); err != nil {
		t.Fatal(err)
	}
	status, err := client.Status(t.Context(), shop)
	if err != nil {
		t.Fatal(err)
	}
	if status.Key != shop || status.State != wxtoken.StateNeedsAuthorization || status.Failures != 3 ||
		status.LastError.Code != 61023 || status.Authorizer.Ref != "tenant-7" {
		t.Errorf("Status = %+v", status)
	}

	if _, err := kv.PutString(t.Context(), hotel.String(), `{"key":"hotel"`); err != nil {
		t.Fatal(err)
	}
	_, err = client.Status(t.Context(), hotel)
	wantError(t, err, wxtoken.ErrBadStatus, hotel.String(), "revision")
	if err := kv.Delete(t.Context(), shop.String()); err != nil {
		t.Fatal(err)
	}
	_, err = client.Status(t.Context(), shop)
	wantError(t, err, wxtoken.ErrNoStatus)
	_, err = client.Status(t.Context(), wxtoken.ComponentKey(">"))
	wantError(t, err, wxtoken.ErrBadKey)
	client.Close()
	_, err = client.Status(t.Context(), shop)
	wantError(t, err, wxtoken.ErrClosed)
}
