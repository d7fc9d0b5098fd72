package wxtoken_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"wxtoken/client"
)

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
			reports := answerReports(t, p, wxtoken.OutcomeRenewing)
			a := startAPI(t, acceptOnly(valueOf(shop, 2), "40001"))
			client := p.client(wxtoken.Config{})
			c := newCaller(t, client)
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
		a := startAPI(t, func(w http.ResponseWriter, _ *http.Request, _ int) {})
		c := newCaller(t, client)
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
		a := startAPI(t, func(http.ResponseWriter, *http.Request, int) {})
		c := newCaller(t, client)
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

// A call that may have worked is never made again.
func TestTransportNeverRepeats(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	reports := answerReports(t, p, wxtoken.OutcomeRenewing)
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
		a := startAPI(t, func(w http.ResponseWriter, _ *http.Request, n int) {
			if n > 1 { // the first one leaves a connection, on which net/http takes more for granted
				row.answer(w)
			}
		})
		c := newCaller(t, client)
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

// A body that is shorter than was said is not sent as a whole one.
func TestTransportKeepsTheLength(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	for _, said := range []int64{3, 30} {
		a := startAPI(t, func(http.ResponseWriter, *http.Request, int) {})
		_, _, err := newCaller(t, client).call(t, "POST", a.url, io.MultiReader(strings.NewReader(`{"a":"b"}`)), func(r *http.Request) { r.ContentLength = said })
		if err == nil {
			t.Errorf("9 bytes went out as %d: %+v", said, a.got())
		}
	}
}
