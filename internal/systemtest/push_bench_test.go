//go:build linux

package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

// BenchmarkPushes sends messages of users over HTTP, from 32 connections, to ingest and to a bare handler that publishes as much in the
// clear: two processes beside a nats-server, by turns, so that a noisy moment hits both. It
// reports the ratio of messages per second, and that of the 99th percentiles; and the processor time that a message takes of client,
// nats-server and handler together, which tells the ratio of a machine that has nothing else to do.
//
//	go test -run '^$' -bench Pushes -benchtime 60000x ./internal/systemtest
func BenchmarkPushes(b *testing.B) {
	for _, accounts := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("accounts=%d", accounts), func(b *testing.B) { benchPushes(b, accounts) })
	}
}

const (
	pushConnections = 32
	pushTurn        = 4000 // messages in one turn
	benchComponent  = wechatsim.DemoAppID
)

func benchPushes(b *testing.B, accounts int) {
	server, url := beginNATS(b, "2m")
	nc := dial(b, url)
	js := natsdtest.JetStream(b, nc)
	streamstest.Setup(b, nc, js, events.SetupConfig{MessagesMaxAge: time.Hour})
	ingest, toIngest := beginIngest(b, url)
	bare, toBare := beginBare(b, url)
	messages := benchMessages(b, accounts)
	sender := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: pushConnections}, Timeout: 30 * time.Second}
	send := func(to string, n int, handler *program) turn {
		before := natsdtest.Computed() + server.computed(b) + handler.computed(b)
		t := sendAll(b, sender, to, n, messages)
		t.cpu = natsdtest.Computed() + server.computed(b) + handler.computed(b) - before - t.cpu
		return t
	}
	send(toIngest, pushConnections, ingest) // the connections
	send(toBare, pushConnections, bare)
	var theirs, its turn
	b.ResetTimer()
	for done := 0; done < b.N; done += pushTurn {
		n := min(pushTurn, b.N-done)
		theirs.add(send(toBare, n, bare))
		its.add(send(toIngest, n, ingest))
	}
	b.ReportMetric(its.rate(), "messages/s")
	b.ReportMetric(theirs.rate(), "bare/s")
	b.ReportMetric(its.rate()/theirs.rate(), "ratio")
	b.ReportMetric(its.each(), "cpu-µs")
	b.ReportMetric(theirs.each(), "bare-cpu-µs")
	b.ReportMetric(theirs.each()/its.each(), "cpu-ratio")
	b.ReportMetric(its.percentile(50), "p50-ms")
	b.ReportMetric(its.percentile(99), "p99-ms")
	b.ReportMetric(its.percentile(99)/theirs.percentile(99), "p99-ratio")
	b.ReportMetric(0, "ns/op")
}

// beginIngest starts an ingest and returns its URL.
func beginIngest(b *testing.B, natsURL string) (*program, string) {
	b.Helper()
	program := os.Getenv("WXTOKEN_TEST_INGEST") // another build, to compare with
	if program == "" {
		program = filepath.Join(programsOf(b), "ingest")
	}
	p := begin(b, program, nil, []string{
		"WXTOKEN_NATS_URL=" + natsURL, "WXTOKEN_HTTP_ADDR=127.0.0.1:0", "WXTOKEN_OPS_ADDR=127.0.0.1:0", "WXTOKEN_LOG_FORMAT=json",
		"WXTOKEN_COMPONENT_APPID=" + benchComponent, "WXTOKEN_COMPONENT_TOKEN=" + wechatsim.DemoToken, "WXTOKEN_COMPONENT_AES_KEY=" + wechatsim.DemoEncodingAESKey,
	})
	addr := ""
	poll(b, func() error {
		for line := range strings.Lines(p.said.String()) {
			var said struct{ Msg, Server, Addr string }
			if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "server listening" && said.Server == "pushes" {
				addr = said.Addr
				return nil
			}
		}
		return errors.New("ingest does not listen")
	})
	return p, "http://" + addr
}

