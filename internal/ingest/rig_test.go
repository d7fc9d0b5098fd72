package ingest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/ingest"
	"wxtoken/internal/logtest"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/settings"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/internal/wechat"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 0) }

// The component of the tests. Whatever must not be seen anywhere has SEKRET in it.
const (
	component   = "wx0123456789abcdef"
	authorizer  = "wxfedcba9876543210"
	token       = "SEKRETtoken"
	tokenBefore = "SEKRETtokenBefore"
	aesKey      = "SEKRETkey0123456789abcdefghijklmnopqrstuvwx"
	aesBefore   = "SEKRETkeyBefore0123456789abcdefghijklmnopqr"
	ticket      = "ticket@@@SEKRET-ticket"
	code        = "queryauthcode@@@SEKRET-code"
	preAuthCode = "preauthcode@@@SEKRET-pre"
	authPath    = "/wechat/" + component + "/auth"
	msgPath     = "/wechat/" + component + "/message/" + authorizer
)

// now is the clock of the tests.
var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// rig is an Ingest on a real NATS server.
type rig struct {
	ingest  *ingest.Ingest
	js      jetstream.JetStream
	log     *logBuffer
	metrics *prometheus.Registry
}

// change changes what an Ingest works with.
type change func(*ingest.Config)

// newRig returns an Ingest on the server, and makes the streams if they are missing.
func newRig(t testing.TB, srv *natsdtest.Server, opts ...nats.Option) *rig {
	t.Helper()
	nc := srv.Connect(opts...)
	js := natsdtest.JetStream(t, nc)
	streamstest.Setup(t, nc, js, events.SetupConfig{MessagesMaxAge: time.Hour})
	return rigOn(t, js)
}

func rigOn(t testing.TB, js jetstream.JetStream, changes ...change) *rig {
	t.Helper()
	r := &rig{js: js, log: &logBuffer{}}
	r.start(t, zerolog.New(r.log), changes...)
	return r
}

func (r *rig) start(t testing.TB, log zerolog.Logger, changes ...change) {
	t.Helper()
	r.metrics = prometheus.NewRegistry()
	cfg := ingest.Config{ReleaseCheck: true}
	for _, change := range changes {
		change(&cfg)
	}
	var err error
	r.ingest, err = ingest.New(cfg, []settings.Component{componentWith(settings.Page{})}, ingest.Deps{JetStream: r.js, Log: log, Metrics: r.metrics, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if text := r.log.Take(); cfg.PlainMessages && !strings.Contains(text, "NOT FOR PRODUCTION") {
		t.Errorf("plain mode is switched on without a warning: %q", text)
	}
}

// componentWith is the component of the tests, with that page.
func componentWith(page settings.Page) settings.Component {
	return settings.Component{
		AppID:   component,
		Tokens:  []wxtoken.Secret{wxtoken.NewSecret(token), wxtoken.NewSecret(tokenBefore)},
		AESKeys: []wxtoken.Secret{wxtoken.NewSecret(aesKey), wxtoken.NewSecret(aesBefore)},
		Page:    page,
	}
}

// serve puts the Ingest behind a server of its own and returns its URL.
func (r *rig) serve(t testing.TB) *url.URL {
	t.Helper()
	srv := httptest.NewServer(r.ingest.Handler())
	t.Cleanup(srv.Close)
	at, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// stored returns how many messages lie on both streams.
func (r *rig) stored(t testing.TB) int {
	t.Helper()
	return len(r.messages(t, events.StreamAuth)) + len(r.messages(t, events.StreamMessages))
}

// messages returns what lies on a stream, oldest first.
func (r *rig) messages(t testing.TB, stream string) []*jetstream.RawStreamMsg {
	t.Helper()
	s, err := r.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	state := s.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatalf("message %d of %s: %v", seq, stream, err)
		}
		all = append(all, m)
	}
	return all
}

// count returns the value of a counter, or how often a histogram was observed.
func (r *rig) count(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	sum, series := looktest.Sum(t, r.metrics, name, labels...)
	if series == 0 {
		t.Fatalf("no metric %s%v", name, labels)
	}
	return sum
}

// logBuffer keeps log lines.
type logBuffer struct{ logtest.Buffer }

// lines returns the lines above debug.
func (b *logBuffer) lines(t testing.TB) []map[string]any {
	t.Helper()
	var all []map[string]any
	for text := range strings.Lines(b.String()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("log line is not JSON: %q", text)
		}
		if line["level"] != "debug" {
			all = append(all, line)
		}
	}
	return all
}

