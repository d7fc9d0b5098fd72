package wechatsim_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

// TestAgainstWechat lets internal/wechat, which was written separately, read what the unkind
// platform pushes and answers.
func TestAgainstWechat(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := wechatsim.Unkind()
				config.Components, config.Seed = calmConfig().Components, seed
				config.BusyRate, config.LostAnswerRate, config.LatePushRate = 0, 0, 0
				config.TokenLife = 40 * time.Second
				platform, err := wechatsim.New(config)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				api := newPipes()
				server := &http.Server{Handler: platform.Handler()}
				go func() { _ = server.Serve(api) }()
				transport := &http.Transport{DialContext: api.DialContext}
				client, err := wechat.NewClient(wechat.ClientConfig{BaseURL: "http://api", Transport: transport})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					cancel()
					transport.CloseIdleConnections()
					_ = server.Close()
					synctest.Wait()
				}()
				readChain(ctx, t, platform, client)
			})
		})
	}
}

func readChain(ctx context.Context, t *testing.T, platform *wechatsim.Platform, client *wechat.Client) {
	crypter, err := wechat.NewCrypter(wechat.Keys{AppID: compID, Tokens: []string{compToken}, AESKeys: []string{compKey}})
	if err != nil {
		t.Fatal(err)
	}
	read := func() wechat.Push {
		t.Helper()
		query, body, err := platform.SealNext()
		if err != nil {
			t.Fatal(err)
		}
		q, err := wechat.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		envelope, err := wechat.ParseEnvelope(body)
		if err != nil {
			t.Fatalf("%v\n%s", err, body)
		}
		opened, err := crypter.Open(q, envelope.Encrypt)
		if err != nil {
			t.Fatal(err)
		}
		push, err := wechat.ParsePush(opened.Text)
		if err != nil {
			t.Fatalf("%v\n%s", err, opened.Text)
		}
		return push
	}
	if err := platform.PushTicket(compID); err != nil {
		t.Fatal(err)
	}
	ticket := read()
	component, err := client.ComponentToken(ctx, compID, "SEKRET-appsecret", ticket.Ticket)
	if err != nil || component.ExpiresIn != 40*time.Second {
		t.Fatalf("component token: %v, expires in %s", err, component.ExpiresIn)
	}
	if err := platform.Authorize(compID, accountA); err != nil {
		t.Fatal(err)
	}
	authorized := read()
	if authorized.AuthorizerAppID != accountA {
		t.Errorf("authorized: account %s", authorized.AuthorizerAppID)
	}
	authorization, err := client.QueryAuth(ctx, component.AccessToken, compID, authorized.Code)
	if err != nil || fmt.Sprint(authorization.FuncInfo) != "[1 2 18]" {
		t.Fatalf("exchange: %v, func_info %v", err, authorization.FuncInfo)
	}
	grant, err := client.AuthorizerToken(ctx, component.AccessToken, compID, accountA, authorization.RefreshToken)
	if err != nil || grant.ExpiresIn != 40*time.Second || !platform.Accepts(compID, accountA, grant.AccessToken) {
		t.Fatalf("refresh: %v, expires in %s", err, grant.ExpiresIn)
	}
	info, err := client.AuthorizerInfo(ctx, component.AccessToken, compID, accountA)
	if err != nil || info.RefreshToken != authorization.RefreshToken {
		t.Errorf("info: %v", err)
	}
	page, err := client.AuthorizerList(ctx, component.AccessToken, compID, 0, 500)
	if err != nil || page.Total != 1 || len(page.List) != 1 {
		t.Errorf("list: %v, %d of %d", err, len(page.List), page.Total)
	}
	if _, err := client.CreatePreAuthCode(ctx, component.AccessToken, compID); err != nil {
		t.Error(err)
	}
	if on, err := client.StartPushTicket(ctx, compID, "SEKRET-appsecret"); err != nil || !on {
		t.Errorf("start push: %t, %v", on, err)
	}
	if err := platform.Cancel(compID, accountA); err != nil {
		t.Fatal(err)
	}
	if push := read(); push.InfoType != wechat.InfoUnauthorized || push.AuthorizerAppID != accountA {
		t.Errorf("read %s", push.InfoType)
	}
	if err := platform.Register(compID, accountB); err != nil {
		t.Fatal(err)
	}
	if push := read(); push.InfoType != wechat.InfoFastRegister || push.AuthorizerAppID != accountB || push.Code == "" {
		t.Errorf("read %s", push.InfoType)
	}
}
