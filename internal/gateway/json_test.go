package gateway

import (
	"net/http/httptest"
	"testing"
)

// TestPlainJSON writes what Go would escape, and other SDKs than Go's would then read in another way.
func TestPlainJSON(t *testing.T) {
	t.Parallel()
	answer := httptest.NewRecorder()
	writeJSON(answer, 200, map[string]string{"errmsg": "ask for <component>/<appid> & 账号"})
	if got, want := answer.Body.String(), `{"errmsg":"ask for <component>/<appid> & 账号"}`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
