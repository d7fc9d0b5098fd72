package gateway_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
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

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
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

// BenchmarkResume has as many streams of events as -benchtime says go on at once from where they were before so many tokens changed, as after a
// restart of the gateway, and reports what each costs the processors and how long it takes until the last has been told.
func BenchmarkResume(b *testing.B) {
	const accounts, changed = 100_000, 100
	r := newRig(b)
	r.write(strings.Replace(file(), component+"/*", strangeComponent+"/*", 1))
	fillAccounts(r, 0, accounts, 1)
	ctx, cut := context.WithCancel(b.Context())
	before := <-r.follow(ctx, allKey, "") // its first mark
	cut()
	fillAccounts(r, accounts-changed, accounts, 2)
	n := 0
	for b.Loop() { // and not b.N, for which all of this would run twice
		n++
	}
	began, spent := time.Now(), natsdtest.Computed()
	var readers []*readers
	for left := n; left > 0; left -= perProcess {
		readers = append(readers, startReaders(b, strings.TrimPrefix(r.url, "http://"), min(left, perProcess),
			"LAST="+before.id, fmt.Sprintf(`UNTIL="generation":2,"key":%q`, accountAt(accounts-1)), "SHARE=100", "DIALING=1000"))
	}
	for _, some := range readers {
		some.next(b, "open")
		some.next(b, "told")
	}
	b.ReportMetric(time.Since(began).Seconds(), "s-to-last")
	b.ReportMetric(float64((natsdtest.Computed()-spent).Microseconds())/float64(n)/1000, "cpu-ms/stream")
	b.ReportMetric(float64(n), "streams")
	for _, some := range readers {
		some.end(b)
	}
}

// strangeComponent is one that the rig's refresher does not serve: it leaves the accounts alone.
const strangeComponent = "wxc0ffee0000000009"

func accountAt(i int) wxtoken.Key {
	return wxtoken.AuthorizerKey(strangeComponent, fmt.Sprintf("wxd%015d", i))
}

// fillAccounts stores tokens and states of some accounts, as a refresher does, and waits until the gateway has them.
func fillAccounts(r *rig, from, to int, generation uint64) {
	r.Helper()
	nc := r.k.Connect(nats.UserInfo("refresher", "refresher"), nats.CustomInboxPrefix("_INBOX_refresher"))
	js := natsdtest.JetStream(r, nc, jetstream.WithPublishAsyncMaxPending(10_000))
	now := time.Now().UTC().Truncate(time.Second)
	for i := from; i < to; i++ {
		key := accountAt(i)
		record, err := store.TokenRecord(wxtoken.Token{
			Key: key, Value: wxtoken.NewSecret(strings.Repeat("x", 157)), Generation: generation,
			ObtainedAt: now, ExpiresAt: now.Add(2 * time.Hour), RenewAt: now.Add(80 * time.Minute),
		})
		r.must(err)
		status := fmt.Appendf(nil, `{"key":%q,"state":"active","conditions":[{"type":"Ready","status":"True","reason":"Renewed","since":"2026-11-26T01:48:34Z"}],`+
			`"authorizer":{"authorized_at":"2026-11-26T01:48:34Z","ref":"tenant-%d","func_info":[1,2,18],"nick_name":"%s"},"failures":%d}`, key, i, strings.Repeat("x", 500), generation)
		for subject, data := range map[string][]byte{events.TokenSubject(key): record, "$KV.status." + key.String(): status} {
			_, err = js.PublishAsync(subject, data, jetstream.WithStallWait(patience))
			r.must(err)
		}
	}
	<-js.PublishAsyncComplete()
	r.until("the gateway has all accounts, and the service may see them", func() bool {
		status, err := r.g.Client(r.Context()).Account(accountAt(to - 1))
		return err == nil && status.Failures == int(generation) && r.v1(allKey, "GET", "tokens/"+accountAt(to-1).String(), "").get("generation") == fmt.Sprint(generation)
	})
	time.Sleep(time.Second) // a stream's first mark is behind the view by a moment
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

func startReaders(b *testing.B, address string, n int, more ...string) *readers {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), "FOLLOW="+address, "STREAMS="+strconv.Itoa(n)), more...)
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

// followMany opens streams, as of LAST if that is set, some at a time, and says "open" when all are, and "told" with the time when a share of
// them has read something: a token, or what is set.
func followMany(address string) {
	number := func(name string, otherwise int) int {
		n, err := strconv.Atoi(cmp.Or(os.Getenv(name), strconv.Itoa(otherwise)))
		if err != nil {
			panic(err)
		}
		return n
	}
	n, until := number("STREAMS", 1), []byte(cmp.Or(os.Getenv("UNTIL"), "event: token"))
	// HTTP/1.0 knows no chunks, between which what is waited for could lie.
	request := fmt.Sprintf("GET /v1/events HTTP/1.0\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n", allKey)
	if last := os.Getenv("LAST"); last != "" {
		request += "Last-Event-ID: " + last + "\r\n"
	}
	opened, told, dialing := make(chan struct{}), make(chan struct{}), make(chan struct{}, number("DIALING", 64))
	var running sync.WaitGroup
	for range n {
		dialing <- struct{}{}
		running.Go(func() {
			open := sync.OnceFunc(func() {
				<-dialing
				opened <- struct{}{}
			})
			for !followOne(address, request, until, open, func() { told <- struct{}{} }) {
				time.Sleep(100 * time.Millisecond) // it was cut off, since the machine is busy
			}
		})
	}
	for range n {
		<-opened
	}
	fmt.Println("open")
	for range n * number("SHARE", 99) / 100 {
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

// followOne opens a stream, reads until something has come, and stays until it ends. It reports whether it came.
func followOne(address, request string, until []byte, opened, told func()) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return false
	}
	var text []byte
	buffer := make([]byte, 4096)
	for first := true; !bytes.Contains(text, until); first = false {
		text = text[max(0, len(text)-len(until)):]
		m, err := conn.Read(buffer)
		if err != nil {
			return false
		}
		if text = append(text, buffer[:m]...); first {
			if !bytes.HasPrefix(text, []byte("HTTP/1.0 200")) {
				panic(string(text))
			}
			opened()
		}
	}
	told()
	_, _ = io.Copy(io.Discard, conn)
	return true
}
