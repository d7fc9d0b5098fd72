package ingest

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"wxtoken/client"
	"wxtoken/client/message"
	"wxtoken/internal/settings"
)

const (
	testComponent = "wx0123456789abcdef"
	testAESKey    = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
)

var testNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newTestIngest(t testing.TB) *Ingest {
	t.Helper()
	i, err := New(Config{}, []settings.Component{{
		AppID: testComponent, Tokens: []wxtoken.Secret{wxtoken.NewSecret("token")}, AESKeys: []wxtoken.Secret{wxtoken.NewSecret(testAESKey)},
	}}, Deps{Metrics: prometheus.NewRegistry(), Log: zerolog.Nop(), Now: func() time.Time { return testNow }})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestMaxParsing looks that no more than maxParsing pushes are parsed at once, and that all of them give
// their place back.
func TestMaxParsing(t *testing.T) {
	t.Parallel()
	i := newTestIngest(t)
	send := func() (int, string) {
		req := httptest.NewRequest(http.MethodPost, "/wechat/"+testComponent+"/auth?timestamp=1715943329&nonce=1", strings.NewReader("<xml></xml>"))
		rec := httptest.NewRecorder()
		i.Handler().ServeHTTP(rec, req)
		return rec.Code, rec.Body.String()
	}
	for range 2 * maxParsing {
		if status, _ := send(); status != http.StatusBadRequest && status != http.StatusTooManyRequests {
			t.Fatalf("answer %d to a bad push", status)
		}
	}
	for range maxParsing {
		i.parsing <- struct{}{}
	}
	if status, body := send(); status != http.StatusServiceUnavailable || body != bodyRetry {
		t.Errorf("answer %d %q while %d are parsed, want 503 retry", status, body, maxParsing)
	}
	<-i.parsing
	if status, _ := send(); status == http.StatusServiceUnavailable {
		t.Error("still busy")
	}
}

// subjects are what may ever be published to.
var subjects = regexp.MustCompile(`^wechat\.(auth\.` + testComponent + `\.(component_verify_ticket|authorized|updateauthorized|unauthorized|notify_third_fasteregister|release_check|callback|unreadable)` +
	`|notice\.` + testComponent + `\.[A-Za-z0-9_-]{1,64}` +
	`|message\.` + testComponent + `\.wxa\.[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64})?)$`)

// checkEvents looks at the events of a document, whatever it says.
func checkEvents(t interface{ Fatalf(string, ...any) }, i *Ingest, text []byte) {
	path := "/wechat/" + testComponent + "/auth"
	push, err := i.fromPush(path, testComponent, text)
	if err != nil && reasonOf(err) == reasonUnlisted {
		t.Fatalf("a refusal without a reason: %v", err)
	}
	message, err := i.fromMessage(path, testComponent, "wxa", text, len(text)%2 == 0)
	if err != nil && reasonOf(err) == reasonUnlisted {
		t.Fatalf("a refusal without a reason: %v", err)
	}
	if message.reply.subject != "" && "wechat.message."+strings.TrimPrefix(message.reply.subject, "wechat.reply.") != message.events[0].Subject {
		t.Fatalf("asked on %q about %q", message.reply.subject, message.events[0].Subject)
	}
	for _, e := range append(push.events, message.events...) {
		if !subjects.MatchString(e.Subject) {
			t.Fatalf("subject %q", e.Subject)
		}
		for _, header := range []string{e.ID, e.Source, e.Type, e.About, e.ContentType} {
			if strings.ContainsFunc(header, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Fatalf("header %q", header)
			}
		}
		if _, err := e.Time.MarshalText(); err != nil || e.Time.Year() < 1970 {
			t.Fatalf("time %v: %v", e.Time, err)
		}
		if len(e.Subject) > 3*64+2*len(testComponent) || len(e.ID) != 64 {
			t.Fatalf("subject %q, id %q", e.Subject, e.ID)
		}
	}
}

// TestSubjects puts any text into the fields that subjects and headers are made of.
func TestSubjects(t *testing.T) {
	t.Parallel()
	i := newTestIngest(t)
	rapid.Check(t, func(t *rapid.T) {
		odd := rapid.SampledFrom([]string{"*", ">", ".", " ", "a.b", "..", "$JS.API", "\r\n", "Nats-Msg-Id: x", "公司", strings.Repeat("a", 65)})
		word := rapid.OneOf(odd, rapid.String(), rapid.SampledFrom([]string{"text", "event", "authorized", "unauthorized", "notify_third_fasteregister"}))
		fields := map[string]string{
			"AppId": testComponent, "CreateTime": strconv.FormatInt(testNow.Unix(), 10),
			"InfoType": word.Draw(t, "InfoType"), "AuthorizerAppid": word.Draw(t, "AuthorizerAppid"), "AuthorizationCode": word.Draw(t, "AuthorizationCode"),
			"appid": word.Draw(t, "appid"), "status": "0",
			"MsgType": word.Draw(t, "MsgType"), "Event": word.Draw(t, "Event"), "MsgId": word.Draw(t, "MsgId"),
			"ToUserName": word.Draw(t, "ToUserName"), "Content": word.Draw(t, "Content"),
		}
		asJSON, err := json.Marshal(fields)
		if err != nil {
			t.Fatalf("encode: %v", err)
		}
		checkEvents(t, i, asJSON)
		var asXML strings.Builder
		asXML.WriteString("<xml>")
		for name, value := range fields {
			asXML.WriteString("<" + name + ">")
			if err := xml.EscapeText(&asXML, []byte(value)); err != nil {
				t.Fatalf("encode: %v", err)
			}
			asXML.WriteString("</" + name + ">")
		}
		asXML.WriteString("</xml>")
		checkEvents(t, i, []byte(asXML.String()))
	})
}

// FuzzEvents turns any document into events.
func FuzzEvents(f *testing.F) {
	i := newTestIngest(f)
	for _, seed := range []string{
		"<xml><AppId>" + testComponent + "</AppId><CreateTime>1795348800</CreateTime><InfoType>authorized</InfoType><AuthorizerAppid>wxa</AuthorizerAppid><AuthorizationCode>c</AuthorizationCode></xml>",
		"<xml><AppId>" + testComponent + "</AppId><CreateTime>1795348800</CreateTime><InfoType>new_one</InfoType></xml>",
		`{"AppId":"` + testComponent + `","CreateTime":1795348800,"InfoType":"component_verify_ticket","ComponentVerifyTicket":"t"}`,
		"<xml><MsgType>event</MsgType><Event>a.*</Event><CreateTime>1795348800</CreateTime></xml>",
		`{"MsgType":"text","Content":"QUERY_AUTH_CODE:x","ToUserName":"gh_3c884a361561"}`,
		`{"MsgType":"text","Content":"QUERY_AUTH_CODE:x","ToUserName":"gh_3c884a361561","CreateTime":400000000000}`,
		"<xml><AppId>" + testComponent + "</AppId><CreateTime>1795348800</CreateTime><InfoType>authorized</InfoType><AuthorizerAppid>wxa</AuthorizerAppid>" +
			"<AuthorizationCode>c</AuthorizationCode><AuthorizationCodeExpiredTime>400000000000</AuthorizationCodeExpiredTime></xml>",
		"<xml><MsgType>event</MsgType><Event>x&#13;&#10;Nats-Rollup: all</Event></xml>",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) { checkEvents(t, i, text) })
}

// TestReleaseAccounts looks that the table names ten accounts that a path can carry.
func TestReleaseAccounts(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for gh, appid := range releaseAccounts {
		if !strings.HasPrefix(gh, "gh_") || !wxtoken.ValidAppID(appid) || len(appid) != 18 || seen[appid] {
			t.Errorf("account %s %s", gh, appid)
		}
		seen[appid] = true
		if releaseAccount(appid, message.Message{}) != appid || releaseAccount("wxa", message.Message{ToUserName: gh}) != appid {
			t.Errorf("account %s %s is not known by each of its names", gh, appid)
		}
	}
	if releaseAccount("wxa", message.Message{ToUserName: "gh_1"}) != "" {
		t.Error("any account is taken for one that is lent")
	}
	for _, m := range []message.Message{{MsgType: "image", Content: "QUERY_AUTH_CODE:c"}, {MsgType: "text", Content: "QUERY_AUTH_CODE:"}, {MsgType: "text"}} {
		if code := releaseCode(m); code != "" {
			t.Errorf("%s %q has code %q", m.MsgType, m.Content, code)
		}
	}
	if len(seen) != 10 {
		t.Errorf("%d accounts, want 10", len(seen))
	}
}
