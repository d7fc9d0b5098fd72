package serve

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are those whose word is believed on where a request comes from.
type Proxies []netip.Prefix

// Trusts reports whether an address is one of a proxy.
func (p Proxies) Trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// Client returns the address that a request comes from: the last one in X-Forwarded-For that is no proxy's. What stands before it was written
// by the client, who can write what it likes. Forwarded is not read: a proxy that sets one of the two lets the other one through as the
// client sent it. The zero Addr is that of a connection that has none.
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

// hopAddr reads an address as proxies write it; some add the port.
func hopAddr(text string) netip.Addr {
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return AddrOf(text)
	}
	return addr.Unmap().WithZone("")
}

// AddrOf reads "address:port"; the zero Addr stands for what can't be read.
func AddrOf(remote string) netip.Addr {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// Behind has a server take the address that its proxies name for that of the connection: in limits, logs and records. Its port is 0 then.
func Behind(proxies Proxies) Option { return func(d *door) { d.proxies = proxies } }

// named is a handler for requests whose RemoteAddr is the client's.
func (p Proxies) named(next http.Handler) http.Handler {
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
