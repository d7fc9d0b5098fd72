package ingest_test

import (
	"bytes"
	"encoding/base64"
	"image/png"
	"net/http"
	"slices"
	"strings"
	"testing"

	"rsc.io/qr"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// TestLanding looks at the first page on every device and in both languages.
func TestLanding(t *testing.T) {
	t.Parallel()
	const iPhone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile/15E148 Safari/604.1"
	const weChatPC = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 MicroMessenger/7.0.20.1781 WindowsWechat"
	rows := []struct {
		name, agent, accept, language string
		phone, hint                   bool
	}{
		{"PC", onPC, "", "zh-CN", false, false},
		{"PC in English", onPC, "en-US,en;q=0.9", "en", false, false},
		{"PC that prefers English", onPC, "zh;q=0.8, en;q=0.9", "en", false, false},
		{"PC that prefers Chinese", onPC, "zh-CN,zh;q=0.9,en;q=0.8", "zh-CN", false, false},
		{"PC in Hong Kong", onPC, "zh-Hant-HK,en;q=0.5", "zh-CN", false, false},
		{"PC with neither", onPC, "fr, *;q=0.5", "zh-CN", false, false},
		{"PC with nonsense", onPC, ";;q=x,en;q=NaN,,", "zh-CN", false, false},
		{"WeChat on a PC", weChatPC, "", "zh-CN", false, false},
		{"no User-Agent", "", "", "zh-CN", false, false},
		{"WeChat on a phone", onPhone, "en", "en", true, false},
		{"another browser on a phone", iPhone, "", "zh-CN", true, true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.Start(t)
			r := newRig(t, srv)
			f := newRefresher(t, srv)
			status, header, body := get(linkPath, "", "User-Agent", row.agent, "Accept-Language", row.accept).send(t, r.serve(t))
			if status != http.StatusOK {
				t.Fatalf("answer %d %s", status, body)
			}
			all := checkPage(t, header, body, row.language, "strict-origin-when-cross-origin")

			first, second := pcLink, mobileLink
			if row.phone {
				first, second = mobileLink, pcLink
			}
			links := find(all, "a")
			button := links[0].attr["class"] == "button"
			if len(links) != 2 || button == row.hint || links[0].attr["href"] != first || links[1].attr["href"] != second {
				t.Errorf("links %v, want %s first, and a button where it leads on: %v", links, first, !row.hint)
			}
			for _, l := range links { // each of these keeps the Referer away, or the window
				if l.attr["rel"] != "" || l.attr["target"] != "" || l.attr["referrerpolicy"] != "" {
					t.Errorf("link %v", l.attr)
				}
			}
			if hint := strings.Contains(body, "请在微信中打开本页面"); hint != row.hint {
				t.Errorf("hint to open the page in WeChat: %v, want %v", hint, row.hint)
			}
			const address = "https://shop.example" + linkPath
			if shown := slices.ContainsFunc(find(all, "bdi"), func(e element) bool { return e.text == address }); shown != row.hint {
				t.Errorf("the address to copy is shown: %v, want %v", shown, row.hint)
			}
			pictures := find(all, "img")
			if wants := !row.phone || row.hint; wants != (len(pictures) == 1) {
				t.Errorf("%d QR codes", len(pictures))
			}
			if len(pictures) == 1 {
				checkQRCode(t, pictures[0].attr["src"], address)
			}

			cookies := (&http.Response{Header: header}).Cookies()
			if len(cookies) != 1 {
				t.Fatalf("%d cookies", len(cookies))
			}
			c := cookies[0]
			if c.Name != "wxtoken_connect" || c.Value != linkSession || c.Path != linkPath || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Domain != "" {
				t.Errorf("cookie %s", c.Raw)
			}
			if asked := f.questions(); len(asked) != 1 || asked[0] != (events.ConnectOpen{ID: linkID, Step: events.StepLanding, Over: true}) {
				t.Errorf("asked %+v", asked)
			}
			if r.pageCount(t, "landing", "shown") != 1 || len(r.log.lines(t)) != 0 {
				t.Errorf("not counted, or logged above debug: %s", r.log)
			}
			checkLog(t, r)
		})
	}
}

// checkQRCode looks that a picture within a page is the code for text inside a quiet zone.
func checkQRCode(t *testing.T, source, text string) {
	t.Helper()
	content, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(source, "data:image/png;base64,"))
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	want, err := qr.Encode(text, qr.M)
	if err != nil {
		t.Fatal(err)
	}
	const zone = 4 // modules
	scale := picture.Bounds().Dx() / (want.Size + 2*zone)
	for y := -zone; y < want.Size+zone; y++ {
		for x := -zone; x < want.Size+zone; x++ {
			grey, _, _, _ := picture.At((x+zone)*scale+scale/2, (y+zone)*scale+scale/2).RGBA()
			if (grey == 0) != want.Black(x, y) {
				t.Fatalf("module %d,%d is wrong", x, y)
			}
		}
	}
}

// TestLandingWithoutTLS gives a cookie that a browser sends back over http.
func TestLandingWithoutTLS(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	newRefresher(t, srv).set(func(l *link) { l.URL = "http://127.0.0.1:8080" + linkPath })
	_, header, _ := get(linkPath, "").send(t, r.serve(t))
	if c := (&http.Response{Header: header}).Cookies(); len(c) != 1 || c[0].Secure {
		t.Errorf("cookies %v", c)
	}
}

// TestHead looks that HEAD is answered as GET is, without a body.
func TestHead(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	newRefresher(t, srv)
	c := get(linkPath, "")
	c.method = http.MethodHead
	status, header, body := c.send(t, r.serve(t))
	if status != http.StatusOK || body != "" || header.Get("Set-Cookie") == "" || header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("answer %d %v %q", status, header, body)
	}
}
