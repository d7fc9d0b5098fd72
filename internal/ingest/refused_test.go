package ingest_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"wxtoken/internal/ingest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/wechat"
)

// sealRaw encrypts plain as it stands, padding included, and signs it: what only a sender with our
// token and key could send.
func sealRaw(t *testing.T, plain []byte) *call {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(aesKey + "=")
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	sealed := make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, key[:aes.BlockSize]).CryptBlocks(sealed, plain)
	return signed(t, base64.StdEncoding.EncodeToString(sealed))
}

// signed puts encrypt into a push with a right msg_signature.
func signed(t *testing.T, encrypt string) *call {
	t.Helper()
	c := componentPush(t, authPath, ticketEvent())
	values := []string{token, c.query.Get("timestamp"), c.query.Get("nonce"), encrypt}
	slices.Sort(values)
	sum := sha1.Sum([]byte(strings.Join(values, "")))
	c.query.Set("msg_signature", hex.EncodeToString(sum[:]))
	c.body = []byte("<xml><AppId>" + component + "</AppId><Encrypt>" + encrypt + "</Encrypt></xml>")
	return c
}

// plain lays out what is encrypted: 16 bytes, length, text, appid, padding.
func plain(length uint32, text, appid string, pad []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte("0123456789abcdef"), length)
	return append(append(append(b, text...), appid...), pad...)
}

// padded is plain with the right length and padding.
func padded(text, appid string) []byte {
	b := plain(uint32(len(text)), text, appid, nil)
	n := 32 - len(b)%32
	return append(b, bytes.Repeat([]byte{byte(n)}, n)...)
}

// encryptOf returns what stands in the Encrypt of a body that pushed made.
func encryptOf(body string) string {
	_, rest, _ := strings.Cut(body, "<Encrypt><![CDATA[")
	encrypt, _, _ := strings.Cut(rest, "]]>")
	return encrypt
}

