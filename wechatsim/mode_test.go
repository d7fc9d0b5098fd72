package wechatsim_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

func crypter(t *testing.T) *wechat.Crypter {
	t.Helper()
	c, err := wechat.NewCrypter(wechat.Keys{AppID: compID, Tokens: []string{compToken}, AESKeys: []string{compKey}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestModes lets internal/wechat read a message in each mode and format, and answer it in each way.
func TestModes(t *testing.T) {
	const (
		clear   = "clear"
		sealed  = "sealed"
		nothing = ""
	)
	for _, row := range []struct {
		mode  wechatsim.Mode
		json  bool
		reply string // how the receiver answers
		other bool   // in the other format
		good  bool
	}{
		{"", false, sealed, false, true},
		{"", false, clear, false, false},
		{wechatsim.ModeSecurity, false, sealed, false, true},
		{wechatsim.ModeSecurity, true, sealed, false, true},
		{wechatsim.ModeSecurity, true, sealed, true, false},
		{wechatsim.ModeSecurity, true, clear, false, false},
		{wechatsim.ModeSecurity, true, nothing, false, true},
		{wechatsim.ModeCompat, false, sealed, false, true},
		{wechatsim.ModeCompat, false, clear, false, true},
		{wechatsim.ModeCompat, true, sealed, false, true},
		{wechatsim.ModeCompat, true, clear, false, true},
		{wechatsim.ModeCompat, true, clear, true, false},
		{wechatsim.ModePlain, false, clear, false, true},
		{wechatsim.ModePlain, false, sealed, false, false},
		{wechatsim.ModePlain, false, clear, true, false},
		{wechatsim.ModePlain, true, clear, false, true},
		{wechatsim.ModePlain, true, sealed, false, false},
		{wechatsim.ModePlain, true, nothing, false, true},
	} {
		for _, vary := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, JSON %t, reply %s, other format %t, vary %t", row.mode, row.json, row.reply, row.other, vary), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					config := calmConfig()
					config.VaryForm, config.PushRetry.Times = vary, 1
					config.Components[0].AutoPush = false
					w := start(t, config)
					if err := w.p.Authorize(compID, accountA); err != nil {
						t.Fatal(err)
					}
					w.pushed("authorized")
					c := crypter(t)
					w.setHandler(func(rw http.ResponseWriter, r *http.Request) {
						m, err := readMessage(c, r, row.mode)
						if err != nil {
							t.Error(err)
							return
						}
						if m.JSON != row.json || m.Content != `<a> & "b"` || m.MsgType != "text" || m.FromUserName != "oUser" || m.ToUserName != wechatsim.OriginalID(accountA) || m.MsgID != "7" {
							t.Errorf("read %+v of %q: %q", m.MsgType, m.FromUserName, m.Content)
						}
						if row.reply == nothing {
							return
						}
						document, asJSON := []byte("<xml><ToUserName>oUser</ToUserName><FromUserName>"+m.ToUserName+"</FromUserName><CreateTime>1</CreateTime><MsgType>text</MsgType><Content>hello back</Content></xml>"), row.json != row.other
						if asJSON {
							document = []byte(`{"ToUserName":"oUser","FromUserName":"` + m.ToUserName + `","CreateTime":1,"MsgType":"text","Content":"hello back"}`)
						}
						if row.reply == sealed {
							reply, err := c.Answer(wechat.Opened{}, "1767571200", "77", document)
							if err != nil {
								t.Error(err)
							}
							if document = reply.XML(); asJSON {
								document = reply.JSON()
							}
						}
						_, _ = rw.Write(document)
					})
					message := wechatsim.Message{OpenID: "oUser", Content: `<a> & "b"`, MsgID: 7, Mode: row.mode, JSON: row.json}
					if err := w.p.PushMessage(compID, accountA, message); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					history := w.p.History()
					e := history[len(history)-1]
					want, outcome := "text hello back", wechatsim.OutcomeSuccess
					if !row.good {
						outcome = wechatsim.OutcomeRefused
					}
					if !row.good || row.reply == nothing {
						want = " "
					}
					if e.Kind != wechatsim.EntryPushAnswer || e.Outcome != outcome || e.MsgType+" "+e.Content != want {
						t.Errorf("recorded %+v, want %s and %q", e, outcome, want)
					}
				})
			})
		}
	}
}

