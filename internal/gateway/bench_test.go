//go:build unix

package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/serve"
	"wxtoken/wxtokentest"
)

// atOnce is how many connections the benchmarks have.
const atOnce = 64

// BenchmarkRelay compares the relay with a bare httputil.ReverseProxy before the same WeChat, by turns in one run. It reports requests a
// second of both and their ratio, and what the relay adds at half of that load to the 50th and the 99th percentile.
func BenchmarkRelay(b *testing.B) {
	r := newRig(b)
	r.wechat.answer(func(w http.ResponseWriter, req *http.Request) bool {
		_, _ = io.Copy(io.Discard, req.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"errcode":0,"errmsg":"ok","openid":"o1","subscribe":1}`)
		return true
	})
	target, err := url.Parse(r.wechat.url)
	r.must(err)
	bare := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(target) },
		Transport: &http.Transport{MaxIdleConnsPerHost: atOnce},
	})
	defer bare.Close()
	path := "/cgi-bin/user/info?openid=o1&access_token=" + r.token(wxtokentest.Merchant.Authorizer, shopKey)
	compare(b, bare.URL+path, r.url+path, "")
}

// BenchmarkV1Token compares GET /v1/tokens/{key} with a bare handler that writes the same bytes, by turns in one run.
func BenchmarkV1Token(b *testing.B) {
	r := newRig(b)
	path := "/v1/tokens/" + wxtokentest.Merchant.String()
	body := r.v1(allKey, "GET", path[len("/v1/"):], "").body
	door, err := serve.Listen("bare", "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write(body)
	}), nop, serve.NewMetrics())
	r.must(err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = door.Run(ctx) })
	defer running.Wait()
	defer stop()
	compare(b, "http://"+door.Addr()+path, r.url+path, "Bearer "+allKey)
}

// compare asks two servers by turns, and reports what they do a second.
func compare(b *testing.B, bare, ours, authorization string) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce, DisableCompression: true}}
	defer client.CloseIdleConnections()
	ask := func(address string) error {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != 200 {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	spent := map[string]time.Duration{} // of the processors, by the server that was asked
	rate := func(address string, n int) float64 {
		began, before := time.Now(), natsdtest.Computed()
		defer func() { spent[address] += natsdtest.Computed() - before }()
		var working sync.WaitGroup
		for range atOnce {
			working.Go(func() {
				for range n / atOnce {
					if err := ask(address); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		working.Wait()
		return float64(n/atOnce*atOnce) / time.Since(began).Seconds()
	}
	rate(bare, 10*atOnce)
	rate(ours, 10*atOnce)
	clear(spent)
	n := max(b.N, 100*atOnce)
	var ofBare, ofOurs []float64
	for b.Loop() {
		if len(ofBare) >= 5 {
			continue
		}
		ofBare, ofOurs = append(ofBare, rate(bare, n/5)), append(ofOurs, rate(ours, n/5))
	}
	slices.Sort(ofBare)
	slices.Sort(ofOurs)
	a, o := ofBare[len(ofBare)/2], ofOurs[len(ofOurs)/2]
	b.ReportMetric(a, "bare/s")
	b.ReportMetric(o, "gateway/s")
	b.ReportMetric(o/a, "ratio")
	b.ReportMetric(float64(spent[bare])/float64(spent[ours]), "cpu-ratio") // the same where nothing else is at work, and steadier where something is
	if len(ofBare) < 5 {
		return // run once, to see that it works
	}
	took := paced(b, ask, []string{bare, ours}, min(a, o)/2)
	for percent, name := range map[int]string{50: "p50", 99: "p99"} {
		at := len(took[0]) * percent / 100
		b.ReportMetric(took[0][at].Seconds()*1e3, name+"-bare-ms")
		b.ReportMetric((took[1][at]-took[0][at]).Seconds()*1e3, name+"-added-ms")
	}
}

// paced makes calls at a rate, whether or not those before are answered, to all addresses by turns: what else the machine does hits all of
// them alike. It returns how long the calls to each took, in order.
func paced(b *testing.B, ask func(string) error, addresses []string, rate float64) [][]time.Duration {
	const each = 10_000
	n := each * len(addresses)
	took := make([][]time.Duration, len(addresses))
	for i := range took {
		took[i] = make([]time.Duration, each)
	}
	var working sync.WaitGroup
	began := time.Now()
	var next atomic.Int64
	for range atOnce {
		working.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				due := began.Add(time.Duration(float64(i) / rate * float64(time.Second)))
				time.Sleep(time.Until(due))
				to := i % len(addresses)
				if err := ask(addresses[to]); err != nil {
					b.Error(err)
					return
				}
				took[to][i/len(addresses)] = time.Since(due) // what it waited for a connection counts
			}
		})
	}
	working.Wait()
	for i := range took {
		slices.Sort(took[i])
	}
	return took
}

// BenchmarkUpload sends 10 MB through the relay, and reports by how many bytes the heap grows at the most.
func BenchmarkUpload(b *testing.B) {
	r := newRig(b)
	var most uint64
	r.wechat.answer(func(w http.ResponseWriter, req *http.Request) bool {
		buffer := make([]byte, 64<<10)
		for n := 0; ; n++ {
			_, err := req.Body.Read(buffer)
			if n%64 == 0 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
			if err != nil {
				break
			}
		}
		_, _ = io.WriteString(w, `{"errcode":0}`)
		return true
	})
	path := r.url + "/cgi-bin/media/upload?access_token=" + r.token(wxtokentest.Merchant.Authorizer, shopKey)
	chunk := bytes.Repeat([]byte("x"), 10<<10)
	for b.Loop() {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		most = 0
		req, err := http.NewRequestWithContext(b.Context(), "POST", path, io.LimitReader(&repeated{chunk}, 10_000_000))
		r.must(err)
		req.ContentLength = 10_000_000
		if a := r.do(req); a.get("errcode") != "0" {
			b.Fatalf("%d %s", a.status, a.body)
		}
		b.ReportMetric((float64(most)-float64(m.HeapAlloc))/1e6, "MB-more")
	}
}

// repeated gives the same bytes for ever.
type repeated struct{ chunk []byte }

// Read fills into.
func (r *repeated) Read(into []byte) (int, error) { return copy(into, r.chunk), nil }
