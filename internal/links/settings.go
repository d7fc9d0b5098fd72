package links

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"wxtoken/internal/settings"
)

// Settings are the settings for authorization links; package settings reads the tags.
type Settings struct {
	PublicURL     string   `name:"public-url" group:"Authorization links" placeholder:"https://host" help:"Address of ingest as merchants and WeChat see it; links are made with it. The host must be the one on WeChat's console (登录授权的发起页域名)."`
	ReturnHosts   []string `name:"return-hosts" group:"Authorization links" placeholder:"host,..." help:"Hosts to which a browser may be sent after an authorization."`
	WechatPageURL string   `name:"wechat-page-url" group:"Authorization links" placeholder:"http://host" help:"Host of WeChat's authorization pages, where it is not WeChat itself."`
}

// Faults returns all faults of the settings.
func (s Settings) Faults() []error {
	var faults []error
	fault := func(flag string, err error) {
		if err != nil {
			faults = append(faults, settings.Fault(flag, "%w", err))
		}
	}
	if s.PublicURL != "" {
		fault("public-url", checkPublicURL(s.PublicURL))
	}
	for _, host := range s.ReturnHosts {
		fault("return-hosts", checkReturnHost(host))
	}
	if s.WechatPageURL != "" {
		_, err := bareURL(s.WechatPageURL)
		fault("wechat-page-url", err)
	}
	return faults
}

// checkPublicURL returns the fault of the address under which merchants and WeChat find ingest. It
// must be https, because the code that comes back there is a credential.
func checkPublicURL(text string) error {
	u, err := bareURL(text)
	if err == nil && u.Scheme != "https" && !loopbackHost(u.Hostname()) {
		err = fmt.Errorf("%q: want https, since codes pass there; http is for this machine alone, "+
			"for instance http://127.0.0.1:8080", text)
	}
	return err
}

// bareURL parses an address with nothing but scheme and host. Its error does not show the text,
// which may contain a password.
func bareURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || text != u.Scheme+"://"+u.Host || !validHost(u.Host) {
		return nil, errors.New("want https:// or http:// and a host, with nothing behind it: " +
			"no path, not even a /, no query and no user")
	}
	return u, nil
}

// checkReturnHost returns the fault of a host to which a browser may be sent. It is compared with a
// URL's host as it stands, so there is only one way to write it.
func checkReturnHost(host string) error {
	switch {
	case strings.Contains(host, "*"):
		return fmt.Errorf("%q: no wildcards: name each host, with commas between", host)
	case strings.ContainsAny(host, "/@?#"):
		// Not shown: it might contain a password.
		return errors.New("holds more than a host: want shop.example.com or shop.example.com:8443, " +
			"without https:// and path")
	case strings.ToLower(host) != host:
		return fmt.Errorf("%q: want it in lower case: %s", host, strings.ToLower(host))
	case !validHost(host):
		return fmt.Errorf("%q is not a host: want shop.example.com or shop.example.com:8443, and xn--... for a name "+
			"that is not ASCII", host)
	}
	return nil
}

// validHost reports whether host is a name or an address as in URLs, perhaps with a port.
func validHost(host string) bool {
	name := host
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		port, err := strconv.ParseUint(host[i+1:], 10, 16)
		if err != nil || port == 0 {
			return false
		}
		name = host[:i]
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return err == nil && addr.Is6() && addr.Zone() == "" && strings.HasSuffix(inner, "]")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.ContainsFunc(label, func(r rune) bool {
			return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
		}) {
			return false
		}
	}
	return true
}

// loopbackHost reports whether host is this machine.
func loopbackHost(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
