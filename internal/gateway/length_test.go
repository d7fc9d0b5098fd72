package gateway_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"wxtoken/internal/gateway"
	"wxtoken/wxtokentest"
)

// inChunks sends a body without a length through the relay.
func (r *rig) inChunks(token string, body io.Reader) answer {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), "POST", r.url+"/cgi-bin/media/upload?type=image&access_token="+token, io.MultiReader(body))
	r.must(err)
	return r.do(req)
}

// refusesChunks plays WeChat's front, which takes no body without a length.
func refusesChunks(w http.ResponseWriter, req *http.Request) bool {
	if req.ContentLength < 0 {
		w.WriteHeader(http.StatusPreconditionFailed)
	}
	return req.ContentLength < 0
}

// TestBodyInChunks sends bodies without a length. They go on with one, short or long, and once more where WeChat refuses the token.
func TestBodyInChunks(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{"": false, "token refused": true} {
		for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, 3 << 20, 16 << 20} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				r := newRig(t, func(c *gateway.Config) { c.SpoolDir = dir })
				token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
				r.wechat.answer(refusesChunks)
				want := 1
				if refused {
					r.k.Reject(wxtokentest.Merchant)
					want = 2
				}
				body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
				if a := r.inChunks(token, bytes.NewReader(body)); a.status != 200 || a.get("errcode") != "0" {
					t.Fatalf("%d bytes: %d %s", size, a.status, a.body)
				}
				calls := r.wechat.take()
				if len(calls) != want {
					t.Errorf("%d bytes: %d calls, want %d", size, len(calls), want)
				}
				for _, c := range calls {
					if c.body != string(body) || c.length != int64(size) {
						t.Errorf("of %d bytes %d came, with a length of %d", size, len(c.body), c.length)
					}
				}
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("left in the folder: %v, %v", left, err)
				}
			})
		}
	}
}

// TestBodyInChunksRefused sends such bodies that can't be kept. WeChat hears of none of them.
func TestBodyInChunksRefused(t *testing.T) {
	t.Parallel()
	gone := filepath.Join(t.TempDir(), "gone")
	for name, row := range map[string]struct {
		dir     string
		body    io.Reader
		status  int
		errcode string
	}{
		"larger than allowed": {"", bytes.NewReader(make([]byte, 16<<20+1)), http.StatusRequestEntityTooLarge, "45001"},
		"no folder":           {gone, bytes.NewReader(make([]byte, 2<<20)), http.StatusServiceUnavailable, "-1"},
		"no folder, short":    {gone, bytes.NewReader(make([]byte, 1<<20)), http.StatusOK, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c *gateway.Config) { c.SpoolDir = row.dir })
			token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
			r.wechat.answer(refusesChunks)
			if a := r.inChunks(token, row.body); a.status != row.status || a.get("errcode") != row.errcode {
				t.Errorf("%d %s", a.status, a.body)
			}
			if calls := r.wechat.take(); row.errcode != "0" && len(calls) > 0 {
				t.Errorf("WeChat heard of it: %d calls", len(calls))
			}
		})
	}
}
