// Command sdk runs github.com/silenceper/wechat against the gateway, for TestSDKs of cmd/wxtoken.
// That SDK has no setting for the address of the API: it gets an HTTP client that goes to the
// gateway instead.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	wechat "github.com/silenceper/wechat/v2"
	"github.com/silenceper/wechat/v2/cache"
	miniconfig "github.com/silenceper/wechat/v2/miniprogram/config"
	"github.com/silenceper/wechat/v2/officialaccount"
	"github.com/silenceper/wechat/v2/officialaccount/config"
	"github.com/silenceper/wechat/v2/officialaccount/material"
	"github.com/silenceper/wechat/v2/officialaccount/menu"
	openconfig "github.com/silenceper/wechat/v2/openplatform/config"
)

// gateway sends requests for WeChat's API to the gateway.
type gateway struct{ address *url.URL }

func (g gateway) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == "api.weixin.qq.com" {
		r = r.Clone(r.Context())
		r.URL.Scheme, r.URL.Host, r.Host = g.address.Scheme, g.address.Host, ""
	}
	return http.DefaultTransport.RoundTrip(r)
}

func main() {
	address, err := url.Parse(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	client := &http.Client{Transport: gateway{address}}
	wc := wechat.NewWechat()
	wc.SetHTTPClient(client)
	account := wc.GetOfficialAccount(&config.Config{AppID: os.Args[2], AppSecret: os.Args[3], Cache: cache.NewMemory()})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		name, arg, _ := strings.Cut(lines.Text(), " ")
		out, err := step(wc, account, client, name, arg)
		if err != nil {
			fmt.Printf("failed\t%s\n", strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Printf("ok\t%s\n", out)
	}
}

func step(wc *wechat.Wechat, account *officialaccount.OfficialAccount, client *http.Client, name, arg string) (string, error) {
	switch name {
	case "token":
		return account.GetAccessToken()
	case "users":
		return users(account)
	case "menu":
		return "ok", account.GetMenu().SetMenu([]*menu.Button{menu.NewClickButton("今日歌曲", "V1001")})
	case "upload":
		file, err := account.GetMaterial().MediaUpload(material.MediaTypeImage, arg)
		return file.MediaID, err
	case "session":
		return session(wc, account, arg)
	case "login":
		return logIn(account, arg)
	case "component":
		return component(wc, account, arg)
	case "download":
		return download(account, client, arg)
	}
	return "", errors.New("no such step")
}

func users(account *officialaccount.OfficialAccount) (string, error) {
	list, err := account.GetUser().ListUserOpenIDs()
	if err != nil {
		return "", err
	}
	return list.Data.OpenIDs[0], nil
}

// session does what a mini program's server does with the code of a user.
func session(wc *wechat.Wechat, account *officialaccount.OfficialAccount, code string) (string, error) {
	own := account.GetContext().Config
	program := wc.GetMiniProgram(&miniconfig.Config{AppID: own.AppID, AppSecret: own.AppSecret, Cache: cache.NewMemory()})
	user, err := program.GetAuth().Code2Session(code)
	return user.OpenID, err
}

// logIn does what a web page does with the code of a user: it gets the user's tokens, checks and
// renews them, and asks for the user's profile.
func logIn(account *officialaccount.OfficialAccount, code string) (string, error) {
	oauth := account.GetOauth()
	user, err := oauth.GetUserAccessToken(code)
	if err != nil {
		return "", err
	}
	if good, err := oauth.CheckAccessToken(user.AccessToken, user.OpenID); err != nil || !good {
		return "", fmt.Errorf("invalid token: %w", err)
	}
	if user, err = oauth.RefreshAccessToken(user.RefreshToken); err != nil {
		return "", err
	}
	info, err := oauth.GetUserInfo(user.AccessToken, user.OpenID, "")
	return info.OpenID, err
}

// component does what a third-party platform does: it gets the component's token, renews an
// account's, and calls WeChat with that. Ticket and refresh token are made up, since only wxtoken
// has the real ones.
func component(wc *wechat.Wechat, account *officialaccount.OfficialAccount, appid string) (string, error) {
	own := account.GetContext().Config
	platform := wc.GetOpenPlatform(&openconfig.Config{AppID: appid, AppSecret: own.AppSecret, Cache: cache.NewMemory()})
	if _, err := platform.SetComponentAccessToken(context.Background(), "ticket@@@none"); err != nil {
		return "", err
	}
	if _, err := platform.RefreshAuthrToken(own.AppID, "refreshtoken@@@none"); err != nil {
		return "", err
	}
	return users(platform.GetOfficialAccount(own.AppID).OfficialAccount)
}

// download gets the address from the SDK, which does not fetch it, and fetches it with client,
// which goes to the gateway.
func download(account *officialaccount.OfficialAccount, client *http.Client, id string) (string, error) {
	from, err := account.GetMaterial().GetMediaURL(id)
	if err != nil {
		return "", err
	}
	response, err := client.Get(from)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, response.Body); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
