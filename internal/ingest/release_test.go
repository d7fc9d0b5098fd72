package ingest_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client/message"
	"wxtoken/internal/events"
	"wxtoken/internal/ingest"
	"wxtoken/internal/natsd/natsdtest"
)

// lent are the accounts of the release check, gh_ id and appid, as WeChat lists them
// ("releases_instructions").
var lent = [][2]string{
	{"gh_3c884a361561", "wx570bc396a51b8ff8"}, {"gh_8dad206e9538", "wxd101a85aa106f53e"},
	{"gh_c0f28a78b318", "wx9252c5e0bb1836fc"}, {"gh_905ae9d01059", "wxc39235c15087f6f3"},
	{"gh_3f222ed8d140", "wx8e1097c5bc82cde9"}, {"gh_393666f1fdf4", "wx7720d01d4b2a4500"},
	{"gh_26128078e9ab", "wx14550af28c71a144"}, {"gh_39abb5d4e1b7", "wx05d483572dcd5d8b"},
	{"gh_2b3713f184a6", "wxa35b9c23cfe664eb"}, {"gh_7818dcb60240", "wx5910277cae6fd970"},
}

// TestReleaseCheck plays WeChat's script with every account that it may lend.
func TestReleaseCheck(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	nc := srv.Connect()
	if _, err := nc.Subscribe(message.ReplySubject(component, "*"), func(msg *nats.Msg) {
		t.Errorf("a service was asked on %s", msg.Subject)
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(time.Minute); err != nil {
		t.Fatal(err)
	}
	at := r.serve(t)
	for n, account := range lent {
		path := "/wechat/" + component + "/message/" + account[1]
		to := func(text string) string { return strings.Replace(text, "gh_97417a04a28d", account[0], 1) }
		replied := string(message.Message{ToUserName: account[0], FromUserName: "openid-of-a-user"}.Reply(now).Text("TESTCOMPONENT_MSG_TYPE_TEXT_callback"))
		for text, want := range map[string]string{
			to(messageOf("text", "<Content>TESTCOMPONENT_MSG_TYPE_TEXT</Content>")): replied,
			to(messageOf("event", "<Event>LOCATION</Event>")):                       strings.Replace(replied, "TESTCOMPONENT_MSG_TYPE_TEXT_callback", "LOCATIONfrom_callback", 1),
		} {
			status, header, body := componentPush(t, path, text).send(t, at)
			if got := openReply(t, keys, header, body); status != http.StatusOK || got != want {
				t.Errorf("%s: answer %d %q, want 200 %q", account[0], status, got, want)
			}
			stored := r.messages(t, events.StreamMessages)
			if last := stored[len(stored)-1]; string(last.Data) != text {
				t.Errorf("%s: MESSAGES holds %q, want %q", account[0], last.Data, text)
			}
		}
		// The code goes to AUTH, with the user who wants an answer, and gets an empty body.
		status, _, body := componentPush(t, path, to(messageOf("text", "<Content>QUERY_AUTH_CODE:"+code+"</Content>"))).send(t, at)
		if status != http.StatusOK || body != "" {
			t.Errorf("%s: answer %d %q, want 200 and nothing", account[0], status, body)
		}
		onAuth := r.messages(t, events.StreamAuth)
		if len(onAuth) != n+1 {
			t.Fatalf("%s: %d events on AUTH, want %d", account[0], len(onAuth), n+1)
		}
		auth, err := events.ParseAuth(onAuth[n].Data)
		want := events.Auth{
			Kind: events.KindReleaseCheck, Component: component, CreateTime: now, ReceivedAt: now,
			Authorizer: account[1], Code: code, OpenID: "openid-of-a-user",
		}
		if err != nil || auth != want {
			t.Errorf("%s: event %+v, %v, want %+v", account[0], auth, err, want)
		}
	}
	if got := len(r.messages(t, events.StreamMessages)); got != 2*len(lent) {
		t.Errorf("%d messages on MESSAGES, want %d", got, 2*len(lent))
	}
	if strings.Contains(r.log.String(), "SEKRET") {
		t.Error("the log shows a code")
	}
}

// TestReleaseCheckIsForLentAccounts looks that other messages go the ordinary way.
func TestReleaseCheckIsForLentAccounts(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	at := r.serve(t)
	path := "/wechat/" + component + "/message/" + lent[0][1]
	for _, c := range []*call{
		componentPush(t, msgPath, messageOf("text", "<Content>TESTCOMPONENT_MSG_TYPE_TEXT</Content>")), // any account
		componentPush(t, msgPath, messageOf("event", "<Event>LOCATION</Event>")),
		componentPush(t, path, messageOf("text", "<Content>TESTCOMPONENT_MSG_TYPE_TEXT!</Content>")),
		componentPush(t, path, messageOf("image", "<Content>TESTCOMPONENT_MSG_TYPE_TEXT</Content>")),
		componentPush(t, path, messageOf("event", "")),
	} {
		if status, _, body := c.send(t, at); status != http.StatusOK || body != "success" {
			t.Errorf("answer %d %q, want 200 success", status, body)
		}
	}
	if got := r.count(t, "wxtoken_reply_total", "none"); got != 5 {
		t.Errorf("the services were asked %v times, want 5", got)
	}
}

// TestReleaseCheckOff takes the check's messages as ordinary ones, whose code is shown nowhere.
func TestReleaseCheckOff(t *testing.T) {
	t.Parallel()
	path := "/wechat/" + component + "/message/" + lent[0][1]
	withCode := messageOf("text", "<Content><![CDATA[QUERY_AUTH_CODE:"+code+"]]></Content>")
	blank := strings.Replace(withCode, code, "", 1)
	const head = `{"MsgType":"text","Content":"QUERY_AUTH_CODE:`
	for name, row := range map[string]struct{ text, want string }{
		"text":                    {messageOf("text", "<Content>TESTCOMPONENT_MSG_TYPE_TEXT</Content>"), messageOf("text", "<Content>TESTCOMPONENT_MSG_TYPE_TEXT</Content>")},
		"event":                   {messageOf("event", "<Event>LOCATION</Event>"), messageOf("event", "<Event>LOCATION</Event>")},
		"code":                    {withCode, blank},
		"code in JSON":            {head + code + `"}`, head + `"}`},
		"short code":              {messageOf("text", "<Content>QUERY_AUTH_CODE:x</Content>"), messageOf("text", "<Content>QUERY_AUTH_CODE:</Content>")},
		"code in an odd spelling": {messageOf("text", "<Content>QUERY_AUTH_CODE:&#113;ueryauthcode@@@SEKRET-code</Content>"), ""},
		"code in odd JSON":        {strings.Replace(head, "_", `\u005f`, 1) + code + `"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.Start(t)
			r := rigOn(t, newRig(t, srv).js, func(c *ingest.Config) { c.ReleaseCheck = false })
			asked := make(chan string, 1)
			nc := srv.Connect()
			if _, err := nc.Subscribe(message.ReplySubject(component, lent[0][1]), func(msg *nats.Msg) {
				asked <- string(msg.Data)
				_ = msg.Respond(nil)
			}); err != nil {
				t.Fatal(err)
			}
			if err := nc.FlushTimeout(time.Minute); err != nil {
				t.Fatal(err)
			}
			if status, _, body := componentPush(t, path, row.text).send(t, r.serve(t)); status != http.StatusOK || body != "success" {
				t.Fatalf("answer %d %q, want 200 success", status, body)
			}
			stored := r.messages(t, events.StreamMessages)
			if len(stored) != 1 || string(stored[0].Data) != row.want || !strings.HasSuffix(stored[0].Subject, "."+lent[0][1]+"."+map[bool]string{true: "event.LOCATION", false: "text"}[name == "event"]) {
				t.Errorf("MESSAGES holds %d messages, the first %q, want %q", len(stored), stored[0].Data, row.want)
			}
			if got := <-asked; got != row.want {
				t.Errorf("a service was asked about %q, want %q", got, row.want)
			}
			if got := len(r.messages(t, events.StreamAuth)); got != 0 {
				t.Errorf("%d events on AUTH, want none", got)
			}
			if strings.Contains(r.log.String(), "SEKRET") {
				t.Error("the log shows a code")
			}
		})
	}
}
