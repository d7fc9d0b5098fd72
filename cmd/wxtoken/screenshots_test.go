//go:build unix

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/nats-io/nats.go"

	"wxtoken/internal/browsertest"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

var screenshotsDir = flag.String("screenshots", "", "folder, from the root of the repository, into which TestScreenshots writes the pictures of README and docs")

// maxScreenshot bounds a picture, in bytes: the repository keeps each version for ever.
const maxScreenshot = 150 << 10

// screenshot is one picture of a page of wxtoken --sim.
type screenshot struct {
	file          string
	agent         string // User-Agent, empty for that of the browser
	language      string
	width, height int64 // of the window; a longer page is shown whole
	scale         float64
	page          func(t *testing.T, ctx context.Context, sim simRun) string // its address
	cut           bool                                                       // shown as far as the window goes
}

const outsideWeChat = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile/15E148 Safari/604.1"

var screenshots = []screenshot{
	{"authorize.png", "", "en", 1040, 600, 1, aLink, false},
	{"authorize.zh-CN.png", "", "zh-CN", 1040, 600, 1, aLink, false},
	{"authorize-phone.png", outsideWeChat, "en", 390, 844, 1, aLink, false},
	{"authorize-phone.zh-CN.png", outsideWeChat, "zh-CN", 390, 844, 1, aLink, false},
	{"authorized.png", "", "en", 560, 520, 1, aLinkThatWorked, false},
	{"authorized.zh-CN.png", "", "zh-CN", 560, 520, 1, aLinkThatWorked, false},
	{"console.png", "", "en", 1040, 860, 1, troubledPage("/"), true},
	{"console.zh-CN.png", "", "zh-CN", 1040, 860, 1, troubledPage("/"), true},
	{"console-accounts.png", "", "en", 1040, 720, 1, troubledPage("/accounts"), true},
	{"console-accounts.zh-CN.png", "", "zh-CN", 1040, 720, 1, troubledPage("/accounts"), true},
	{"console-notices.png", "", "en", 1040, 620, 1, toldPage, true},
	{"console-notices.zh-CN.png", "", "zh-CN", 1040, 620, 1, toldPage, true},
}

// aLink makes an authorization link.
func aLink(t *testing.T, _ context.Context, sim simRun) string {
	t.Helper()
	nc, err := nats.Connect(sim.nats)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var link events.ConnectCreated
	eventually(t, "a link", func() error {
		question, err := json.Marshal(events.ConnectCreate{Component: wechatsim.DemoAppID, Ref: "tenant-17"})
		if err != nil {
			return err
		}
		answer, err := nc.RequestWithContext(t.Context(), events.SubjectConnectCreate, question)
		if err != nil {
			return err
		}
		if err = json.Unmarshal(answer.Data, &link); err == nil && link.URL == "" {
			err = errors.New(string(answer.Data))
		}
		return err
	})
	return link.URL
}

// aLinkThatWorked authorizes by a link, and opens it again.
func aLinkThatWorked(t *testing.T, ctx context.Context, sim simRun) string {
	t.Helper()
	address := aLink(t, ctx, sim)
	see(t, ctx, chromedp.Navigate(address), "main", "mp.weixin.qq.com")
	see(t, ctx, chromedp.Click("a.button"), "body", "其他帐号")
	see(t, ctx, chromedp.SendKeys(`input[name="authorizer"]`, "wxscreenshot00001\n"), "main", "wxscreenshot00001")
	return address
}

// troubledPage is a page of the console on a busyDay, once an account needs a person.
func troubledPage(path string) func(*testing.T, context.Context, simRun) string {
	return func(t *testing.T, _ context.Context, sim simRun) string {
		t.Helper()
		inState(t, sim, "operator", 1)
		return sim.ops + path
	}
}

// toldPage is the page of notices, once what busyDay brought is told.
func toldPage(t *testing.T, _ context.Context, sim simRun) string {
	t.Helper()
	within(t, 3*time.Minute, "notices on the page", func() error {
		list, err := fetchBody(sim.ops + "/notices?format=json")
		if err == nil && (!strings.Contains(list, "PermissionMissing") || !strings.Contains(list, "DeadLetters")) {
			err = errors.New(list)
		}
		return err
	})
	return sim.ops + "/notices"
}

// inState waits until so many accounts are in a state.
func inState(t *testing.T, sim simRun, state string, accounts int) {
	t.Helper()
	within(t, 3*time.Minute, state+" on the page", func() error {
		list, err := fetchBody(sim.ops + "/accounts?format=json&state=" + state)
		if err == nil && !strings.Contains(list, fmt.Sprintf(`"total":%d,`, accounts)) {
			err = errors.New(list)
		}
		return err
	})
}

// TestScreenshots makes the pictures of README and docs:
//
//	go test -run TestScreenshots ./cmd/wxtoken -screenshots=docs/images
func TestScreenshots(t *testing.T) {
	if *screenshotsDir == "" {
		t.Skip("no -screenshots: pictures are made when a page has changed")
	}
	path := browsertest.Path()
	if path == "" {
		t.Fatal("no Chromium here: install it, and a Chinese font")
	}
	dir := *screenshotsDir
	if !filepath.IsAbs(dir) {
		dir = filepath.Join("..", "..", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx := browsertest.Start(t, path, chromedp.Flag("hide-scrollbars", true))
	sim := simulate(t, "--sim-authorizers=8")
	inState(t, sim, "active", 8)
	busyDay(t, sim)
	for _, s := range screenshots {
		t.Run(s.file, func(t *testing.T) {
			s.take(t, ctx, sim, filepath.Join(dir, s.file))
		})
	}
}

// take opens the page and writes its picture.
func (s screenshot) take(t *testing.T, ctx context.Context, sim simRun, file string) {
	t.Helper()
	speak(t, ctx, cmp.Or(s.agent, onDesk), s.language)
	address := s.page(t, ctx, sim)
	if u, err := url.Parse(address); err != nil || u.Host == "" {
		t.Fatalf("no address: %q", address)
	}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(s.width, s.height, chromedp.EmulateScale(s.scale)), chromedp.Navigate(address)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all of the page", func() error {
		whole, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`document.readyState == "complete" && [...document.images].every(i => i.complete && i.naturalWidth)`))
		if err == nil && !whole {
			err = errors.New("still loading")
		}
		return err
	})
	shot := chromedp.FullScreenshot(100)
	if s.cut {
		shot = chromedp.CaptureScreenshot()
	}
	png, err := chromedp.Run(ctx, shot)
	if err != nil {
		t.Fatal(err)
	}
	if len(png) > maxScreenshot {
		t.Errorf("%s has %d bytes, want at most %d", s.file, len(png), maxScreenshot)
	}
	if err := os.WriteFile(file, png, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d KiB", strings.TrimPrefix(file, "../../"), len(png)>>10)
}
