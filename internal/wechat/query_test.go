package wechat_test

import (
	"strings"
	"testing"

	"wxtoken/internal/wechat"
)

const goodSignature = "b886259c848ed6bc6a21f567fef1776ceecf959d"

func TestParseQuery(t *testing.T) {
	t.Parallel()
	q, err := wechat.ParseQuery("signature=" + goodSignature + "&timestamp=1413192605&nonce=1320562132&openid=o9AgO5Kd5ggOC-bXrbNODIiE3bGY&encrypt_type=aes&msg_signature=" + goodSignature)
	want := wechat.Query{Timestamp: "1413192605", Nonce: "1320562132", MsgSignature: goodSignature, Signature: goodSignature}
	if err != nil || q != want {
		t.Errorf("push: got %+v, %v", q, err)
	}
	q, err = wechat.ParseQuery("signature=x&echostr=4375120948345356249%2b&timestamp=1714036504&nonce=1514711492")
	want = wechat.Query{Timestamp: "1714036504", Nonce: "1514711492", Signature: "x", EchoStr: "4375120948345356249+"}
	if err != nil || q != want {
		t.Errorf("verification by GET: got %+v, %v", q, err)
	}
}

func TestParseQueryRefuses(t *testing.T) {
	t.Parallel()
	const good = "timestamp=1413192605&nonce=1320562132&msg_signature=" + goodSignature
	for name, row := range map[string]struct {
		raw    string
		reason wechat.Reason
	}{
		"nothing":                     {"", wechat.ReasonTimestamp},
		"timestamp missing":           {"nonce=1&msg_signature=" + goodSignature, wechat.ReasonTimestamp},
		"timestamp of 9 digits":       {"timestamp=141319260&nonce=1", wechat.ReasonTimestamp},
		"timestamp of 11 digits":      {"timestamp=14131926050&nonce=1", wechat.ReasonTimestamp},
		"timestamp negative":          {"timestamp=-413192605&nonce=1", wechat.ReasonTimestamp},
		"timestamp 1e9":               {"timestamp=1e9&nonce=1", wechat.ReasonTimestamp},
		"timestamp full-width":        {"timestamp=%EF%BC%91413192605&nonce=1", wechat.ReasonTimestamp},
		"timestamp with a space":      {"timestamp=1413192605+&nonce=1", wechat.ReasonTimestamp},
		"nonce missing":               {"timestamp=1413192605", wechat.ReasonNonce},
		"nonce of 33":                 {"timestamp=1413192605&nonce=" + strings.Repeat("1", 33), wechat.ReasonNonce},
		"nonce with NUL":              {"timestamp=1413192605&nonce=1%00", wechat.ReasonNonce},
		"nonce with SQL":              {"timestamp=1413192605&nonce=1'%20OR%201", wechat.ReasonNonce},
		"msg_signature empty":         {"timestamp=1413192605&nonce=1&msg_signature=", wechat.ReasonSignatureSyntax},
		"msg_signature of 39":         {"timestamp=1413192605&nonce=1&msg_signature=" + goodSignature[1:], wechat.ReasonSignatureSyntax},
		"msg_signature of 41":         {"timestamp=1413192605&nonce=1&msg_signature=a" + goodSignature, wechat.ReasonSignatureSyntax},
		"msg_signature in upper case": {"timestamp=1413192605&nonce=1&msg_signature=" + strings.ToUpper(goodSignature), wechat.ReasonSignatureSyntax},
		"msg_signature not ASCII":     {"timestamp=1413192605&nonce=1&msg_signature=" + goodSignature[:38] + "%C3%A9", wechat.ReasonSignatureSyntax},
		"timestamp twice":             {good + "&timestamp=1413192606", wechat.ReasonQueryDup},
		"same value twice":            {good + "&nonce=1320562132", wechat.ReasonQueryDup},
		"escaped name twice":          {good + "&non%63e=1", wechat.ReasonQueryDup},
		"unknown twice":               {good + "&encrypt_type=aes&encrypt_type=raw", wechat.ReasonQueryDup},
		"array":                       {good + "&nonce[]=x", wechat.ReasonQueryDup},
		"bad escape":                  {good + "&openid=%zz", wechat.ReasonQuery},
		"bad escape in a name":        {good + "&%zz=1", wechat.ReasonQuery},
		"semicolon":                   {good + ";nonce=1", wechat.ReasonQuery},
		"seventeen parameters":        {good + "&a&b&c&d&e&f&g&h&i&j&k&l&m&n", wechat.ReasonQuery},
		"echostr with a line end":     {"timestamp=1413192605&nonce=1&echostr=1%0d%0a", wechat.ReasonQuery},
		"echostr of 1025":             {"timestamp=1413192605&nonce=1&echostr=" + strings.Repeat("1", 1025), wechat.ReasonQuery},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := wechat.ParseQuery(row.raw)
			wantReason(t, err, row.reason)
		})
	}
}

func TestCheckSignatureRefuses(t *testing.T) {
	t.Parallel()
	v := vectorNamed(t, "official-get-echostr")
	c := v.crypter(t)
	if !c.CheckSignature(v.query()) {
		t.Fatal("refuses the published signature")
	}
	for name, change := range map[string]func(*wechat.Query){
		"none":            func(q *wechat.Query) { q.Signature = "" },
		"upper case":      func(q *wechat.Query) { q.Signature = strings.ToUpper(q.Signature) },
		"other timestamp": func(q *wechat.Query) { q.Timestamp = "1714036505" },
		"other nonce":     func(q *wechat.Query) { q.Nonce += "0" },
	} {
		q := v.query()
		change(&q)
		if c.CheckSignature(q) {
			t.Errorf("%s: accepted", name)
		}
	}
}