// TestRefused sends what is not a push, and looks that nothing is published, that there is one
// clean log line, and that the answer tells no more than it should.
func TestRefused(t *testing.T) {
	t.Parallel()
	good := ticketEvent()
	// set is a push with one parameter of the query changed.
	set := func(name, value string) *call {
		c := componentPush(t, authPath, good)
		c.query.Set(name, value)
		return c
	}
	without := func(name string) *call {
		c := componentPush(t, authPath, good)
		c.query.Del(name)
		return c
	}
	// raw is a push with something added to its query.
	raw := func(more string) *call {
		c := componentPush(t, authPath, good)
		c.raw = c.query.Encode() + more
		return c
	}
	noQuery := raw("")
	noQuery.raw = "x=1"
	swapped := set("timestamp", "1590219412")
	swapped.query.Set("nonce", strconv.FormatInt(now.Unix(), 10)+"_")
	threeValues := without("msg_signature")
	threeValues.query.Set("signature", signature3(token, threeValues.query.Get("timestamp"), threeValues.query.Get("nonce")))
	body := func(text string) *call {
		c := componentPush(t, authPath, good)
		c.body = []byte(text)
		return c
	}
	// around is a push whose body is written around its Encrypt.
	around := func(before, after string) *call {
		c := componentPush(t, authPath, good)
		c.body = []byte(before + encryptOf(string(c.body)) + after)
		return c
	}
	at := func(path string) *call { return componentPush(t, path, good) }
	method := func(name, path string) *call {
		c := componentPush(t, path, good)
		c.method = name
		return c
	}
	inner := func(text string) *call { return componentPush(t, authPath, text) }
	field := func(old, new string) *call { return inner(strings.Replace(good, old, new, 1)) }
	headed := func(name string, values ...string) *call {
		c := componentPush(t, authPath, good)
		c.header[name] = values
		return c
	}
	get := func(query string) *call {
		return &call{method: http.MethodGet, path: msgPath, raw: query}
	}
	otherKey := wechat.Keys{AppID: component, Tokens: []string{token}, AESKeys: []string{strings.Repeat("A", 43)}}
	otherToken := wechat.Keys{AppID: component, Tokens: []string{"SEKRETother"}, AESKeys: []string{aesKey}}
	otherApp := wechat.Keys{AppID: "wxother", Tokens: []string{token}, AESKeys: []string{aesKey}}
	sig40 := strings.Repeat("a", 40)
	utf16Body := "\xff\xfe"
	for _, unit := range utf16.Encode([]rune("<xml><Encrypt>AAAA</Encrypt></xml>")) {
		utf16Body += string([]byte{byte(unit), byte(unit >> 8)})
	}
	const laughs = `<!DOCTYPE xml [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><xml><Encrypt>&b;</Encrypt></xml>`
	const xxe = `<!DOCTYPE xml [<!ENTITY x SYSTEM "file:///etc/passwd">]><xml><Encrypt>&x;</Encrypt></xml>`
	rows := []struct {
		name   string
		call   *call
		status int
		reason string
	}{
		// method and path
		{"GET on the authorization event URL", method("GET", authPath), 405, "method"},
		{"PUT on the authorization event URL", method("PUT", authPath), 405, "method"},
		{"HEAD on the authorization event URL", method("HEAD", authPath), 405, "method"},
		{"OPTIONS on the authorization event URL", method("OPTIONS", authPath), 405, "method"},
		{"PUT on the message URL", method("PUT", msgPath), 405, "method"},
		{"HEAD on the message URL", method("HEAD", msgPath), 405, "method"},
		{"root", at("/"), 404, "path"},
		{"unknown path", at("/wechat/" + component + "/other"), 404, "path"},
		{"longer path", at(authPath + "/x"), 404, "path"},
		{"slash at the end", at(authPath + "/"), 404, "path"},
		{"unknown component", at("/wechat/wxunknown/auth"), 404, "path"},
		{"component in another case", at(strings.ToUpper(authPath)), 404, "path"},
		{"path upwards", at("/../../etc/passwd"), 404, "path"},
		{"path upwards inside", at("/wechat/x/../" + component + "/auth"), 404, "path"},
		{"two slashes", at("//wechat//" + component + "/auth"), 404, "path"},
		{"encoded slash", at("/wechat%2f" + component + "/auth"), 404, "path"},
		{"encoded letter", at("/wechat/" + component + "/%61uth"), 404, "path"},
		{"no appid", at("/wechat/" + component + "/message/"), 404, "path"},
		{"dots for an appid", at("/wechat/" + component + "/message/.."), 404, "path"},
		{"star for an appid", at("/wechat/" + component + "/message/*"), 400, "appid_syntax"},
		{"dot in an appid", at("/wechat/" + component + "/message/a.b"), 400, "appid_syntax"},
		{"the literal of the console for an appid", at("/wechat/" + component + "/message/$APPID$"), 400, "appid_syntax"},
		{"long appid", at("/wechat/" + component + "/message/" + strings.Repeat("a", 65)), 400, "appid_syntax"},

		// headers and size
		{"gzip", headed("Content-Encoding", "gzip"), 415, "encoding"},
		{"gzip after identity", headed("Content-Encoding", "identity", "gzip"), 415, "encoding"},
		{"one byte too many", body(strings.Repeat(" ", 64<<10+1)), 413, "too_large"},

		// query
		{"no query", noQuery, 400, "ts_syntax"},
		{"bad percent", raw("&x=%zz"), 400, "query"},
		{"semicolon", raw("&x=1;y=2"), 400, "query"},
		{"timestamp twice", raw("&timestamp=1715943329"), 400, "query_dup"},
		{"unknown parameter twice", raw("&x=1&x=2"), 400, "query_dup"},
		{"nonce as an array", raw("&nonce[]=x"), 400, "query_dup"},
		{"no timestamp", without("timestamp"), 400, "ts_syntax"},
		{"9 digits", set("timestamp", "171594332"), 400, "ts_syntax"},
		{"11 digits", set("timestamp", "17159433299"), 400, "ts_syntax"},
		{"negative timestamp", set("timestamp", "-171594332"), 400, "ts_syntax"},
		{"timestamp as a float", set("timestamp", "1e9"), 400, "ts_syntax"},
		{"full-width digits", set("timestamp", "１７１５９４３３２９"), 400, "ts_syntax"},
		{"space before the timestamp", set("timestamp", " 1715943329"), 400, "ts_syntax"},
		{"timestamp and nonce changed places", swapped, 400, "nonce_syntax"},
		{"no nonce", without("nonce"), 400, "nonce_syntax"},
		{"33 characters of nonce", set("nonce", strings.Repeat("1", 33)), 400, "nonce_syntax"},
		{"control byte in the nonce", set("nonce", "12\x0134"), 400, "nonce_syntax"},
		{"NUL in the nonce", set("nonce", "12\x00"), 400, "nonce_syntax"},
		{"SQL in the nonce", set("nonce", "1' OR '1'='1"), 400, "nonce_syntax"},
		{"no msg_signature", without("msg_signature"), 400, "sig_syntax"},
		{"empty msg_signature", set("msg_signature", ""), 400, "sig_syntax"},
		{"39 digits", set("msg_signature", sig40[1:]), 400, "sig_syntax"},
		{"41 digits", set("msg_signature", sig40+"a"), 400, "sig_syntax"},
		{"upper case", set("msg_signature", strings.ToUpper(sig40)), 400, "sig_syntax"},
		{"msg_signature not ASCII", set("msg_signature", sig40[2:]+"é"), 400, "sig_syntax"},
		{"NUL in msg_signature", set("msg_signature", sig40[1:]+"\x00"), 400, "sig_syntax"},
		{"right three-value signature alone", threeValues, 400, "sig_syntax"},

		// envelope
		{"empty body", body(""), 400, "empty"},
		{"blank body", body(" \n"), 400, "empty"},
		{"event in the clear", body(good), 400, "no_encrypt"},
		{"event in the clear in JSON", body(`{"AppId":"` + component + `","InfoType":"unauthorized"}`), 400, "no_encrypt"},
		{"empty Encrypt", body("<xml><Encrypt></Encrypt></xml>"), 400, "no_encrypt"},
		{"lower-case encrypt", around("<xml><encrypt>", "</encrypt></xml>"), 400, "no_encrypt"},
		{"wrong root", around("<html><Encrypt>", "</Encrypt></html>"), 400, "xml"},
		{"a form", body("Encrypt=AAAA"), 400, "xml"},
		{"multipart", body("--x\r\nContent-Disposition: form-data; name=\"Encrypt\"\r\n\r\nAAAA\r\n--x--"), 400, "xml"},
		{"JSON with Encrypt twice", around(`{"Encrypt":"`, `","Encrypt":"AAAA"}`), 400, "json"},
		{"JSON and more", around(`{"Encrypt":"`, `"} {}`), 400, "json"},
		{"JSON list", around(`[{"Encrypt":"`, `"}]`), 400, "xml"},
		{"billion laughs", body(laughs), 400, "xml"},
		{"external entity", body(xxe), 400, "xml"},
		{"DOCTYPE", around("<!DOCTYPE xml><xml><Encrypt>", "</Encrypt></xml>"), 400, "xml"},
		{"processing instruction", around("<?php x?><xml><Encrypt>", "</Encrypt></xml>"), 400, "xml"},
		{"two Encrypts", around("<xml><Encrypt>AAAA</Encrypt><Encrypt>", "</Encrypt></xml>"), 400, "xml_shape"},
		{"Encrypt inside another element", around("<xml><a><Encrypt>", "</Encrypt></a></xml>"), 400, "xml_shape"},
		{"Encrypt split by an element", around("<xml><Encrypt>AAAA<a/>", "</Encrypt></xml>"), 400, "xml_shape"},
		{"Encrypt split by CDATA", around("<xml><Encrypt>AAAA<![CDATA[", "]]></Encrypt></xml>"), 400, "xml_shape"},
		{"second root", around("<xml><Encrypt>", "</Encrypt></xml><xml></xml>"), 400, "xml_shape"},
		{"text after the root", around("<xml><Encrypt>", "</Encrypt></xml>x"), 400, "xml_shape"},
		{"depth 10,000", body("<xml>" + strings.Repeat("<a>", 10_000)), 400, "xml_shape"},
		{"very many attributes", body("<xml " + strings.Repeat(`a="" `, 12_000) + "></xml>"), 400, "xml"},
		{"very long name", body("<" + strings.Repeat("a", 60_000) + ">"), 400, "xml"},
		{"GBK", body("<?xml version=\"1.0\" encoding=\"GBK\"?><xml><Encrypt>AAAA</Encrypt></xml>"), 400, "xml"},
		{"GBK bytes", body("<xml><Encrypt>AAAA</Encrypt><n>\xd6\xd0\xce\xc4</n></xml>"), 403, "signature"},
		{"UTF-16", body(utf16Body), 400, "xml"},
		{"UTF-7", body("+ADw-xml+AD4-"), 400, "xml"},
		{"NUL", body("<xml><Encrypt>AA\x00AA</Encrypt></xml>"), 400, "xml"},
		{"lone surrogate", body("<xml><Encrypt>&#xD800;</Encrypt></xml>"), 400, "xml"},

		// signature
		{"wrong msg_signature", set("msg_signature", sig40), 403, "signature"},
		{"signed with another token", push(t, authPath, otherToken, good), 403, "signature"},
		{"another body", around("<xml><Encrypt>AAAA", "</Encrypt></xml>"), 403, "signature"},
		{"one character changed", body(flip(string(componentPush(t, authPath, good).body))), 403, "signature"},
		{"another timestamp", set("timestamp", "1715943330"), 403, "signature"},

		// cipher
		{"not base64", signed(t, "!!!!"), 403, "decrypt"},
		{"URL alphabet", signed(t, strings.Repeat("-_", 32)), 403, "decrypt"},
		{"signed with a line break in the base64", signed(t, strings.Repeat("A", 22)+"\n"+strings.Repeat("A", 21)+"="), 403, "signature"},
		{"base64 without its end", signed(t, strings.Repeat("A", 43)), 403, "decrypt"},
		{"16 bytes", sealRaw(t, make([]byte, 16)), 403, "decrypt"},
		{"48 bytes", sealRaw(t, make([]byte, 48)), 403, "decrypt"},
		{"another key", push(t, authPath, otherKey, good), 403, "decrypt"},
		{"padding 0", sealRaw(t, plain(1, "x", component, make([]byte, 25))), 403, "decrypt"},
		{"padding 33", sealRaw(t, plain(1, "x", component, bytes.Repeat([]byte{33}, 25))), 403, "decrypt"},
		{"uneven padding", sealRaw(t, plain(1, "x", component, append(make([]byte, 24), 25))), 403, "decrypt"},
		{"length 0", sealRaw(t, plain(0, "x", component, bytes.Repeat([]byte{25}, 25))), 403, "decrypt"},
		{"length beyond everything", sealRaw(t, plain(0xFFFFFFFF, "x", component, bytes.Repeat([]byte{25}, 25))), 403, "decrypt"},
		{"length beyond the end", sealRaw(t, plain(20, "x", component, bytes.Repeat([]byte{25}, 25))), 403, "decrypt"},
		{"length up to the end", sealRaw(t, plain(19, "x", component, bytes.Repeat([]byte{25}, 25))), 403, "appid"},
		{"for another appid", push(t, authPath, otherApp, good), 403, "appid"},
		{"no appid at the end", sealRaw(t, padded(good, "")), 403, "appid"},
		{"appid and more", sealRaw(t, padded(good, component+"0")), 403, "appid"},
		{"half the appid", sealRaw(t, padded(good, component[:9])), 403, "appid"},

		// document
		{"AppId of another component", field(component, "wx0123456789abcdee"), 403, "appid"},
		{"billion laughs inside", inner(laughs), 403, "xml"},
		{"external entity inside", inner(xxe), 403, "xml"},

		// GET with echostr
		{"GET without echostr", get("signature=" + signature3(token, "1714036504", "1514711492") + "&timestamp=1714036504&nonce=1514711492"), 400, "query"},
		{"GET with a wrong signature", get("signature=" + sig40 + "&timestamp=1714036504&nonce=1514711492&echostr=4375120948345356249"), 403, "signature"},
		{"GET without a signature", get("timestamp=1714036504&nonce=1514711492&echostr=4375120948345356249"), 403, "signature"},
		{"GET with nothing", get("x=1"), 400, "ts_syntax"},
		{"GET with echostr twice", get("signature=" + sig40 + "&timestamp=1714036504&nonce=1514711492&echostr=1&echostr=2"), 400, "query_dup"},
	}
	onServer := newRig(t, natsdtest.Start(t))
	t.Run("rows", func(t *testing.T) {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				checkRefused(t, rigOn(t, onServer.js), row.call, row.status, row.reason) // its own log and count of failures
			})
		}
	})
	if got := onServer.stored(t); got != 0 {
		t.Errorf("%d events were published", got)
	}
}

