package serve

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are the networks of trusted proxies: the client address that they name counts.
type Proxies []netip.Prefix

// Trusts reports whether an address is that of a trusted proxy.
func (p Proxies) Trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// Client returns the address of the client of a request: the last one in X-Forwarded-For that is not a trusted
// proxy. What stands before that was written by the client, and may be anything. Forwarded is ignored: a proxy
// that sets one of the two headers passes the other one on as the client sent it. The zero Addr stands for a
// connection without an address.
func (p Proxies) Client(r *http.Request) netip.Addr {
	addr := AddrOf(r.RemoteAddr)
	if !p.Trusts(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		before := hopAddr(strings.TrimSpace(hop))
		if !before.IsValid() {
			break
		}
		if addr = before; !p.Trusts(addr) {
			break
		}
	}
	return addr
}

// hopAddr parses an address as proxies write it; some add the port.
func hopAddr(text string) netip.Addr {
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return AddrOf(text)
	}
	return addr.Unmap().WithZone("")
}

// AddrOf parses "address:port"; it returns the zero Addr for anything else.
func AddrOf(remote string) netip.Addr {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// Behind makes the server replace RemoteAddr by the client address that its proxies name, with port 0: in
// limits, logs and records.
func Behind(proxies Proxies) Option { return func(o *options) { o.proxies = proxies } }

// withClientAddr sets RemoteAddr to the address of the client.
func (p Proxies) withClientAddr(next http.Handler) http.Handler {
	if len(p) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if client := p.Client(r); client != AddrOf(r.RemoteAddr) {
			r.RemoteAddr = netip.AddrPortFrom(client, 0).String()
		}
		next.ServeHTTP(w, r)
	})
}
