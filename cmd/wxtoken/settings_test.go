package main

import (
	"slices"
	"testing"
)

// With --sim links work without another setting, wherever ingest listens.
func TestSettingsOfTheSimulation(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name         string
		args         []string
		pushes       string // where ingest came to listen
		public, page string
	}{
		{"by default", nil, "127.0.0.1:8080", "http://127.0.0.1:8080", "http://127.0.0.1:8090"},
		{"on any port", []string{"--http-addr=127.0.0.1:0"}, "127.0.0.1:40123", "http://127.0.0.1:40123", "http://127.0.0.1:8090"},
		{"on every address", []string{"--http-addr=:0"}, "[::]:40123", "http://127.0.0.1:40123", "http://127.0.0.1:8090"},
		{"on every IPv4 address", []string{"--http-addr=0.0.0.0:8080"}, "0.0.0.0:8080", "http://127.0.0.1:8080", "http://127.0.0.1:8090"},
		{"on IPv6", []string{"--http-addr=[::1]:8080"}, "[::1]:8080", "http://[::1]:8080", "http://127.0.0.1:8090"},
		{"settings say it", []string{"--public-url=https://wx.example.com", "--wechat-page-url=http://sim.example"}, "127.0.0.1:8080", "https://wx.example.com", "http://sim.example"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var cfg config
			if err := simulated.Parse(&cfg, append([]string{"--sim"}, row.args...)); err != nil {
				t.Fatal(err)
			}
			cfg.setSimAddrs(cfg.SimAddr, row.pushes)
			if cfg.Refresher.PublicURL != row.public || cfg.Refresher.WechatPageURL != row.page || cfg.Refresher.WechatAPIURL != "http://127.0.0.1:8090" {
				t.Errorf("public %s, page %s, API %s", cfg.Refresher.PublicURL, cfg.Refresher.WechatPageURL, cfg.Refresher.WechatAPIURL)
			}
		})
	}
}

// The lists are read in the all-in-one process as well.
func TestSettingsWithLists(t *testing.T) {
	t.Parallel()
	var cfg config
	if err := simulated.Parse(&cfg, []string{"--sim", "--derive=jsapi,wx_card", "--derive-for=wxa,wxb", "--return-hosts=a.example, b.example"}); err != nil {
		t.Fatal(err)
	}
	for _, list := range []struct{ got, want []string }{
		{cfg.Refresher.Derive, []string{"jsapi", "wx_card"}},
		{cfg.Refresher.DeriveFor, []string{"wxa", "wxb"}},
		{cfg.Refresher.ReturnHosts, []string{"a.example", "b.example"}},
	} {
		if !slices.Equal(list.got, list.want) {
			t.Errorf("got %q, want %q", list.got, list.want)
		}
	}
}
