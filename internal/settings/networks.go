package settings

import "net/netip"

// Networks reads addresses (10.1.2.3) and networks (10.1.2.0/24) that a flag names. One that holds every address is refused: those that are
// named are believed, and that one would believe everybody.
func Networks(flag string, texts []string) (all []netip.Prefix, err error) {
	for _, text := range texts {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil || addr.Zone() != "" {
				return nil, Fault(flag, "%q is no address: want 10.1.2.3 or 10.1.2.0/24", text)
			}
			network = netip.PrefixFrom(addr, addr.BitLen())
		}
		if addr := network.Addr(); addr.Is4In6() {
			network = netip.PrefixFrom(addr.Unmap(), max(0, network.Bits()-96)) // 96 bits stand before an IPv4 address there
		}
		if network.Bits() == 0 {
			return nil, Fault(flag, "%q is every address: name those of the proxies alone, since who comes from one of them can name any address as his", text)
		}
		all = append(all, network.Masked())
	}
	return all, nil
}
