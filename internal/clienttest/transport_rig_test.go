package wxtoken_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
)

// call is a call that the API got.
type call struct {
	query, body string
	length      int64 // as it was said; -1: in chunks
}

// api plays WeChat's API: it keeps the calls, and answers as a test says.
type api struct {
	url string

	mu    sync.Mutex
	calls []call
}

// startAPI starts a server in the place of WeChat's API.
func startAPI(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int)) *api {
	t.Helper()
	a := &api{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			body = []byte(err.Error())
		}
		a.mu.Lock()
		a.calls = append(a.calls, call{r.URL.RawQuery, string(body), r.ContentLength})
		n := len(a.calls)
		a.mu.Unlock()
		answer(w, r, n)
	}))
	t.Cleanup(s.Close)
	a.url = s.URL
	return a
}

// got returns the calls so far.
func (a *api) got() []call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

// acceptOnly answers "ok", and refuses all tokens but one.
func acceptOnly(want, code string) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.URL.Query().Get("access_token") != want {
			_, _ = fmt.Fprintf(w, `{"errcode":%s,"errmsg":"invalid credential rid: 65a1b2c3-1234"}`, code)
			return
		}
		_, _ = io.WriteString(w, `{"errcode":0,"errmsg":"ok"}`)
	}
}

// caller is a Transport with what it told.
type caller struct {
	*wxtoken.Transport
	told []wxtoken.Answer
}

// newCaller returns a Transport for shop with connections of its own.
func newCaller(t *testing.T, client *wxtoken.Client) *caller {
	t.Helper()
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	c := &caller{Transport: &wxtoken.Transport{Client: client, Key: shop, Base: base}}
	c.Answered = func(a wxtoken.Answer) { c.told = append(c.told, a) }
	return c
}

// call makes a call and returns the answer's text.
func (c *caller) call(t *testing.T, method, url string, body io.Reader, changes ...func(*http.Request)) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range changes {
		change(req)
	}
	before := req.URL.String()
	res, err := c.RoundTrip(req)
	if req.URL.String() != before {
		t.Errorf("the request was changed to %s", req.URL)
	}
	if err != nil {
		if strings.Contains(err.Error(), "SEKRET") || strings.Contains(err.Error(), "access_token") {
			t.Errorf("error %q shows the token", err)
		}
		return nil, "", err
	}
	if strings.Contains(res.Request.URL.String(), "SEKRET") {
		t.Errorf("the answer's request shows the token: %s", res.Request.URL)
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	_ = res.Body.Close()
	return res, string(text), nil
}

// answerReports answers reports, stores the next token of shop where that is the outcome, and counts.
func answerReports(t *testing.T, p *platform, say wxtoken.Outcome) (reports func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	answerRejects(t, p.srv.Connect(), func(_ map[string]any, req micro.Request) {
		mu.Lock()
		defer mu.Unlock() // who asks for the count waits until the next token is stored for good: the call may be over before
		n++
		respondOutcome(t, req, say)
		if say == wxtoken.OutcomeRenewing {
			p.put(shop, 2)
		}
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// zeros is a body that never ends.
type zeros struct{}

// Read gives little at a time.
func (zeros) Read(into []byte) (int, error) { return copy(into, make([]byte, 16)), nil }

// tripper is a base that fails.
type tripper func(*http.Request) (*http.Response, error)

// RoundTrip calls it.
func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// guarded is a body that tells whether it was closed.
type guarded struct {
	io.Reader
	close  func() error
	closed bool
}

// Close notes it.
func (g *guarded) Close() error {
	if g.closed = true; g.close != nil {
		return g.close()
	}
	return nil
}

type brokenReader struct{ err error }

// Read fails.
func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }
