package natsdtest

import (
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
)

// lastPort counts the ports that were given away.
var lastPort atomic.Uint32

// FreePort returns a TCP port for a server that is to come back on the same one: below those that
// the kernel takes by itself, so that no other process gets it while the server does not run. A
// host that is not 127.0.0.1 need not be there yet.
func FreePort(t testing.TB, host string) int {
	t.Helper()
	if host != "127.0.0.1" {
		host = ""
	}
	const first, ports = 12000, 20000
	for range ports {
		port := first + (os.Getpid()*100+int(lastPort.Add(1)))%ports // other processes test at the same time
		if l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}