// readMessage reads a pushed message as its mode wants it.
func readMessage(c *wechat.Crypter, r *http.Request, mode wechatsim.Mode) (wechat.Message, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return wechat.Message{}, err
	}
	q, err := wechat.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return wechat.Message{}, err
	}
	if kind := r.Header.Get("Content-Type"); (kind == "application/json") != (body[0] == '{') {
		return wechat.Message{}, fmt.Errorf("Content-Type %s of %s", kind, body)
	}
	if r.URL.Query().Get("openid") != "oUser" || !c.CheckSignature(q) {
		return wechat.Message{}, fmt.Errorf("query %s", r.URL.RawQuery)
	}
	if mode == wechatsim.ModePlain {
		if len(r.URL.Query()) != 4 || strings.Contains(string(body), "Encrypt") {
			return wechat.Message{}, fmt.Errorf("plain mode, and %s\n%s", r.URL.RawQuery, body)
		}
		return wechat.ParseMessage(body)
	}
	envelope, err := wechat.ParseEnvelope(body)
	if err != nil {
		return wechat.Message{}, fmt.Errorf("%w\n%s", err, body)
	}
	opened, err := c.Open(q, envelope.Encrypt)
	if err != nil {
		return wechat.Message{}, err
	}
	m, err := wechat.ParseMessage(opened.Text)
	if err != nil || envelope.JSON != m.JSON || r.URL.Query().Get("encrypt_type") != "aes" {
		return m, fmt.Errorf("%w\n%s\n%s", err, body, opened.Text)
	}
	beside, err := wechat.ParseMessage(body)
	switch {
	case mode == wechatsim.ModeCompat && (err != nil || beside.Content != m.Content || beside.MsgID != m.MsgID):
		return m, fmt.Errorf("compat mode, and the clear fields are not those that are encrypted: %w\n%s", err, body)
	case mode != wechatsim.ModeCompat && beside.MsgType != "":
		return m, fmt.Errorf("security mode, and clear fields\n%s", body)
	}
	return m, nil
}

func TestUnknownMode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		if err := w.p.Authorize(compID, accountA); err != nil {
			t.Fatal(err)
		}
		if err := w.p.PushMessage(compID, accountA, wechatsim.Message{Content: "x", Mode: "secret"}); err == nil || !strings.Contains(err.Error(), "compat") {
			t.Errorf("error %v", err)
		}
	})
}

// TestRawMessageReply answers a document that the platform did not look into: whom the reply is
// for, it can't know.
func TestRawMessageReply(t *testing.T) {
	const document = `{"ToUserName":"gh_1","FromUserName":"oElse","MsgType":"text","Content":"x"}`
	for _, row := range []struct{ document, outcome string }{
		{`{"ToUserName":"oElse","FromUserName":"gh_1","MsgType":"text","Content":"y"}`, wechatsim.OutcomeSuccess},
		{`{"ToUserName":"oElse","FromUserName":"gh_1","MsgType":"text","Content":"y"}success`, wechatsim.OutcomeRefused},
	} {
		t.Run(row.outcome, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.PushRetry.Times = 1
				w := start(t, config)
				w.pushed("")
				c := crypter(t)
				w.setHandler(func(rw http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					q, err := wechat.ParseQuery(r.URL.RawQuery)
					if err != nil {
						t.Error(err)
					}
					envelope, err := wechat.ParseEnvelope(body)
					if err != nil || !envelope.JSON {
						t.Errorf("%v: %s", err, body)
					}
					opened, err := c.Open(q, envelope.Encrypt)
					if err != nil || string(opened.Text) != document {
						t.Errorf("%v: %s", err, opened.Text)
					}
					reply, err := c.Answer(opened, q.Timestamp, q.Nonce, []byte(row.document))
					if err != nil {
						t.Error(err)
					}
					_, _ = rw.Write(reply.JSON())
				})
				if err := w.p.PushRaw(compID, accountA, document); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				history := w.p.History()
				if e := history[len(history)-1]; e.Kind != wechatsim.EntryPushAnswer || e.Outcome != row.outcome {
					t.Errorf("recorded %+v, want %s", e, row.outcome)
				}
			})
		})
	}
}