// beginBare starts the handler that ingest is compared with.
func beginBare(b *testing.B, natsURL string) (*program, string) {
	b.Helper()
	path := filepath.Join(b.TempDir(), "bare")
	if text, err := exec.Command("go", "build", "-o", path, "./testdata/bare").CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, text)
	}
	p := begin(b, path, []string{natsURL, events.MessageSubject(benchComponent, "wxbare", "text", ""), benchDocument(0)}, nil)
	addr := ""
	poll(b, func() (err error) {
		_, addr, _ = strings.Cut(strings.TrimSpace(p.said.String()), "listening on ")
		if addr == "" {
			err = errors.New("the bare handler does not listen")
		}
		return err
	})
	return p, "http://" + addr
}

// outgoing is one request, made before it is measured.
type outgoing struct{ path, body string }

// benchDocument returns a message that no other is like.
func benchDocument(n int) string {
	return fmt.Sprintf("<xml><ToUserName><![CDATA[gh_0123456789ab]]></ToUserName><FromUserName><![CDATA[oUser%020d]]></FromUserName><CreateTime>%d</CreateTime>"+
		"<MsgType><![CDATA[text]]></MsgType><Content><![CDATA[When does the shop open on Sunday? 星期天几点开门?]]></Content><MsgId>%d</MsgId></xml>",
		n, time.Now().Unix(), 24_000_000_000_000_000+n)
}

// benchMessages returns what makes messages that nobody has seen before, of users of so many accounts, as WeChat encrypts them.
func benchMessages(b *testing.B, accounts int) func() outgoing {
	b.Helper()
	crypter, err := wechat.NewCrypter(wechat.Keys{AppID: benchComponent, Tokens: []string{wechatsim.DemoToken}, AESKeys: []string{wechatsim.DemoEncodingAESKey}})
	if err != nil {
		b.Fatal(err)
	}
	next := 0
	return func() outgoing {
		next++
		now := strconv.FormatInt(time.Now().Unix(), 10)
		made, err := crypter.Answer(wechat.Opened{}, now, "1320562132", []byte(benchDocument(next)))
		if err != nil {
			b.Fatal(err)
		}
		return outgoing{
			fmt.Sprintf("/wechat/%s/message/wxa%015d?signature=%s&timestamp=%s&nonce=%s&openid=oUser&encrypt_type=aes&msg_signature=%s",
				benchComponent, next%accounts, strings.Repeat("0", 40), now, made.Nonce, made.MsgSignature),
			"<xml><ToUserName><![CDATA[gh_0123456789ab]]></ToUserName><Encrypt><![CDATA[" + made.Encrypt + "]]></Encrypt></xml>",
		}
	}
}

// turn is what came of some messages.
type turn struct {
	took  time.Duration
	cpu   time.Duration // of client, server and handler
	times []time.Duration
}

func (t *turn) add(more turn) {
	t.took += more.took
	t.cpu += more.cpu
	t.times = append(t.times, more.times...)
}

func (t *turn) rate() float64 { return float64(len(t.times)) / t.took.Seconds() }

func (t *turn) each() float64 { return float64(t.cpu.Microseconds()) / float64(len(t.times)) }

func (t *turn) percentile(p int) float64 {
	slices.Sort(t.times)
	return float64(t.times[(len(t.times)-1)*p/100].Microseconds()) / 1e3
}

// sendAll sends n messages from all connections at once, and wants success for each.
func sendAll(b *testing.B, sender *http.Client, to string, n int, next func() outgoing) turn {
	b.Helper()
	making := natsdtest.Computed()
	all := make([]outgoing, n)
	for i := range all {
		all[i] = next()
	}
	t := turn{times: make([]time.Duration, n), cpu: natsdtest.Computed() - making} // to be left out
	var working sync.WaitGroup
	began := time.Now()
	for worker := range pushConnections {
		working.Go(func() {
			for i := worker; i < n; i += pushConnections {
				at := time.Now()
				if err := sendOne(sender, to+all[i].path, all[i].body); err != nil {
					b.Error(err)
					return
				}
				t.times[i] = time.Since(at)
			}
		})
	}
	working.Wait()
	t.took = time.Since(began)
	return t
}

func sendOne(sender *http.Client, to, body string) error {
	answer, err := sender.Post(to, "text/xml", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	said, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || string(said) != "success" {
		return fmt.Errorf("answer %d %q", answer.StatusCode, said)
	}
	return nil
}
