//go:build unix

package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"wxtoken/client"
	"wxtoken/internal/browsertest"
	"wxtoken/internal/events"
)

// TestBrowser authorizes through a link with a real browser, from the landing page over WeChat's
// page to the result, in Chinese on a PC and in English on a phone.
func TestBrowser(t *testing.T) {
	t.Parallel()
	path := browsertest.Path()
	if path == "" {
		t.Skip("no Chromium here: install it to see a link followed by a real browser")
	}
	l := newLife(t)
	component := l.components[0]
	l.accepted(wxtoken.AuthorizerKey(component.AppID, component.Authorizers[0]), 1)
	for _, row := range []struct {
		name, account, language, agent, title, done string
	}{
		{"PC in Chinese", "wxbrowser0000001", "zh-CN", "", "授权", "授权成功"},
		{"phone in English", "wxbrowser0000002", "en-US", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148 MicroMessenger/8.0.44", "Authorize", "Authorization completed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			own := []chromedp.ExecAllocatorOption{
				chromedp.Flag("disable-sync", true), chromedp.Flag("disable-quic", true), chromedp.Flag("accept-lang", row.language),
			}
			if row.agent != "" {
				own = append(own, chromedp.UserAgent(row.agent), chromedp.WindowSize(390, 844))
			}
			ctx, cancel := context.WithTimeout(browsertest.Start(t, path, own...), patience)
			defer cancel()
			var link events.ConnectCreated
			l.in(t).ask("service", events.SubjectConnectCreate, events.ConnectCreate{Component: component.AppID, Ref: row.account}, &link)
			var title string
			eventually(t, "the landing page", func() (err error) { // it says "later" while WeChat is busy
				if err = chromedp.Do(ctx, chromedp.Navigate(link.URL)); err != nil {
					return err
				}
				if title, err = chromedp.Run(ctx, chromedp.Text("h1")); err == nil && !strings.Contains(title, row.title) {
					err = errors.New(title)
				}
				return err
			})
			picture(t, ctx, "landing "+row.name)
			see(t, ctx, chromedp.Click("a.button"), "body", "其他帐号")
			result := see(t, ctx, chromedp.SendKeys(`input[name="authorizer"]`, row.account+"\n"), "main", row.done)
			picture(t, ctx, "result "+row.name)
			address, err := chromedp.Run(ctx, chromedp.Location())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(title, row.title) || !strings.Contains(result, row.account) {
				t.Errorf("title %q, result %q", title, result)
			}
			if strings.Contains(address, "auth_code") {
				t.Error("the code is still in the address bar")
			}
			l := l.in(t)
			key := wxtoken.AuthorizerKey(component.AppID, row.account)
			l.accepted(key, 1)
			l.refOf(key, row.account)
		})
	}
}

// see does something and waits until the text of an element has a part; it returns the text. The
// page may load itself again meanwhile.
func see(t *testing.T, ctx context.Context, do chromedp.Action[chromedp.Void], element, part string) (text string) {
	t.Helper()
	if err := chromedp.Do(ctx, do); err != nil {
		t.Fatal(err)
	}
	eventually(t, part, func() (err error) {
		if text, err = chromedp.Run(ctx, chromedp.Text(element)); err == nil && !strings.Contains(text, part) {
			err = errors.New(text)
		}
		return err
	})
	return text
}

// picture saves a picture of the page into the directory that WXTOKEN_TEST_PICTURES names, for a
// person to look at.
func picture(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("WXTOKEN_TEST_PICTURES")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(dir+"/"+strings.ReplaceAll(name, " ", "-")+".png", png, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