// TestPlainRefused looks at what is refused though messages in plain mode are taken.
func TestPlainRefused(t *testing.T) {
	t.Parallel()
	text := messageOf("text", "<Content>SEKRET</Content>")
	plain := func(edit func(c *call)) *call {
		c := plainCall(msgPath, text)
		edit(c)
		return c
	}
	signature := func(c *call) string { return c.raw[len("signature="):][:40] }
	with := func(token string) string { return signature3(token, "1795348800", "1590219412") }
	withoutEncrypt := componentPush(t, authPath, ticketEvent())
	withoutEncrypt.body = []byte(ticketEvent())
	onAuth := plainCall(authPath, ticketEvent())
	tampered := componentPush(t, msgPath, text)
	tampered.query.Set("signature", with(token))
	tampered.query.Set("msg_signature", strings.Repeat("a", 40))
	rows := []struct {
		name   string
		call   *call
		status int
		reason string
	}{
		{"no signature", plain(func(c *call) { c.raw = strings.Replace(c.raw, "signature="+signature(c)+"&", "", 1) }), 403, "signature"},
		{"empty signature", plain(func(c *call) { c.raw = strings.Replace(c.raw, signature(c), "", 1) }), 403, "signature"},
		{"signed with another token", plain(func(c *call) { c.raw = strings.Replace(c.raw, signature(c), with("SEKRETother"), 1) }), 403, "signature"},
		{"upper case", plain(func(c *call) { c.raw = strings.Replace(c.raw, signature(c), strings.ToUpper(signature(c)), 1) }), 403, "signature"},
		{"signature and more", plain(func(c *call) { c.raw = strings.Replace(c.raw, signature(c), signature(c)+"0", 1) }), 403, "signature"},
		{"another timestamp", plain(func(c *call) { c.raw = strings.Replace(c.raw, "=1795348800", "=1795348801", 1) }), 403, "signature"},
		{"no document", plain(func(c *call) { c.body = []byte("hello") }), 400, "xml"},
		{"DOCTYPE", plain(func(c *call) { c.body = []byte("<!DOCTYPE xml>" + text) }), 400, "xml"},
		{"event on the message URL", plain(func(c *call) { c.body = []byte(ticketEvent()) }), 403, "field"},
		{"one byte too many", plain(func(c *call) { c.body = bytes.Repeat([]byte(" "), 64<<10+1) }), 413, "too_large"},
		{"encrypted, with a wrong msg_signature and a right signature", tampered, 403, "signature"},
		{"authorization event in the clear, with a right signature", onAuth, 400, "no_encrypt"},
		{"authorization event in the clear, with a right msg_signature", withoutEncrypt, 400, "no_encrypt"},
	}
	onServer := newRig(t, natsdtest.Start(t))
	t.Run("rows", func(t *testing.T) {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				r := rigOn(t, onServer.js, func(c *ingest.Config) { c.PlainMessages = true })
				checkRefused(t, r, row.call, row.status, row.reason)
			})
		}
		t.Run("not allowed", func(t *testing.T) {
			t.Parallel()
			checkRefused(t, rigOn(t, onServer.js), plainCall(msgPath, text), 400, "no_encrypt")
		})
		t.Run("not allowed, JSON", func(t *testing.T) {
			t.Parallel()
			checkRefused(t, rigOn(t, onServer.js), plainCall(msgPath, `{"MsgType":"text"}`), 400, "no_encrypt")
		})
	})
	if got := onServer.stored(t); got != 0 {
		t.Errorf("%d events were published", got)
	}
}

