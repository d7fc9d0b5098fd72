package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"wxtoken/wxtokentest"
)

// BenchmarkV1Handler is GET /v1/tokens/{key} without a network.
func BenchmarkV1Handler(b *testing.B) {
	r := newRig(b)
	handler := r.g.Handler()
	req := httptest.NewRequest(http.MethodGet, "/v1/tokens/"+wxtokentest.Merchant.String(), nil)
	req.Header.Set("Authorization", "Bearer "+allKey)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		if w.Code != 200 {
			b.Fatal(w.Code)
		}
	}
}
