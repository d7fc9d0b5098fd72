package wechat_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/internal/wechat"
)

// addDocuments seeds a target with the published documents and with some of our own.
func addDocuments(f *testing.F) {
	f.Helper()
	for _, v := range vectors(f) {
		f.Add([]byte(v.Plain))
		f.Add([]byte(v.Body))
	}
	for _, doc := range []string{
		pushHead + "<InfoType>notify_third_fasteregister</InfoType><appid>wx3</appid><status>0</status><auth_code>c</auth_code></xml>",
		pushHead + "<InfoType>authorized</InfoType><AuthorizerAppid>wx2</AuthorizerAppid><AuthorizationCode>a</AuthorizationCode><AuthorizationCodeExpiredTime>600</AuthorizationCodeExpiredTime></xml>",
		`{"AppId":"wx1","CreateTime":1413192760,"InfoType":"component_verify_ticket","ComponentVerifyTicket":"ticket@@@abc"}`,
		`{"Encrypt":"QUJD","ToUserName":"gh_1"}`, "<xml><MsgType>event</MsgType><Event>a</Event></xml>",
		"<!DOCTYPE xml><xml></xml>", "\uFEFF<xml/>", "",
	} {
		f.Add([]byte(doc))
	}
}

// wantRefusal fails unless err is a *Refusal.
func wantRefusal(t *testing.T, err error) {
	t.Helper()
	var refusal *wechat.Refusal
	if !errors.As(err, &refusal) || refusal.Reason == "" || refusal.Detail == "" {
		t.Fatalf("%v is not a refusal with reason and detail", err)
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("signature=x&timestamp=1413192605&nonce=1320562132&openid=o&encrypt_type=aes&msg_signature=" + goodSignature)
	f.Add("timestamp=1714036504&nonce=1514711492&echostr=4375120948345356249&&a")
	f.Add("timestamp=1&timestamp=2;%zz&nonce[]=x+%00")
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := wechat.ParseQuery(raw)
		if err != nil {
			wantRefusal(t, err)
			return
		}
		values, err := url.ParseQuery(raw)
		if err != nil {
			t.Fatalf("accepted, but net/url says %v", err)
		}
		for name, list := range values {
			if len(list) != 1 {
				t.Errorf("%q stands %d times", name, len(list))
			}
		}
		want := wechat.Query{
			Timestamp: values.Get("timestamp"), Nonce: values.Get("nonce"), MsgSignature: values.Get("msg_signature"),
			Signature: values.Get("signature"), EchoStr: values.Get("echostr"),
		}
		if q != want {
			t.Errorf("got %+v, net/url reads %+v", q, want)
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	addDocuments(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := wechat.ParseEnvelope(body)
		if err != nil {
			wantRefusal(t, err)
			return
		}
		if len(e.Encrypt) == 0 || bytes.ContainsAny(e.Encrypt, "<> \t\r\n") && !e.JSON || !bytes.Contains(body, []byte("Encrypt")) && !e.JSON {
			t.Errorf("accepted with Encrypt %q", e.Encrypt)
		}
	})
}

// FuzzOpen signs and encrypts whatever it is given, because nothing else gets behind the signature,
// and compares with a plain reading of the page "Technical_Plan".
func FuzzOpen(f *testing.F) {
	for _, v := range vectors(f) {
		if v.AESKey == testAESKey {
			raw, err := base64.StdEncoding.DecodeString(v.Encrypt)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw)
		}
	}
	f.Add(layout(11, "<xml></xml>"+testAppID, 15, 15))
	f.Add(layout(0xFFFFFFFF, testAppID, 26, 26))
	f.Add(bytes.Repeat([]byte{32}, 64))
	c := testCrypter(f)
	f.Fuzz(func(t *testing.T, plain []byte) {
		plain = plain[:len(plain)/16*16]
		sealed := encrypt(t, testAESKey, plain)
		opened, err := c.Open(signed(testToken, sealed), []byte(sealed))
		want, ok := readPlain(plain)
		if (err == nil) != ok || !bytes.Equal(opened.Text, want) {
			t.Fatalf("got %q, %v; the page says %q, %v", opened.Text, err, want, ok)
		}
		if err != nil {
			wantRefusal(t, err)
		}
		if _, err := c.Open(signed("spamtest", sealed), []byte(sealed)); err == nil {
			t.Error("accepted without our token")
		}
	})
}

