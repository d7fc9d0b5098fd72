package natsdtest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// claims are the ports of this process: it listens on the UDP ports of the same numbers until it ends.
var claims struct {
	mu  sync.Mutex
	all []net.PacketConn
}

// failer is a test, or a script of testscript.
type failer interface {
	Fatalf(format string, args ...any)
}

// FreePort returns a TCP port that nobody listens on, for a server that has to know it before it
// listens, or listens there again later. It is below those that the system gives to connections,
// 32768 and above on Linux, and is kept from other processes that test at the same time: the UDP port
// of the same number says whose it is.
func FreePort(t failer) int {
	const from, to = 12_000, 32_000
	for range 100 {
		port := from + rand.IntN(to-from)
		if claim(port) {
			return port
		}
	}
	t.Fatalf("no port is free")
	return 0
}

// FreeAddr is FreePort with 127.0.0.1.
func FreeAddr(t failer) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
}

// claim reports whether nobody has a port, and keeps it.
func claim(port int) bool {
	addr := ":" + strconv.Itoa(port)
	mine, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		_ = mine.Close()
		return false
	}
	_ = l.Close()
	claims.mu.Lock()
	defer claims.mu.Unlock()
	claims.all = append(claims.all, mine)
	return true
}