// TestRepliesTellNoSecrets looks at a reply that repeats a code.
func TestRepliesTellNoSecrets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		w.account(w.componentToken(), accountA)
		code := w.last("authorized").fields["AuthorizationCode"]
		w.setHandler(func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(rw, "<xml><ToUserName>oSimUser</ToUserName><FromUserName>"+wechatsim.OriginalID(accountA)+"</FromUserName><MsgType>text</MsgType><Content>"+code+"</Content></xml>")
		})
		if err := w.p.PushMessage(compID, accountA, wechatsim.Message{Content: code, Mode: wechatsim.ModePlain}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		history := w.p.History()
		text, err := json.Marshal(history)
		if err != nil {
			t.Fatal(err)
		}
		if last := history[len(history)-1]; last.Content != "sha256:"+wechatsim.Fingerprint(code) || strings.Contains(string(text), "SEKRET") {
			t.Errorf("recorded %+v", last)
		}
	})
}

// TestVerifyURL asks receivers for an echostr.
func TestVerifyURL(t *testing.T) {
	for _, row := range []struct {
		name       string
		authorizer string
		answer     func(echo string, rw http.ResponseWriter)
		outcome    string
		why        string
	}{
		{"message URL", accountA, func(echo string, rw http.ResponseWriter) { _, _ = io.WriteString(rw, echo) }, wechatsim.OutcomeSuccess, ""},
		{"auth URL", "", func(echo string, rw http.ResponseWriter) { _, _ = io.WriteString(rw, echo) }, wechatsim.OutcomeSuccess, ""},
		{"line feed", accountA, func(echo string, rw http.ResponseWriter) { _, _ = io.WriteString(rw, echo+"\n") }, wechatsim.OutcomeRefused, "white space around the echostr"},
		{"success", "", func(_ string, rw http.ResponseWriter) { _, _ = io.WriteString(rw, "success") }, wechatsim.OutcomeRefused, "body is not the echostr"},
		{"forbidden", accountA, func(echo string, rw http.ResponseWriter) { rw.WriteHeader(403); _, _ = io.WriteString(rw, echo) }, wechatsim.OutcomeRefused, "status is not 200"},
		{"too slow", accountA, func(echo string, rw http.ResponseWriter) {
			time.Sleep(6 * time.Second)
			_, _ = io.WriteString(rw, echo)
		}, wechatsim.OutcomeFailed, "context deadline exceeded"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.Components[0].AutoPush = false
				config.Components[0].AuthURL += "?old=1"
				w := start(t, config)
				c := crypter(t)
				w.setHandler(func(rw http.ResponseWriter, r *http.Request) {
					path := "/auth"
					if row.authorizer != "" {
						path = "/message/" + row.authorizer
					}
					q, err := wechat.ParseQuery(r.URL.RawQuery)
					if err != nil || !c.CheckSignature(q) || q.EchoStr == "" || r.Method != http.MethodGet || r.URL.Path != path {
						t.Errorf("%s %s: %v", r.Method, r.URL, err)
					}
					row.answer(q.EchoStr, rw)
				})
				step, err := w.p.VerifyURL(t.Context(), compID, row.authorizer)
				if err != nil {
					t.Fatal(err)
				}
				history := w.p.History()
				e := history[len(history)-1]
				if step != (wechatsim.Step{Step: "echostr", OK: row.why == "", Why: row.why}) || e.Kind != wechatsim.EntryVerify || e.Outcome != row.outcome || e.Text != row.why || e.Authorizer != row.authorizer {
					t.Errorf("%+v, recorded %+v", step, e)
				}
				if _, err := w.p.VerifyURL(t.Context(), "wx0", ""); err == nil {
					t.Error("an unknown component was asked")
				}
				time.Sleep(5 * time.Second) // the slow receiver ends
			})
		})
	}
}