func checkRefused(t *testing.T, r *rig, c *call, status int, reason string) {
	t.Helper()
	header := http.Header{"User-Agent": {"agent \"\u2028 " + strings.Repeat("x", 1000)}}
	maps.Copy(header, c.header)
	c.header = header
	got, header, answer := c.send(t, r.serve(t))
	if got != status {
		t.Errorf("answer %d, want %d", got, status)
	}
	if status == http.StatusForbidden && answer != "forbidden" {
		t.Errorf("answer %q, want forbidden", answer)
	}
	if status == http.StatusMethodNotAllowed && header.Get("Allow") == "" {
		t.Error("no header Allow")
	}
	if answer == "success" || strings.Contains(answer, "SEKRET") {
		t.Errorf("answer %q", answer)
	}
	lines := r.log.lines(t)
	if len(lines) != 1 {
		t.Fatalf("%d log lines, want 1: %s", len(lines), r.log)
	}
	line := lines[0]
	if line["msg"] != "push refused" || line["reason"] != reason || line["status"] != float64(status) {
		t.Errorf("logged %v, want reason %s and status %d", line, reason, status)
	}
	if remote, _ := line["remote"].(string); !strings.HasPrefix(remote, "127.0.0.1:") {
		t.Errorf("logged remote %q", remote)
	}
	if agent, _ := line["user_agent"].(string); len(agent) == 0 || len(agent) > 128 {
		t.Errorf("logged %d bytes of User-Agent, want 1 to 128", len(agent))
	}
	if n := r.count(t, "wxtoken_push_rejected_total", reason); n != 1 {
		t.Errorf("counted %v for reason %s, want 1", n, reason)
	}
	for _, hidden := range []string{"SEKRET", "1590219412", c.query.Get("msg_signature"), "echostr=", "<xml>"} {
		if hidden != "" && strings.Contains(r.log.String(), hidden) {
			t.Errorf("the log shows %q: %s", hidden, r.log)
		}
	}
}

