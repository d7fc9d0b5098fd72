package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"wxtoken/wxtokentest"
)

// TestBodyInChunks sends bodies without a length, which WeChat takes from nobody (HTTP 412): those that are short enough to be kept
// go on with one.
func TestBodyInChunks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	var length, came atomic.Int64
	r.wechat.answer(func(_ http.ResponseWriter, req *http.Request) bool {
		n, err := io.Copy(io.Discard, req.Body)
		if err != nil {
			t.Error(err)
		}
		length.Store(req.ContentLength)
		came.Store(n)
		return false
	})
	for _, row := range []struct{ size, want int64 }{{1, 1}, {300_000, 300_000}, {3 << 20, -1}} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+"/cgi-bin/media/upload?type=image&access_token="+token,
			io.MultiReader(strings.NewReader(strings.Repeat("x", int(row.size)))))
		if err != nil {
			t.Fatal(err)
		}
		res, err := r.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if length.Load() != row.want || came.Load() != row.size {
			t.Errorf("of %d bytes %d came, with a length of %d, want %d", row.size, came.Load(), length.Load(), row.want)
		}
	}
}
