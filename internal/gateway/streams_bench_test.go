package gateway_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/wxtokentest"
)

// perProcess is how many streams one process of readers holds open: each takes a file.
const perProcess = 5000

// BenchmarkStreams opens b.N streams of events, 100 at least, from processes of their own, and reports what each takes here, and how long a
// token is under way until 99 % of them have it: from when its renewal was asked for.
func BenchmarkStreams(b *testing.B) {
	r := newRig(b)
	n := max(b.N, 100)
	before := inUse()
	var readers []*readers
	for left := n; left > 0; left -= perProcess {
		readers = append(readers, startReaders(b, strings.TrimPrefix(r.url, "http://"), min(left, perProcess)))
	}
	for _, some := range readers {
		some.next(b, "open")
	}
	each := float64(inUse()-before) / float64(n) / 1024
	began := time.Now()
	r.k.Renew(wxtokentest.Merchant)
	var last time.Time
	for _, some := range readers {
		nanos, err := strconv.ParseInt(some.next(b, "told"), 10, 64)
		r.must(err)
		if at := time.Unix(0, nanos); at.After(last) {
			last = at
		}
	}
	b.ReportMetric(last.Sub(began).Seconds()*1000, "ms-to-99%")
	b.ReportMetric(each, "KiB/stream")
	b.ReportMetric(float64(n), "streams")
	for _, some := range readers {
		some.end(b)
	}
}

// inUse is the memory of heap and stacks that is in use, in bytes.
func inUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// readers is a process that reads.
type readers struct {
	cmd   *exec.Cmd
	in    io.Closer
	lines *bufio.Scanner
}

func startReaders(b *testing.B, address string, n int) *readers {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "FOLLOW="+address, "STREAMS="+strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		b.Fatal(err)
	}
	return &readers{cmd, in, bufio.NewScanner(out)}
}

// next waits for a line that begins so, and returns the rest of it.
func (r *readers) next(b *testing.B, word string) string {
	b.Helper()
	if !r.lines.Scan() {
		b.Fatal("the readers ended")
	}
	rest, ok := strings.CutPrefix(r.lines.Text(), word)
	if !ok {
		b.Fatalf("the readers said %q, want %q", r.lines.Text(), word)
	}
	return strings.TrimSpace(rest)
}

func (r *readers) end(b *testing.B) {
	b.Helper()
	_ = r.in.Close()
	if err := r.cmd.Wait(); err != nil {
		b.Error(err)
	}
}

// followMany opens streams and says "open" when all are, and "told" with the time when 99 % of them have had a token.
func followMany(address string) {
	n, err := strconv.Atoi(os.Getenv("STREAMS"))
	if err != nil {
		panic(err)
	}
	opened, told, dialing := make(chan struct{}), make(chan struct{}), make(chan struct{}, 64)
	var open sync.WaitGroup
	for range n {
		dialing <- struct{}{}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			panic(err)
		}
		open.Go(func() {
			defer func() { _ = conn.Close() }()
			if _, err := fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n\r\n", allKey); err != nil {
				panic(err)
			}
			var text []byte
			buffer := make([]byte, 512)
			for !bytes.Contains(text, []byte("event: token")) {
				at := len(text)
				m, err := conn.Read(buffer)
				if err != nil {
					return // at the end
				}
				if text = append(text, buffer[:m]...); at == 0 {
					if !bytes.HasPrefix(text, []byte("HTTP/1.1 200")) {
						panic(string(text))
					}
					<-dialing
					opened <- struct{}{}
				}
			}
			told <- struct{}{}
			_, _ = io.Copy(io.Discard, conn)
		})
	}
	for range n {
		<-opened
	}
	fmt.Println("open")
	for range n * 99 / 100 {
		<-told
	}
	fmt.Println("told", time.Now().UnixNano())
	go func() {
		for range told { // the rest
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