// readPlain takes a plaintext apart as the page describes it, with no thought of time.
func readPlain(plain []byte) (text []byte, ok bool) {
	if len(plain) == 0 || len(plain)%32 != 0 {
		return nil, false
	}
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > 32 || !bytes.HasSuffix(plain, bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, false
	}
	plain = plain[:len(plain)-pad]
	if len(plain) < 20 {
		return nil, false
	}
	length := int64(binary.BigEndian.Uint32(plain[16:20]))
	if length == 0 || length > int64(len(plain)-20) || string(plain[20+length:]) != testAppID {
		return nil, false
	}
	return plain[20 : 20+length], true
}

func FuzzPush(f *testing.F) {
	addDocuments(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := wechat.ParsePush(text)
		if err != nil {
			wantRefusal(t, err)
			return
		}
		for _, part := range []string{p.AppID, p.AuthorizerAppID} {
			if len(part) > 64 || strings.ContainsAny(part, ".*> \t\r\n/") {
				t.Errorf("%q can't stand in a subject", part)
			}
		}
		if strings.ContainsAny(p.Ticket+p.Code+p.PreAuthCode, " \r\n\x00") {
			t.Error("a secret with white space")
		}
		if p.Lacks == "" && (p.InfoType == wechat.InfoTicket && p.Ticket == "" || p.InfoType == wechat.InfoAuthorized && p.Code == "") {
			t.Error("a field is missing, and nothing said")
		}
		if p.Lacks != "" && len(p.Odd) == 0 {
			t.Error("nothing odd, and something lacks")
		}
		again, err := wechat.ParsePush(bytes.Clone(text))
		if err != nil || again.ID() != p.ID() {
			t.Error("the same document is read in two ways")
		}
	})
}

func FuzzMessage(f *testing.F) {
	addDocuments(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := wechat.ParseMessage(text)
		if err != nil {
			wantRefusal(t, err)
			return
		}
		if m.MsgType == "" && len(m.Odd) == 0 || m.MsgType != "event" && m.Event != "" {
			t.Errorf("MsgType %q and Event %q, with nothing odd", m.MsgType, m.Event)
		}
	})
}

// FuzzRedact puts a secret into the document it is given, wherever the marker stands.
func FuzzRedact(f *testing.F) {
	const marker, secret = "@here@", "SEKRET-ticket@@@value"
	for _, doc := range []string{
		"<xml><ComponentVerifyTicket>@here@</ComponentVerifyTicket><a>1</a></xml>",
		"<xml><AuthorizationCode><![CDATA[@here@]]></AuthorizationCode><PreAuthCode>a<![CDATA[@here@]]></PreAuthCode></xml>",
		"<xml><info><auth_code><x>@here@</x></auth_code></info></xml>",
		`{"ComponentVerifyTicket":"@here@","a":{"auth_code":["@here@",{"b":"@here@"}]}}`,
		"\uFEFF<?xml version=\"1.0\"?><xml><auth_code>&lt;@here@\r\n</auth_code></xml>",
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		doc = bytes.ReplaceAll(doc, []byte(marker), []byte(secret))
		redacted := wechat.Redact(doc)
		if redacted == nil {
			return
		}
		if bytes.Contains(redacted, []byte(secret)) {
			t.Fatalf("%q: the secret is still there: %q", doc, redacted)
		}
		if again := wechat.Redact(redacted); !bytes.Equal(again, redacted) {
			t.Fatalf("%q: redacting twice changes it: %q", redacted, again)
		}
	})
}