// signature3 is the signature of a GET.
func signature3(token, timestamp, nonce string) string {
	values := []string{token, timestamp, nonce}
	slices.Sort(values)
	sum := sha1.Sum([]byte(strings.Join(values, "")))
	return hex.EncodeToString(sum[:])
}

// flip changes one character of the Encrypt in a body.
func flip(body string) string {
	at := strings.Index(body, "CDATA[") + 60
	other := "A"
	if body[at] == 'A' {
		other = "B"
	}
	return body[:at] + other + body[at+1:]
}

// TestTaken sends pushes that look odd and are good.
func TestTaken(t *testing.T) {
	t.Parallel()
	good := ticketEvent()
	edited := func(edit func(c *call)) *call {
		c := componentPush(t, authPath, good)
		edit(c)
		return c
	}
	resplit := edited(func(c *call) {
		// The signature runs its values together, so their border can be moved: here between
		// timestamp and nonce. Sorted they are timestamp, nonce, token, and either may begin
		// anywhere that keeps this order.
		joined := c.query.Get("timestamp") + c.query.Get("nonce")
		c.query.Set("timestamp", joined[:10])
		c.query.Set("nonce", joined[10:])
	})
	rows := []struct {
		name string
		call *call
	}{
		{"as WeChat sends it", edited(func(*call) {})},
		{"no encrypt_type", edited(func(c *call) { c.query.Del("encrypt_type") })},
		{"encrypt_type raw", edited(func(c *call) { c.query.Set("encrypt_type", "raw") })},
		{"encrypt_type AES", edited(func(c *call) { c.query.Set("encrypt_type", "AES") })},
		{"wrong three-value signature", edited(func(c *call) { c.query.Set("signature", "x") })},
		{"openid", edited(func(c *call) { c.query.Set("openid", "o9AgO5Kd5ggOC") })},
		{"timestamp and nonce split as before", resplit},
		{"no Content-Type", edited(func(c *call) { c.header = nil })},
		{"Content-Type image/png", edited(func(c *call) { c.header.Set("Content-Type", "image/png") })},
		{"Content-Encoding identity", edited(func(c *call) { c.header.Set("Content-Encoding", "Identity") })},
		{"X-Forwarded-For", edited(func(c *call) { c.header.Set("X-Forwarded-For", "203.0.113.9, x") })},
		{"byte order mark", edited(func(c *call) { c.body = append([]byte("\uFEFF"), c.body...) })},
		{"XML declaration", edited(func(c *call) { c.body = append([]byte(`<?xml version="1.0" encoding="UTF-8"?>`), c.body...) })},
		{"fields in the clear", edited(func(c *call) {
			c.body = bytes.Replace(c.body, []byte("<xml>"), []byte("<xml><InfoType>unauthorized</InfoType>"), 1)
		})},
		{"JSON envelope", edited(func(c *call) {
			c.body = []byte(`{"AppId":"` + component + `","Encrypt":"` + encryptOf(string(c.body)) + `"}`)
		})},
		{"as large as may be", edited(func(c *call) { c.body = append(c.body, bytes.Repeat([]byte(" "), 64<<10-len(c.body))...) })},
	}
	r := newRig(t, natsdtest.Start(t))
	at := r.serve(t)
	for _, row := range rows {
		if status, _, answer := row.call.send(t, at); status != http.StatusOK || answer != "success" {
			t.Errorf("%s: answer %d %q, want 200 success", row.name, status, answer)
		}
	}
	if got := r.stored(t); got != 1 { // they all say the same
		t.Errorf("%d events, want 1", got)
	}
}
