package links_test

import (
	"errors"
	"strings"
	"testing"

	"wxtoken/internal/links"
)

func TestSettings(t *testing.T) {
	t.Parallel()
	public := func(text string) links.Settings { return links.Settings{PublicURL: text} }
	page := func(text string) links.Settings { return links.Settings{WechatPageURL: text} }
	hosts := func(all ...string) links.Settings { return links.Settings{ReturnHosts: all} }
	const bare = "want https:// or http:// and a host, with nothing behind it"
	for _, row := range []struct {
		name string
		cfg  links.Settings
		want []string // what stands in each fault
	}{
		{"nothing", links.Settings{}, nil},
		{"all of them", links.Settings{
			PublicURL:   "https://wx.example.com",
			ReturnHosts: []string{"shop.example.com", "shop.example.com:8443", "127.0.0.1:3000", "[::1]:3000", "localhost"}, WechatPageURL: "http://sim.example:8090",
		}, nil},
		{"several faults", links.Settings{PublicURL: "wx.example.com", ReturnHosts: []string{"*.example.com", "A.example"}, WechatPageURL: "ftp://x"}, []string{
			"--public-url (WXTOKEN_PUBLIC_URL): " + bare,
			`--return-hosts (WXTOKEN_RETURN_HOSTS): "*.example.com": no wildcards: name each host`,
			`--return-hosts (WXTOKEN_RETURN_HOSTS): "A.example": want it in lower case: a.example`,
			"--wechat-page-url (WXTOKEN_WECHAT_PAGE_URL): " + bare,
		}},
		{"https with a port", public("https://wx.example.com:8443"), nil},
		{"http on this machine", public("http://127.0.0.1:8080"), nil},
		{"http on this machine, by name", public("http://localhost:8080"), nil},
		{"http on this machine, IPv6", public("http://[::1]:8080"), nil},
		{"http elsewhere", public("http://wx.example.com"), []string{"want https, since codes pass there"}},
		{"http on a name that looks local", public("http://localhost.example.com"), []string{"want https"}},
		{"another scheme", public("ws://wx.example.com"), []string{bare}},
		{"no host", public("https://"), []string{bare}},
		{"a port alone", public("https://:8443"), []string{bare}},
		{"no such port", public("https://wx.example.com:99999"), []string{bare}},
		{"a slash", public("https://wx.example.com/"), []string{bare}},
		{"a path", public("https://wx.example.com/wxtoken"), []string{bare}},
		{"a query", public("https://wx.example.com?a=b"), []string{bare}},
		{"an empty query", public("https://wx.example.com?"), []string{bare}},
		{"a fragment", public("https://wx.example.com#x"), []string{bare}},
		{"an empty fragment", public("https://wx.example.com#"), []string{bare}},
		{"a user", public("https://user:SEKRET@wx.example.com"), []string{bare}},
		{"a user and nonsense", public("https://user:SEKRET%zz@wx.example.com"), []string{bare}},
		{"a wildcard", public("https://*.example.com"), []string{bare}},
		{"space before it", public(" https://wx.example.com"), []string{bare}},
		{"page over http elsewhere", page("http://wechatsim:8090"), nil},
		{"page with a path", page("http://wechatsim:8090/cgi-bin"), []string{bare}},
		{"page with a user", page("http://user:SEKRET@wechatsim"), []string{bare}},
		{"return host with a scheme", hosts("https://shop.example.com"), []string{"holds more than a host"}},
		{"return host with a path", hosts("shop.example.com/back"), []string{"holds more than a host"}},
		{"return host with a user", hosts("user:SEKRET@shop.example.com"), []string{"holds more than a host"}},
		{"return host with a port that is none", hosts("shop.example.com:https"), []string{"is not a host"}},
		{"return host with port 0", hosts("shop.example.com:0"), []string{"is not a host"}},
		{"return host with a dot behind", hosts("shop.example.com."), []string{"is not a host"}},
		{"return host in another alphabet", hosts("商店.example"), []string{"is not a host: want shop.example.com or shop.example.com:8443, and xn--..."}},
		{"return host with a space", hosts("shop example"), []string{"is not a host"}},
		{"return host that is a bare IPv6 address", hosts("::1"), []string{"is not a host"}},
		{"return host with half a bracket", hosts("[::1"), []string{"is not a host"}},
		{"empty return host", hosts(""), []string{"is not a host"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			faults := row.cfg.Faults()
			if len(faults) != len(row.want) {
				t.Fatalf("%d faults, want %d: %v", len(faults), len(row.want), errors.Join(faults...))
			}
			for i, err := range faults {
				if !strings.Contains(err.Error(), row.want[i]) {
					t.Errorf("%v, want %q in it", err, row.want[i])
				}
				if strings.Contains(err.Error(), "SEKRET") {
					t.Errorf("a secret is shown: %v", err)
				}
			}
		})
	}
}
