package wxtoken_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"wxtoken/client"
)

func TestTransportPutsTheTokenIn(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	p.put(comp, 1)
	client := p.client(wxtoken.Config{})
	a := startAPI(t, func(http.ResponseWriter, *http.Request, int) {})
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
		c := newCaller(t, client)
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
			reports := answerReports(t, p, wxtoken.OutcomeRenewing)
			a := startAPI(t, acceptOnly(valueOf(shop, 2), row.code))
			c := newCaller(t, p.client(wxtoken.Config{}))
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
			defer answerReports(t, p, row.say)()
			a := startAPI(t, refuse)
			c := newCaller(t, p.client(wxtoken.Config{}))
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
		a := startAPI(t, func(http.ResponseWriter, *http.Request, int) {})
		c := newCaller(t, client)
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
			reports := answerReports(t, p, wxtoken.OutcomeTooSoon)
			a := startAPI(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
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
			c := newCaller(t, p.client(wxtoken.Config{}))
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
	elsewhere := startAPI(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			http.Redirect(w, r, "/once-more", http.StatusFound) // on the same host, which is still not WeChat's
			return
		}
		_, _ = io.WriteString(w, r.Header.Get("Referer"))
	})
	a := startAPI(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		http.Redirect(w, r, elsewhere.url+"/there?a=1", http.StatusFound)
	})
	hc := &http.Client{Transport: newCaller(t, p.client(wxtoken.Config{})).Transport}
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
