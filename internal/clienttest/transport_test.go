package wxtoken_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// answering starts an API.
func answering(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int)) *api {
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

// strict answers "ok", and refuses all tokens but one.
func strict(want, code string) func(http.ResponseWriter, *http.Request, int) {
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

// calls returns a Transport for shop with connections of its own.
func calls(t *testing.T, client *wxtoken.Client) *caller {
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

// reporting answers reports, stores the next token of shop where that is the outcome, and counts.
func reporting(t *testing.T, p *platform, say wxtoken.Outcome) (reports func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	answerRejects(t, p.srv.Connect(), func(_ map[string]any, req micro.Request) {
		mu.Lock()
		defer mu.Unlock() // who asks for the count waits until the next token is stored for good: the call may be over before
		n++
		outcome(t, req, say)
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

func TestTransportPutsTheTokenIn(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	p.put(comp, 1)
	client := p.client(wxtoken.Config{})
	a := answering(t, func(http.ResponseWriter, *http.Request, int) {})
	mine, own := url.QueryEscape(valueOf(shop, 1)), url.QueryEscape(valueOf(comp, 1))
	for _, row := range []struct {
		key       wxtoken.Key
		in, query string
	}{
		{shop, "", "access_token=" + mine},
		{shop, "a=1", "a=1&access_token=" + mine},
		{shop, "access_token=", "access_token=" + mine},
		{shop, "access_token", "access_token=" + mine},
		{shop, "b=%E4%BD%A0+x&access_token=ours&a=1&a", "b=%E4%BD%A0+x&access_token=" + mine + "&a=1&a"},
		{shop, "component_access_token=ours", "component_access_token=" + mine},
		{shop, "my_access_token=mine", "my_access_token=mine&access_token=" + mine},
		{comp, "", "component_access_token=" + own},
		{comp, "component_access_token=x&a=1", "component_access_token=" + own + "&a=1"},
		{comp, "access_token=x", "access_token=" + own},
	} {
		c := calls(t, client)
		c.Key = row.key
		if _, _, err := c.call(t, "GET", a.url+"/x?"+row.in, nil); err != nil {
			t.Fatal(err)
		}
		if got := a.got(); got[len(got)-1].query != row.query {
			t.Errorf("%s: the query %q became %q, want %q", row.key, row.in, got[len(got)-1].query, row.query)
		}
		if want := []wxtoken.Answer{{}}; !slices.Equal(c.told, want) {
			t.Errorf("told of %+v, want %+v", c.told, want)
		}
	}
}

// A refused token is replaced and the call made again, whole, whatever its body is.
func TestTransportReplaces(t *testing.T) {
	t.Parallel()
	const text = `{"touser":"OPENID"}`
	hidden := func() io.Reader { return io.MultiReader(strings.NewReader(text)) } // net/http can't open this one again
	for name, row := range map[string]struct {
		code   string
		body   func() io.Reader
		change func(*http.Request)
		want   string
	}{
		"no body":               {code: "40001"},
		"GetBody":               {code: "42001", body: func() io.Reader { return strings.NewReader(text) }, want: text},
		"GetBody, and large":    {code: "40014", body: func() io.Reader { return strings.NewReader(strings.Repeat("x", 3<<20)) }, want: strings.Repeat("x", 3<<20)},
		"kept":                  {code: `"40001"`, body: hidden, change: func(r *http.Request) { r.ContentLength = int64(len(text)) }, want: text},
		"kept, length not said": {code: "40014", body: hidden, want: text},
		"in a file": {
			code: "40001", want: strings.Repeat("y", 3<<20),
			body: func() io.Reader { return io.MultiReader(strings.NewReader(strings.Repeat("y", 3<<20))) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			p.put(shop, 1)
			reports := reporting(t, p, wxtoken.OutcomeRenewing)
			a := answering(t, strict(valueOf(shop, 2), row.code))
			c := calls(t, p.client(wxtoken.Config{}))
			var body io.Reader
			if row.body != nil {
				body = row.body()
			}
			if row.change == nil {
				row.change = func(*http.Request) {}
			}
			_, answer, err := c.call(t, "POST", a.url+"/cgi-bin/message/custom/send", body, row.change)
			if err != nil || answer != `{"errcode":0,"errmsg":"ok"}` {
				t.Fatalf("answer %q, %v", answer, err)
			}
			got := a.got()
			if len(got) != 2 || got[0].body != row.want || got[1] != (call{query: got[1].query, body: row.want, length: int64(len(row.want))}) {
				t.Errorf("%d calls, want two with the same body, and its length", len(got))
			}
			if want := []wxtoken.Answer{{Refused: true, Again: true}}; !slices.Equal(c.told, want) {
				t.Errorf("told of %+v, want %+v", c.told, want)
			}
			if reports() != 1 {
				t.Errorf("%d reports, want 1", reports())
			}
		})
	}
}

// A body that is too large to be kept is sent whole, and once. Its refusal is handed on when the next call has another token.
func TestTransportHandsOnWhatItCannotRepeat(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		size, limit int64
		said        bool
	}{
		"too large":                        {1<<20 + 1, 0, true},
		"one byte over":                    {11, 10, true},
		"nothing is kept":                  {1, -1, true},
		"nothing is kept, length not said": {1<<20 + 1, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			p.put(shop, 1)
			reports := reporting(t, p, wxtoken.OutcomeRenewing)
			a := answering(t, strict(valueOf(shop, 2), "40001"))
			client := p.client(wxtoken.Config{})
			c := calls(t, client)
			c.RetryBody = row.limit
			text := strings.Repeat("y", int(row.size))
			_, answer, err := c.call(t, "POST", a.url, io.MultiReader(strings.NewReader(text)), func(r *http.Request) {
				if r.ContentLength = -1; row.said {
					r.ContentLength = row.size
				}
			})
			if err != nil || !strings.Contains(answer, "invalid credential") {
				t.Fatalf("answer %q, %v; want WeChat's refusal", answer, err)
			}
			if got := a.got(); len(got) != 1 || got[0].body != text || got[0].length != row.size {
				t.Errorf("%d calls, want one with the whole body and its length", len(got))
			}
			if want := []wxtoken.Answer{{Errcode: 40001, RID: "65a1b2c3-1234", Refused: true}}; !slices.Equal(c.told, want) {
				t.Errorf("told of %+v, want %+v", c.told, want)
			}
			if reports() != 1 {
				t.Errorf("%d reports, want 1", reports())
			}
			if _, answer, err := c.call(t, "GET", a.url, nil); err != nil || !strings.Contains(answer, "ok") {
				t.Errorf("the next call: %q, %v", answer, err)
			}
		})
	}
}

// A body whose length is not said goes out with one, short or long, and once more where WeChat refuses the token.
func TestTransportGivesALength(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, 3 << 20} {
		a := answering(t, func(w http.ResponseWriter, _ *http.Request, _ int) {})
		c := calls(t, client)
		c.SpoolDir = t.TempDir()
		text := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		pipe, in := io.Pipe() // as programs write a form with a file in it
		go func() {
			_, err := io.WriteString(in, text)
			_ = in.CloseWithError(err)
		}()
		_, _, err := c.call(t, "POST", a.url, pipe, func(r *http.Request) {
			if size%2 > 0 {
				r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
			}
		})
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if got := a.got(); len(got) != 1 || got[0].body != text || got[0].length != int64(size) {
			t.Errorf("%d bytes: %d calls, the first with %d of them and a length of %d", size, len(got), len(got[0].body), got[0].length)
		}
		if left, err := os.ReadDir(c.SpoolDir); err != nil || len(left) > 0 {
			t.Errorf("%d bytes: left in the folder: %v, %v", size, left, err)
		}
	}
}

// A body whose length is not said, and that can't be kept, is an error that says so. WeChat hears of none of them.
func TestTransportKeepsNoBody(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	ends := func(r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		*r = *r.WithContext(ctx)
	}
	never, in := io.Pipe()
	defer func() { _ = in.Close() }()
	for name, row := range map[string]struct {
		body   io.Reader
		change func(*http.Request)
		set    func(*wxtoken.Transport)
		want   error
	}{
		"longer than allowed": {body: strings.NewReader(strings.Repeat("x", 2<<20+1)), set: func(t *wxtoken.Transport) { t.MaxSpool = 2 << 20 }, want: wxtoken.ErrBodyTooLong},
		"no folder":           {body: strings.NewReader(strings.Repeat("x", 2<<20)), set: func(t *wxtoken.Transport) { t.SpoolDir += "/gone" }, want: fs.ErrNotExist},
		"hangs":               {body: never, change: ends, want: context.DeadlineExceeded},
		"never ends":          {body: zeros{}, change: ends, set: func(t *wxtoken.Transport) { t.RetryBody = 1 << 40 }, want: context.DeadlineExceeded},
	} {
		a := answering(t, func(http.ResponseWriter, *http.Request, int) {})
		c := calls(t, client)
		if c.SpoolDir = t.TempDir(); row.set != nil {
			row.set(c.Transport)
		}
		if row.change == nil {
			row.change = func(*http.Request) {}
		}
		body := &guarded{Reader: row.body}
		if closer, ok := row.body.(io.Closer); ok {
			body.close = closer.Close
		}
		if _, _, err := c.call(t, "POST", a.url, body, row.change); !errors.Is(err, row.want) {
			t.Errorf("%s: error %v, want %v", name, err, row.want)
		}
		if !body.closed {
			t.Errorf("%s: the body stayed open", name)
		}
		if left, err := os.ReadDir(strings.TrimSuffix(c.SpoolDir, "/gone")); len(a.got()) > 0 || err != nil || len(left) > 0 {
			t.Errorf("%s: %d calls, left in the folder: %v, %v", name, len(a.got()), left, err)
		}
	}
}

// zeros is a body that never ends.
type zeros struct{}

// Read gives little at a time.
func (zeros) Read(into []byte) (int, error) { return copy(into, make([]byte, 16)), nil }

// Where no other token is to be had, WeChat's refusal is handed on; a second refusal is not asked about.
func TestTransportIsRefusedAllTheSame(t *testing.T) {
	t.Parallel()
	refuse := func(w http.ResponseWriter, _ *http.Request, n int) {
		_, _ = fmt.Fprintf(w, `{"errcode":40001,"errmsg":"no %d"}`, n)
	}
	failing := errors.New("the file has gone")
	for name, row := range map[string]struct {
		say     wxtoken.Outcome
		change  func(*http.Request)
		want    wxtoken.Answer
		calls   int
		because error
	}{
		"too soon":          {wxtoken.OutcomeTooSoon, func(*http.Request) {}, wxtoken.Answer{Errcode: 40001, Refused: true}, 1, wxtoken.ErrTooSoon},
		"not kept":          {wxtoken.OutcomeUnknownKey, func(*http.Request) {}, wxtoken.Answer{Errcode: 40001, Refused: true}, 1, wxtoken.ErrNotKept},
		"refused once more": {wxtoken.OutcomeRenewing, func(*http.Request) {}, wxtoken.Answer{Errcode: 40001, Refused: true, Again: true}, 2, nil},
		"the body can't be opened again": {wxtoken.OutcomeRenewing, func(r *http.Request) {
			r.GetBody = func() (io.ReadCloser, error) { return nil, failing }
		}, wxtoken.Answer{Errcode: 40001, Refused: true}, 1, failing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			p.put(shop, 1)
			defer reporting(t, p, row.say)()
			a := answering(t, refuse)
			c := calls(t, p.client(wxtoken.Config{}))
			_, answer, err := c.call(t, "POST", a.url, strings.NewReader("{}"), row.change)
			if want := fmt.Sprintf(`{"errcode":40001,"errmsg":"no %d"}`, row.calls); err != nil || answer != want || len(a.got()) != row.calls {
				t.Fatalf("answer %q, %v after %d calls; want %q", answer, err, len(a.got()), want)
			}
			told := c.told[0]
			if !errors.Is(told.Err, row.because) {
				t.Errorf("told of the error %v, want %v", told.Err, row.because)
			}
			if told.Err = nil; len(c.told) != 1 || told != row.want {
				t.Errorf("told of %+v, want %+v", c.told, row.want)
			}
		})
	}
}

// A call that may have worked is never made again.
func TestTransportNeverRepeats(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	reports := reporting(t, p, wxtoken.OutcomeRenewing)
	client := p.client(wxtoken.Config{})
	text := func(status int, text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	broken := func(begin string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, begin)
			_ = conn.Close()
		}
	}
	for name, row := range map[string]struct {
		answer func(http.ResponseWriter)
		fails  bool
		code   int
	}{
		"busy":            {text(200, `{"errcode":-1,"errmsg":"system error"}`), false, -1},
		"frequency":       {text(200, `{"errcode":45009,"errmsg":"reach max api daily quota limit"}`), false, 45009},
		"another refusal": {text(200, `{"errcode":48001,"errmsg":"api unauthorized"}`), false, 48001},
		"status 500":      {text(500, "oops"), false, 0},
		"status 502":      {text(502, ""), false, 0},
		"no answer":       {broken(""), true, 0},
		"half an answer":  {broken("HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n{\"errcode\":40001,"), true, 0},
		"half a header":   {broken("HTTP/1.1 200 OK\r\nConte"), true, 0},
	} {
		a := answering(t, func(w http.ResponseWriter, _ *http.Request, n int) {
			if n > 1 { // the first one leaves a connection, on which net/http takes more for granted
				row.answer(w)
			}
		})
		c := calls(t, client)
		if _, _, err := c.call(t, "POST", a.url, strings.NewReader("{}")); err != nil {
			t.Fatal(err)
		}
		c.told = nil
		_, _, err := c.call(t, "POST", a.url, strings.NewReader("{}"))
		if (err != nil) != row.fails || len(a.got()) != 2 {
			t.Errorf("%s: error %v after %d calls, want one call more", name, err, len(a.got())-1)
		}
		if row.fails && len(c.told) > 0 || !row.fails && (len(c.told) != 1 || c.told[0] != wxtoken.Answer{Errcode: row.code}) {
			t.Errorf("%s: told of %+v", name, c.told)
		}
	}
	if reports() != 0 {
		t.Errorf("%d tokens reported, that WeChat did not refuse", reports())
	}
}

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

func TestTransportErrors(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	cut := errors.New("the upload was cut off")
	wrapped := tripper(func(r *http.Request) (*http.Response, error) {
		_ = r.Body.Close()
		return nil, fmt.Errorf("call: %w", &url.Error{Op: "Get", URL: r.URL.String(), Err: io.ErrUnexpectedEOF})
	})
	for name, row := range map[string]struct {
		key    wxtoken.Key
		base   http.RoundTripper
		body   io.Reader
		change func(*http.Request)
		want   error
	}{
		"no token":                {key: hotel, want: wxtoken.ErrNoToken},
		"an error with the URL":   {key: shop, base: wrapped, want: io.ErrUnexpectedEOF},
		"a body that breaks":      {key: shop, body: brokenReader{cut}, want: cut},
		"a large one that breaks": {key: shop, body: io.MultiReader(strings.NewReader(strings.Repeat("x", 2<<20)), brokenReader{cut}), want: cut},
		"cancelled": {key: shop, change: func(r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			cancel()
			*r = *r.WithContext(ctx)
		}, want: context.Canceled},
	} {
		a := answering(t, func(http.ResponseWriter, *http.Request, int) {})
		c := calls(t, client)
		if c.Key = row.key; row.base != nil {
			c.Base = row.base
		}
		if row.body == nil {
			row.body = strings.NewReader("{}")
		}
		body := &guarded{Reader: row.body}
		_, _, err := c.call(t, "POST", a.url+"/x?access_token=ours", body, func(r *http.Request) {
			if row.change != nil {
				row.change(r)
			}
		})
		if !errors.Is(err, row.want) {
			t.Errorf("%s: error %v, want %v", name, err, row.want)
		}
		if len(c.told) > 0 {
			t.Errorf("%s: told of %+v", name, c.told)
		}
		if !body.closed {
			t.Errorf("%s: the body stayed open", name)
		}
	}
}

// A body that is shorter than was said is not sent as a whole one.
func TestTransportKeepsTheLength(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	for _, said := range []int64{3, 30} {
		a := answering(t, func(http.ResponseWriter, *http.Request, int) {})
		_, _, err := calls(t, client).call(t, "POST", a.url, io.MultiReader(strings.NewReader(`{"a":"b"}`)), func(r *http.Request) { r.ContentLength = said })
		if err == nil {
			t.Errorf("9 bytes went out as %d: %+v", said, a.got())
		}
	}
}

// What an answer holds comes through as it is, and is taken for a refusal only where it is one.
func TestTransportAnswers(t *testing.T) {
	t.Parallel()
	squeeze := func(text string) string {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, _ = z.Write([]byte(text))
		_ = z.Close()
		return out.String()
	}
	const refusal = `{"errcode":40001,"errmsg":"invalid credential"}`
	for name, row := range map[string]struct {
		text    string
		header  map[string]string
		asks    string // Accept-Encoding
		chunked bool
		refused bool
		seen    string // if not text
	}{
		"plain":                        {text: refusal, refused: true},
		"of unknown length":            {text: refusal, chunked: true, refused: true},
		"spaces":                       {text: "\r\n{ \"errmsg\" : \"x\",\t\"errcode\" : 42001 }\n", refused: true},
		"as a text":                    {text: `{"errcode":"40014"}`, refused: true},
		"as text/plain":                {text: refusal, header: map[string]string{"Content-Type": "text/plain"}, refused: true},
		"a raw line break in a string": {text: "{\"errcode\":40001,\"errmsg\":\"a\nb\"}", refused: true},
		"compressed on the way":        {text: squeeze(refusal), header: map[string]string{"Content-Encoding": "gzip"}, refused: true, seen: refusal},
		"compressed, as was asked":     {text: squeeze(refusal), header: map[string]string{"Content-Encoding": "gzip"}, asks: "gzip"},
		"further down":                 {text: `{"errcode":0,"data":{"errcode":40001}}`},
		"within a text":                {text: `{"errmsg":"\"errcode\":40001"}`},
		"of another kind":              {text: `{"errcode":[40001]}`},
		"a list":                       {text: `[{"errcode":40001}]`},
		"no JSON":                      {text: `"errcode":40001`},
		"large":                        {text: `{"errcode":40001,"list":"` + strings.Repeat("x", 4<<10) + `"}`},
		"large, of unknown length":     {text: `{"errcode":40001,"list":"` + strings.Repeat("x", 1<<20) + `"}`, chunked: true},
		"an image":                     {text: refusal, header: map[string]string{"Content-Type": "image/jpeg"}},
		"a video of unknown length":    {text: strings.Repeat("\x00\xff", 1<<20), header: map[string]string{"Content-Type": "video/mp4"}, chunked: true},
		"empty":                        {text: ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			p.put(shop, 1)
			reports := reporting(t, p, wxtoken.OutcomeTooSoon)
			a := answering(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
				for name, value := range row.header {
					w.Header().Set(name, value)
				}
				w.Header().Set("X-Wechat", "as it is")
				if row.chunked {
					_, _ = io.WriteString(w, row.text[:1])
					_ = http.NewResponseController(w).Flush()
					_, _ = io.WriteString(w, row.text[1:])
					return
				}
				_, _ = io.WriteString(w, row.text)
			})
			c := calls(t, p.client(wxtoken.Config{}))
			res, text, err := c.call(t, "GET", a.url, nil, func(r *http.Request) {
				if row.asks != "" {
					r.Header.Set("Accept-Encoding", row.asks)
				}
			})
			if row.seen == "" {
				row.seen = row.text
			}
			if err != nil || text != row.seen || res.Header.Get("X-Wechat") != "as it is" {
				t.Errorf("%d bytes came through, %v; want %d", len(text), err, len(row.seen))
			}
			if len(c.told) != 1 || c.told[0].Refused != row.refused || (reports() == 1) != row.refused {
				t.Errorf("told of %+v, %d reports; refused: %v", c.told, reports(), row.refused)
			}
		})
	}
}

// A redirection gets no token: it may lead anywhere.
func TestTransportRedirected(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	elsewhere := answering(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			http.Redirect(w, r, "/once-more", http.StatusFound) // on the same host, which is still not WeChat's
			return
		}
		_, _ = io.WriteString(w, r.Header.Get("Referer"))
	})
	a := answering(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		http.Redirect(w, r, elsewhere.url+"/there?a=1", http.StatusFound)
	})
	hc := &http.Client{Transport: calls(t, p.client(wxtoken.Config{})).Transport}
	req, err := http.NewRequestWithContext(t.Context(), "GET", a.url+"/here", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil || strings.Contains(string(text), "SEKRET") {
		t.Errorf("the other host sees the referer %q, %v", text, err)
	}
	if first := a.got(); len(first) != 1 || !strings.Contains(first[0].query, "SEKRET") {
		t.Errorf("the first call was %+v", first)
	}
	if got := elsewhere.got(); !slices.Equal(got, []call{{"a=1", "", 0}, {"", "", 0}}) {
		t.Errorf("the other host got %+v", got)
	}
}
