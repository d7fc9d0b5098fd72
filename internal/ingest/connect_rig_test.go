package ingest_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// The link of the tests.
const (
	linkID      = "abcdefghSEKRETconnectid-_0"
	linkPath    = "/connect/" + linkID
	backPath    = linkPath + "/callback"
	linkSession = "SEKRETsession"
	linkCode    = "queryauthcode@@@SEKRET-link"
	pcLink      = "https://mp.weixin.qq.com/cgi-bin/componentloginpage?component_appid=wxc&pre_auth_code=SEKRET%40pre&redirect_uri=https%3A%2F%2Fshop.example%2Fconnect"
	mobileLink  = "https://open.weixin.qq.com/wxaopen/safe/bindcomponent?action=bindcomponent&pre_auth_code=SEKRET%40pre#wechat_redirect"
	onPhone     = "Mozilla/5.0 (Linux; Android 15; V2309A) AppleWebKit/537.36 Mobile Safari/537.36 MicroMessenger/8.0.50"
	onPC        = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/130.0 Safari/537.36"
)

// link is one authorization link.
type link struct {
	events.ConnectOpened
	code int // of the error that every question gets; 0 for none
	used string
	then func(*link) // changes the link at each question how it ended
}

// refresher answers what the refresher would, on the same subject, as the same micro service.
type refresher struct {
	mu    sync.Mutex
	links map[string]*link
	asked []events.ConnectOpen
	stall time.Duration // before every answer
	ended chan struct{} // closed with the test: ends every stall
}

func newRefresher(t testing.TB, srv *natsdtest.Server) *refresher {
	t.Helper()
	f := &refresher{ended: make(chan struct{}), links: map[string]*link{linkID: {ConnectOpened: events.ConnectOpened{
		State: events.ConnectPending, Component: component, URL: "https://shop.example" + linkPath,
		PCLink: pcLink, MobileLink: mobileLink,
	}}}}
	nc := srv.Connect()
	s, err := micro.AddService(nc, micro.Config{Name: events.ServiceName, Version: "0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(f.ended)
		_ = s.Stop()
	})
	err = s.AddEndpoint("connect_open", micro.HandlerFunc(func(req micro.Request) {
		opened, code := f.open(t, req.Data())
		// An answer that is not sent is missed by the test that waits for it.
		if code != 0 {
			_ = req.Error(strconv.Itoa(code), "SEKRET", nil)
		} else {
			_ = req.RespondJSON(opened)
		}
	}), micro.WithEndpointSubject(events.SubjectConnectOpen))
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(time.Minute); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *refresher) open(t testing.TB, data []byte) (events.ConnectOpened, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-time.After(f.stall):
	case <-f.ended:
	}
	var q events.ConnectOpen
	if err := json.Unmarshal(data, &q); err != nil {
		t.Errorf("asked %q: %v", data, err)
	}
	f.asked = append(f.asked, q)
	l := f.links[q.ID]
	switch {
	case l == nil:
		return events.ConnectOpened{}, http.StatusNotFound
	case l.code != 0:
		return events.ConnectOpened{}, l.code
	case q.Step == events.StepLanding:
		opened := l.ConnectOpened
		if opened.Over == "" {
			opened.Session = linkSession
		}
		return opened, 0
	case q.Session != linkSession:
		return events.ConnectOpened{}, http.StatusForbidden
	case q.Step == events.StepCallback && l.used != "" && l.used != q.CodeSHA256:
		if !q.Over {
			return events.ConnectOpened{}, http.StatusGone
		}
		opened := l.ConnectOpened
		opened.Over = events.OverEnded
		return opened, 0
	case q.Step == events.StepCallback && l.used == "":
		l.used, l.State = q.CodeSHA256, events.ConnectExchanging
	case q.Step == events.StepResult && l.then != nil:
		l.then(l)
	}
	opened := l.ConnectOpened
	opened.PCLink, opened.MobileLink = "", ""
	return opened, 0
}

// set changes the link of the tests.
func (f *refresher) set(change func(*link)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.links[linkID])
}

func (f *refresher) questions() []events.ConnectOpen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// get is a request of a browser for a page.
func get(path, query string, header ...string) *call {
	c := &call{method: http.MethodGet, path: path, raw: query, header: http.Header{"User-Agent": {onPC}}}
	for n := 0; n < len(header); n += 2 {
		c.header.Set(header[n], header[n+1])
	}
	return c
}

// getWithSession is get with the session that the landing page gave.
func getWithSession(path, query string) *call {
	return get(path, query, "Cookie", "wxtoken_connect="+linkSession)
}

func codeQuery(code string) string {
	return url.Values{"auth_code": {code}, "expires_in": {"600"}}.Encode()
}

// element is what a page is made of.
type element struct {
	name string
	attr map[string]string
	text string
}

// elements reads a page, which has to be well-formed.
func elements(t testing.TB, page string) []element {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(strings.TrimPrefix(page, "<!DOCTYPE html>")))
	var all []element
	var open []int
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("page can't be read: %v\n%s", err, page)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := element{name: token.Name.Local, attr: map[string]string{}}
			for _, a := range token.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			open, all = append(open, len(all)), append(all, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				all[open[len(open)-1]].text += string(token)
			}
		}
	}
}

// find returns the elements of that name.
func find(all []element, name string) (found []element) {
	for _, e := range all {
		if e.name == name {
			found = append(found, e)
		}
	}
	return found
}

// checkPage looks at what every page has to be, and returns its elements.
func checkPage(t testing.TB, header http.Header, body, language, referrer string) []element {
	t.Helper()
	all := elements(t, body)
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": referrer,
	} {
		if got := header.Get(name); got != want {
			t.Errorf("header %s is %q, want %q", name, got, want)
		}
	}
	styles := find(all, "link")
	if len(styles) != 1 || styles[0].attr["rel"] != "stylesheet" || !regexp.MustCompile(`^/connect/-/\w+/[0-9a-f]{16}\.css$`).MatchString(styles[0].attr["href"]) {
		t.Fatalf("style sheets %v", styles)
	}
	const want = "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
	if got := header.Get("Content-Security-Policy"); got != want {
		t.Errorf("Content-Security-Policy is %q, want %q", got, want)
	}
	for _, e := range all {
		if e.name == "script" || e.name == "style" || e.name == "base" || e.name == "form" || e.name == "iframe" {
			t.Errorf("the page has an element %s", e.name)
		}
		for name := range e.attr {
			if strings.HasPrefix(name, "on") || name == "style" {
				t.Errorf("element %s has %s", e.name, name)
			}
		}
	}
	if roots, headings := find(all, "html"), find(all, "h1"); len(roots) != 1 || roots[0].attr["lang"] != language || len(headings) != 1 || headings[0].text == "" {
		t.Errorf("language %v, headings %v, want %s and one heading", roots, headings, language)
	}
	if !slices.ContainsFunc(find(all, "meta"), func(e element) bool { return e.attr["name"] == "viewport" }) {
		t.Error("no viewport")
	}
	return all
}

// checkLog looks that no line shows what a link, a code or a session is.
func checkLog(t testing.TB, r *rig) {
	t.Helper()
	text := r.log.String()
	for _, secret := range []string{"SEKRET", "auth_code", "weixin.qq.com", sha256Hex(linkCode)} {
		if strings.Contains(text, secret) {
			t.Errorf("the log shows %s: %s", secret, text)
		}
	}
	if strings.Contains(text, `"connect"`) && !strings.Contains(text, `"connect":"abcdefgh"`) {
		t.Errorf("the log does not tell which link it was: %s", text)
	}
}

func sha256Hex(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func (r *rig) pageCount(t testing.TB, page, result string) float64 {
	t.Helper()
	return r.count(t, "wxtoken_connect_total", page, result)
}
