package settings

import "net/netip"

// Networks reads the addresses (10.1.2.3) and networks (10.1.2.0/24) of trusted proxies from a flag. A network of
// all addresses is refused: it would trust everyone.
func Networks(flag string, texts []string) (all []netip.Prefix, err error) {
	for _, text := range texts {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil || addr.Zone() != "" {
				return nil, Fault(flag, "%q is not an address: want 10.1.2.3 or 10.1.2.0/24", text)
			}
			network = netip.PrefixFrom(addr, addr.BitLen())
		}
		if addr := network.Addr(); addr.Is4In6() {
			network = netip.PrefixFrom(addr.Unmap(), max(0, network.Bits()-96)) // an IPv4 address is behind 96 bits there
		}
		if network.Bits() == 0 {
			return nil, Fault(flag, "%q is every address: name only those of the proxies, because a client at one of them can claim any address", text)
		}
		all = append(all, network.Masked())
	}
	return all, nil
}