// call is one request.
type call struct {
	method string
	path   string
	query  url.Values
	raw    string // query as it stands; empty: query encoded
	header http.Header
	body   []byte
}

var keys = wechat.Keys{AppID: component, Tokens: []string{token}, AESKeys: []string{aesKey}}

// push returns the call with which WeChat would deliver text, made with the given keys.
func push(t testing.TB, path string, with wechat.Keys, text string) *call {
	t.Helper()
	crypter, err := wechat.NewCrypter(with)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := crypter.Answer(wechat.Opened{}, strconv.FormatInt(now.Unix(), 10), "1590219412", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &call{
		method: http.MethodPost, path: path, header: http.Header{"Content-Type": {"text/xml"}},
		query: url.Values{
			"signature": {strings.Repeat("0", 40)}, "timestamp": {sealed.Timestamp}, "nonce": {sealed.Nonce},
			"encrypt_type": {"aes"}, "msg_signature": {sealed.MsgSignature},
		},
		body: []byte("<xml><AppId><![CDATA[" + component + "]]></AppId><Encrypt><![CDATA[" + sealed.Encrypt + "]]></Encrypt></xml>"),
	}
}

// componentPush is push with the keys of the component.
func componentPush(t testing.TB, path, text string) *call {
	t.Helper()
	return push(t, path, keys, text)
}

func (c *call) target() string {
	raw := c.raw
	if raw == "" {
		raw = c.query.Encode()
	}
	return c.path + "?" + raw
}

// send sends the call to a server and returns status, header and body.
func (c *call) send(t testing.TB, at *url.URL) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), c.method, at.String()+c.target(), bytes.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, c.header)
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := transport.RoundTrip(req) // no redirects
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

// serveDirectly hands the call to the handler without a network.
func (c *call) serveDirectly(r *rig) *httptest.ResponseRecorder {
	req := httptest.NewRequest(c.method, c.target(), bytes.NewReader(c.body))
	maps.Copy(req.Header, c.header)
	rec := httptest.NewRecorder()
	r.ingest.Handler().ServeHTTP(rec, req)
	return rec
}

// event returns a document of the authorization event URL.
func event(infoType, fields string) string { return eventAt(now, infoType, fields) }

func eventAt(created time.Time, infoType, fields string) string {
	return fmt.Sprintf("<xml><AppId><![CDATA[%s]]></AppId><CreateTime>%d</CreateTime><InfoType><![CDATA[%s]]></InfoType>%s</xml>",
		component, created.Unix(), infoType, fields)
}

func ticketEvent() string { return ticketAt(now) }

func ticketAt(created time.Time) string {
	return eventAt(created, "component_verify_ticket", "<ComponentVerifyTicket><![CDATA["+ticket+"]]></ComponentVerifyTicket>")
}

func authorizedEvent(infoType string) string {
	return event(infoType, "<AuthorizerAppid>"+authorizer+"</AuthorizerAppid><AuthorizationCode>"+code+
		"</AuthorizationCode><AuthorizationCodeExpiredTime>"+strconv.FormatInt(now.Unix()+3600, 10)+
		"</AuthorizationCodeExpiredTime><PreAuthCode>"+preAuthCode+"</PreAuthCode>")
}

// messageOf returns a document of the message and event URL.
func messageOf(msgType, fields string) string {
	return fmt.Sprintf("<xml><ToUserName><![CDATA[gh_97417a04a28d]]></ToUserName><FromUserName><![CDATA[openid-of-a-user]]></FromUserName>"+
		"<CreateTime>%d</CreateTime><MsgType><![CDATA[%s]]></MsgType>%s</xml>", now.Unix(), msgType, fields)
}