// FuzzAPIAnswer lets a server answer anything.
func FuzzAPIAnswer(f *testing.F) {
	for _, body := range []string{
		`{"component_access_token":"t","expires_in":7200}`, `{"authorizer_access_token":"t","expires_in":"7200","authorizer_refresh_token":"r"}`,
		`{"authorization_info":{"authorizer_appid":"wx2","authorizer_access_token":"t","expires_in":7200,"authorizer_refresh_token":"r","func_info":[{"funcscope_category":{"id":"1"}}]}}`,
		`{"authorizer_info":{"nick_name":"n"},"authorization_info":{"authorizer_appid":"wx2","func_info":[]}}`,
		`{"total_count":1,"list":[{"authorizer_appid":"wx2","refresh_token":"r","auth_time":1558000607}]}`,
		`{"errcode":0,"errmsg":"in a normal state"}`, `{"pre_auth_code":"p","expires_in":600}`,
		`{"errcode":"40001","errmsg":"invalid credential SEKRET-sent rid: 5f3b-1"}`, `<html></html>`, `null`, `[]`, ``, `{"expires_in":1e400}`,
	} {
		f.Add(200, []byte(body))
		f.Add(502, []byte(body))
	}
	type answer struct {
		status int
		body   []byte
	}
	var next atomic.Pointer[answer]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a := next.Load()
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body)
	}))
	f.Cleanup(server.Close)
	c, err := wechat.NewClient(wechat.ClientConfig{BaseURL: server.URL})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.CloseIdle)
	const sent = "SEKRET-sent"
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 || status == http.StatusNoContent || status == http.StatusNotModified {
			status = 200
		}
		next.Store(&answer{status, body})
		check := func(err error) bool {
			t.Helper()
			if err == nil {
				return true
			}
			var e *wechat.Error
			if !errors.As(err, &e) || e.API == "" {
				t.Fatalf("%v is not an *Error", err)
			}
			if len(e.Message) > 200 || strings.Contains(err.Error(), sent) || strings.ContainsAny(err.Error(), "\r\n\x00") {
				t.Fatalf("%q may not be logged", err)
			}
			return false
		}
		checkGrant := func(g wechat.Grant) {
			t.Helper()
			if g.AccessToken == "" || strings.ContainsAny(g.AccessToken+g.RefreshToken, " \r\n\x00") || g.ExpiresIn < 10*time.Second || g.ExpiresIn > 30*24*time.Hour {
				t.Fatalf("accepted a token of %d bytes that lives %v", len(g.AccessToken), g.ExpiresIn)
			}
		}
		ctx := t.Context()
		if g, err := c.ComponentToken(ctx, "wx1", sent, sent); check(err) {
			checkGrant(g)
		}
		if a, err := c.QueryAuth(ctx, sent, "wx1", sent); check(err) && a.AccessToken != "" {
			checkGrant(wechat.Grant{AccessToken: a.AccessToken, RefreshToken: a.RefreshToken, ExpiresIn: a.ExpiresIn})
		}
		if g, err := c.AuthorizerToken(ctx, sent, "wx1", "wx2", sent); check(err) {
			checkGrant(g)
		}
		if info, err := c.AuthorizerInfo(ctx, sent, "wx1", "wx2"); check(err) && len(info.Profile) == 0 && info.RefreshToken == "" {
			t.Fatal("accepted without a profile and a refresh token")
		}
		if page, err := c.AuthorizerList(ctx, sent, "wx1", 0, 500); check(err) {
			for _, listed := range page.List {
				if listed.AppID == "" {
					t.Fatal("accepted an account without an appid")
				}
			}
		}
		_, err := c.StartPushTicket(ctx, "wx1", sent)
		check(err)
		_, err = c.CreatePreAuthCode(ctx, sent, "wx1")
		check(err)
	})
}
