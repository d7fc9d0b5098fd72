package natsdtest

import (
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
)

// lastPort counts the ports that were handed out.
var lastPort atomic.Uint32

// FreePort returns a TCP port for a server that will be restarted on the same one: below the
// kernel's ephemeral ports and those of FreeAddrs, so that no other process gets it while the server
// is stopped. A host other than 127.0.0.1 need not exist yet.
func FreePort(t testing.TB, host string) int {
	t.Helper()
	if host != "127.0.0.1" {
		host = ""
	}
	const first, ports = 12000, 8000
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
