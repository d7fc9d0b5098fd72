package serve_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"wxtoken/internal/serve"
	"wxtoken/internal/settings"
)

// TestProxies tells where requests come from: as far as a proxy that is believed says so, and no further.
func TestProxies(t *testing.T) {
	t.Parallel()
	const proxy, second, client = "10.0.0.5:4000", "10.1.0.0", "203.0.113.9"
	for name, row := range map[string]struct {
		remote    string
		forwarded []string // lines of X-Forwarded-For
		want      string
	}{
		"no proxy":                       {"198.51.100.7:1", nil, "198.51.100.7"},
		"forged, without a proxy":        {"198.51.100.7:1", []string{client}, "198.51.100.7"},
		"forged, as from the proxy":      {"198.51.100.7:1", []string{"10.0.0.5"}, "198.51.100.7"},
		"a proxy":                        {proxy, []string{client}, client},
		"a proxy that says nothing":      {proxy, nil, "10.0.0.5"},
		"an empty line":                  {proxy, []string{""}, "10.0.0.5"},
		"forged before it":               {proxy, []string{"192.0.2.1, 10.0.0.5, " + client}, client},
		"forged on a line of its own":    {proxy, []string{"192.0.2.1", client}, client},
		"the proxy appends to a line":    {proxy, []string{"192.0.2.1", "192.0.2.2,\t" + client}, client},
		"two proxies":                    {proxy, []string{client + ", 10.1.2.3"}, client},
		"forged before two":              {proxy, []string{"192.0.2.1, " + client + ", 10.1.2.3"}, client},
		"proxies alone":                  {proxy, []string{"10.1.2.3, 10.1.2.4"}, "10.1.2.3"},
		"another proxy behind it":        {proxy, []string{client + ", 10.9.9.9"}, "10.9.9.9"},
		"nothing after the comma":        {proxy, []string{client + ","}, "10.0.0.5"},
		"a word":                         {proxy, []string{"unknown"}, "10.0.0.5"},
		"a word before two":              {proxy, []string{"unknown, 10.1.2.3"}, "10.1.2.3"},
		"a port":                         {proxy, []string{client + ":4711"}, client},
		"IPv6":                           {proxy, []string{"2001:db8::1"}, "2001:db8::1"},
		"IPv6 in brackets":               {proxy, []string{"[2001:db8::1]"}, "2001:db8::1"},
		"IPv6 with a port":               {proxy, []string{"[2001:db8::1]:4711"}, "2001:db8::1"},
		"IPv6 with a zone":               {proxy, []string{"fe80::1%eth0"}, "fe80::1"},
		"IPv4 in IPv6":                   {proxy, []string{"::ffff:" + client}, client},
		"a proxy in IPv6":                {"[fd00::7]:1", []string{client}, client},
		"the proxy as IPv4 in IPv6":      {"[::ffff:10.0.0.5]:1", []string{client}, client},
		"no address":                     {"@", []string{client}, "invalid IP"},
		"a number":                       {proxy, []string{"3405803785"}, "10.0.0.5"},
		"a neighbour of the proxy's":     {"10.0.0.6:1", []string{client}, "10.0.0.6"},
		"a network that was given so":    {"192.168.7.1:1", []string{client}, client},
		"outside of a network in IPv6":   {"192.168.8.1:1", []string{client}, "192.168.8.1"},
		"an address with leading zeroes": {proxy, []string{"203.0.113.009"}, "10.0.0.5"},
	} {
		proxies, err := settings.Networks("trusted-proxies", []string{"10.0.0.5", second + "/16", "fd00::/8", "::ffff:192.168.7.0/120"})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = row.remote
		for _, line := range row.forwarded {
			r.Header.Add("X-Forwarded-For", line)
		}
		r.Header.Set("Forwarded", "for=192.0.2.77") // the proxy does not set it: the client did
		r.Header.Set("X-Real-Ip", "192.0.2.78")
		if got := serve.Proxies(proxies).Client(r).String(); got != row.want {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
}

// TestTrustedProxies refuses what is no proxy.
func TestTrustedProxies(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"10.0.0.5,fd00::/8,127.0.0.1/8": "", "proxy": "not an address", "10.0.0.5:80": "not an address", "10.0.0.0/33": "not an address", "": "not an address",
		"fe80::1%eth0": "not an address", "0.0.0.0/0": "every address", "::/0": "every address", "::ffff:0.0.0.0/96": "every address", "::ffff:0.0.0.0/8": "every address",
	} {
		err := settings.Operations{OpsAddr: "127.0.0.1:0", LogLevel: "info", LogFormat: "auto", Lang: "auto", TrustedProxies: strings.Split(text, ",")}.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), "--trusted-proxies (WXTOKEN_TRUSTED_PROXIES): ") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestBehind serves behind a proxy: handlers see the client's address.
func TestBehind(t *testing.T) {
	t.Parallel()
	for proxy, want := range map[string]string{"127.0.0.1": "203.0.113.9:0", "10.0.0.5": "127.0.0.1:"} {
		proxies, err := settings.Networks("trusted-proxies", []string{proxy})
		if err != nil {
			t.Fatal(err)
		}
		base, _, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) }),
			serve.NewMetrics(), serve.Behind(proxies))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", "192.0.2.1, 203.0.113.9")
		req.Close = true
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("proxy %s: %q, want %q (%v)", proxy, got, want, err)
		}
	}
}
