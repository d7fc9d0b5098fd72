package wechat_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"wxtoken/client/message"
	"wxtoken/internal/wechat"
)

const (
	testAppID  = "wxb11529c136998cb6"
	testToken  = "pamtest"
	testAESKey = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
	otherKey   = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
	testTime   = "1413192605"
	testNonce  = "1320562132"
)

// vector is one of the published examples in testdata/vectors.json.
type vector struct {
	Name, Kind, Token, AppID, Timestamp, Nonce, Signature, Encrypt, Random, Plain, Body, EchoStr string

	AESKey               string `json:"encoding_aes_key"`
	MsgSignature         string `json:"msg_signature"`
	MsgSignatureComputed string `json:"msg_signature_computed"`
	EnvelopeFormat       string `json:"envelope_format"`
}

func vectors(tb testing.TB) []vector {
	tb.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		tb.Fatal(err)
	}
	if len(all) != 18 {
		tb.Fatalf("got %d vectors, want 18", len(all))
	}
	return all
}

func vectorNamed(tb testing.TB, name string) vector {
	tb.Helper()
	all := vectors(tb)
	i := slices.IndexFunc(all, func(v vector) bool { return v.Name == name })
	if i < 0 {
		tb.Fatalf("no vector %s", name)
	}
	return all[i]
}

func (v vector) crypter(tb testing.TB) *wechat.Crypter {
	tb.Helper()
	keys := wechat.Keys{AppID: v.AppID, Tokens: []string{v.Token}, AESKeys: []string{v.AESKey}}
	if keys.AppID == "" { // a signature alone needs neither appid nor key
		keys.AppID = testAppID
	}
	if v.AESKey == "" {
		keys.AESKeys = []string{testAESKey}
	}
	return newCrypter(tb, keys)
}

func newCrypter(tb testing.TB, keys wechat.Keys) *wechat.Crypter {
	tb.Helper()
	c, err := wechat.NewCrypter(keys)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func testCrypter(tb testing.TB) *wechat.Crypter {
	tb.Helper()
	return newCrypter(tb, wechat.Keys{AppID: testAppID, Tokens: []string{testToken}, AESKeys: []string{testAESKey}})
}

func (v vector) query() wechat.Query {
	return wechat.Query{Timestamp: v.Timestamp, Nonce: v.Nonce, MsgSignature: v.MsgSignature, Signature: v.Signature, EchoStr: v.EchoStr}
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			c := v.crypter(t)
			if v.Signature != "" && !c.CheckSignature(v.query()) {
				t.Error("CheckSignature refuses the published signature")
			}
			if v.MsgSignature == "" {
				v.MsgSignature = v.MsgSignatureComputed
			}
			switch v.Kind {
			case "url-verify-plain", "plain-signature":
				if v.Signature == "" {
					t.Error("the vector has no signature")
				}
				return
			case "signature-only": // its key was not published: verified, but not decrypted
				_, err := c.Open(v.query(), []byte(v.Encrypt))
				wantReason(t, err, wechat.ReasonDecrypt)
				return
			}
			opened, err := c.Open(v.query(), []byte(v.Encrypt))
			if err != nil {
				t.Fatal(err)
			}
			if string(opened.Text) != v.Plain {
				t.Errorf("got text %q, want %q", opened.Text, v.Plain)
			}
			c.SetPrefix(v.Random)
			reply, err := c.Answer(wechat.Opened{}, v.Timestamp, v.Nonce, []byte(v.Plain))
			if err != nil {
				t.Fatal(err)
			}
			want := wechat.Reply{Encrypt: v.Encrypt, MsgSignature: v.MsgSignature, Timestamp: v.Timestamp, Nonce: v.Nonce}
			if reply != want {
				t.Errorf("got reply %+v, want %+v", reply, want)
			}
			for _, doc := range [][]byte{reply.XML(), reply.JSON(), []byte(v.Body)} {
				if len(doc) == 0 {
					continue
				}
				envelope, err := wechat.ParseEnvelope(doc)
				if err != nil || string(envelope.Encrypt) != v.Encrypt {
					t.Errorf("envelope %.40q: %v", doc, err)
				}
			}
			switch {
			case v.Body != "": // made for the authorization event URL
				push, err := wechat.ParsePush(opened.Text)
				if err != nil || push.AppID != v.AppID {
					t.Errorf("push of %q: %v", push.AppID, err)
				}
			case v.EnvelopeFormat != "" && strings.Contains(v.Plain, "MsgType"):
				message, err := wechat.ParseMessage(opened.Text)
				if err != nil || message.MsgType == "" || message.CreateTime.IsZero() {
					t.Errorf("message of %q: %v", message.FromUserName, err)
				}
			}
		})
	}
}

func wantReason(t *testing.T, err error, want wechat.Reason) {
	t.Helper()
	var refusal *wechat.Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("got %v, want a refusal for %s", err, want)
	}
	if refusal.Reason != want {
		t.Errorf("got %v, want reason %s", err, want)
	}
}

// encrypt is AES-256-CBC as the pages describe it, written apart from the package under test.
func encrypt(tb testing.TB, encodingAESKey string, plain []byte) string {
	tb.Helper()
	key, err := base64.StdEncoding.DecodeString(encodingAESKey + "=")
	if err != nil {
		tb.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	sealed := make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, key[:16]).CryptBlocks(sealed, plain)
	return base64.StdEncoding.EncodeToString(sealed)
}

// signed returns a query with the right msg_signature, written apart from the package under test.
func signed(token, encrypt string) wechat.Query {
	parts := []string{token, testTime, testNonce, encrypt}
	slices.Sort(parts)
	sum := sha1.Sum([]byte(strings.Join(parts, "")))
	return wechat.Query{Timestamp: testTime, Nonce: testNonce, MsgSignature: hex.EncodeToString(sum[:])}
}

// layout puts a plaintext together: prefix, length field, text with appid, and padding that ends in
// last.
func layout(length uint32, rest string, pad int, last byte) []byte {
	plain := append([]byte("aaaabbbbccccdddd"), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(plain[16:], length)
	plain = append(plain, rest...)
	return append(plain, bytes.Repeat([]byte{last}, pad)...)
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	c := testCrypter(t)
	text := "<xml></xml>" // 20 + 11 + 18 bytes, so the padding is 15
	good := layout(11, text+testAppID, 15, 15)
	wrongInside := slices.Clone(good)
	wrongInside[len(wrongInside)-15] = 14
	sealed := encrypt(t, testAESKey, good)
	if _, err := c.Open(signed(testToken, sealed), []byte(sealed)); err != nil {
		t.Fatalf("the pattern of all rows: %v", err)
	}
	flipped := []byte(sealed)
	flipped[20] ^= 1
	raw, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		t.Fatal(err)
	}

	for name, row := range map[string]struct {
		encrypt string
		query   wechat.Query // zero: rightly signed
		reason  wechat.Reason
	}{
		"no signature":             {sealed, wechat.Query{Timestamp: testTime, Nonce: testNonce}, wechat.ReasonSignatureSyntax},
		"signature in upper case":  {sealed, upperSignature(signed(testToken, sealed)), wechat.ReasonSignatureSyntax},
		"three-value signature":    {sealed, signed(testToken, ""), wechat.ReasonSignature},
		"other token":              {sealed, signed("spamtest", sealed), wechat.ReasonSignature},
		"other body":               {sealed, signed(testToken, sealed+"AAAA"), wechat.ReasonSignature},
		"one character changed":    {string(flipped), signed(testToken, sealed), wechat.ReasonSignature},
		"nothing":                  {"", signed(testToken, ""), wechat.ReasonNoEncrypt},
		"not base64":               {"*" + sealed[1:], wechat.Query{}, wechat.ReasonDecrypt},
		"URL alphabet":             {base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{0xFB}, 32)), wechat.Query{}, wechat.ReasonDecrypt},
		"line break":               {sealed[:40] + "\n" + sealed[40:], wechat.Query{}, wechat.ReasonDecrypt},
		"padding sign missing":     {strings.TrimRight(sealed, "="), wechat.Query{}, wechat.ReasonDecrypt},
		"spare bits":               {spareBits(sealed), wechat.Query{}, wechat.ReasonDecrypt},
		"no bytes":                 {"====", wechat.Query{}, wechat.ReasonDecrypt},
		"16 bytes":                 {base64.StdEncoding.EncodeToString(raw[:16]), wechat.Query{}, wechat.ReasonDecrypt},
		"48 bytes":                 {base64.StdEncoding.EncodeToString(raw[:48]), wechat.Query{}, wechat.ReasonDecrypt},
		"33 bytes":                 {base64.StdEncoding.EncodeToString(raw[:33]), wechat.Query{}, wechat.ReasonDecrypt},
		"other key":                {encrypt(t, otherKey, good), wechat.Query{}, wechat.ReasonDecrypt},
		"padding 0":                {encrypt(t, testAESKey, layout(11, text+testAppID, 15, 0)), wechat.Query{}, wechat.ReasonDecrypt},
		"padding 33":               {encrypt(t, testAESKey, layout(11, text+testAppID, 15, 33)), wechat.Query{}, wechat.ReasonDecrypt},
		"padding 255":              {encrypt(t, testAESKey, layout(11, text+testAppID, 15, 255)), wechat.Query{}, wechat.ReasonDecrypt},
		"padding of unlike bytes":  {encrypt(t, testAESKey, wrongInside), wechat.Query{}, wechat.ReasonDecrypt},
		"padding into the head":    {encrypt(t, testAESKey, bytes.Repeat([]byte{32}, 32)), wechat.Query{}, wechat.ReasonDecrypt},
		"length 0":                 {encrypt(t, testAESKey, layout(0, text+testAppID, 15, 15)), wechat.Query{}, wechat.ReasonDecrypt},
		"length over the end by 1": {encrypt(t, testAESKey, layout(30, text+testAppID, 15, 15)), wechat.Query{}, wechat.ReasonDecrypt},
		"length of 4 GiB":          {encrypt(t, testAESKey, layout(0xFFFFFFFF, text+testAppID, 15, 15)), wechat.Query{}, wechat.ReasonDecrypt},
		"length up to the end":     {encrypt(t, testAESKey, layout(29, text+testAppID, 15, 15)), wechat.Query{}, wechat.ReasonAppID},
		"other appid":              {encrypt(t, testAESKey, layout(11, text+"wx2c2769f8efd9abc2", 15, 15)), wechat.Query{}, wechat.ReasonAppID},
		"no appid":                 {encrypt(t, testAESKey, layout(11, text, 1, 1)), wechat.Query{}, wechat.ReasonAppID},
		"appid and more":           {encrypt(t, testAESKey, layout(11, text+testAppID+"0", 14, 14)), wechat.Query{}, wechat.ReasonAppID},
		"beginning of the appid":   {encrypt(t, testAESKey, layout(11, text+testAppID[:17], 16, 16)), wechat.Query{}, wechat.ReasonAppID},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			query := row.query
			if query.Timestamp == "" {
				query = signed(testToken, row.encrypt)
			}
			opened, err := c.Open(query, []byte(row.encrypt))
			wantReason(t, err, row.reason)
			if opened.Text != nil {
				t.Error("a refused text was given out")
			}
		})
	}
}

func upperSignature(q wechat.Query) wechat.Query {
	q.MsgSignature = strings.ToUpper(q.MsgSignature)
	return q
}

// spareBits spells the same bytes in another way: the last character before == carries four bits
// that do not count.
func spareBits(sealed string) string {
	i := strings.IndexByte(sealed, '=') - 1
	return sealed[:i] + string(sealed[i]+1) + sealed[i+1:]
}

func TestSealOpen(t *testing.T) {
	t.Parallel()
	c := testCrypter(t)
	for length := 1; length < 100; length++ { // every padding at least three times
		text := bytes.Repeat([]byte{'x'}, length)
		reply, err := c.Answer(wechat.Opened{}, testTime, testNonce, text)
		if err != nil {
			t.Fatal(err)
		}
		opened, err := c.Open(wechat.Query{Timestamp: testTime, Nonce: testNonce, MsgSignature: reply.MsgSignature}, []byte(reply.Encrypt))
		if err != nil || !bytes.Equal(opened.Text, text) {
			t.Fatalf("length %d: %q, %v", length, opened.Text, err)
		}
		again, err := c.Answer(wechat.Opened{}, testTime, testNonce, text)
		if err != nil || again.Encrypt == reply.Encrypt {
			t.Fatalf("length %d: two ciphertexts are the same, %v", length, err)
		}
	}
}

func TestAnswerUsesWhatTheRequestUsed(t *testing.T) {
	t.Parallel()
	ours := newCrypter(t, wechat.Keys{AppID: testAppID, Tokens: []string{"newtoken", testToken}, AESKeys: []string{otherKey, testAESKey}})
	theirs := testCrypter(t) // WeChat, which does not know the new token and key yet
	request, err := theirs.Answer(wechat.Opened{}, testTime, testNonce, []byte("<xml></xml>"))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := ours.Open(wechat.Query{Timestamp: testTime, Nonce: testNonce, MsgSignature: request.MsgSignature}, []byte(request.Encrypt))
	if err != nil {
		t.Fatal(err)
	}
	if opened.Key != 1 || opened.Token != 1 {
		t.Errorf("got key %d and token %d, want 1 and 1", opened.Key, opened.Token)
	}
	reply, err := ours.Answer(opened, testTime, testNonce, []byte("<xml>answer</xml>"))
	if err != nil {
		t.Fatal(err)
	}
	read, err := theirs.Open(wechat.Query{Timestamp: testTime, Nonce: testNonce, MsgSignature: reply.MsgSignature}, []byte(reply.Encrypt))
	if err != nil || string(read.Text) != "<xml>answer</xml>" {
		t.Errorf("WeChat reads %q, %v", read.Text, err)
	}
}

func TestSealRefuses(t *testing.T) {
	t.Parallel()
	c := testCrypter(t)
	for name, row := range map[string]struct {
		key              int
		timestamp, nonce string
		text             string
	}{
		"no such key":            {1, testTime, testNonce, "x"},
		"negative key":           {-1, testTime, testNonce, "x"},
		"no text":                {0, testTime, testNonce, ""},
		"timestamp not a number": {0, "141319260x", testNonce, "x"},
		"timestamp from zero":    {0, "0413192605", testNonce, "x"},
		"nonce with markup":      {0, testTime, "]]>", "x"},
		"no nonce":               {0, testTime, "", "x"},
	} {
		if reply, err := c.Answer(wechat.Opened{Key: row.key}, row.timestamp, row.nonce, []byte(row.text)); err == nil {
			t.Errorf("%s: got %+v, want an error", name, reply)
		}
	}
}

func TestNewCrypterNamesEveryFault(t *testing.T) {
	t.Parallel()
	_, err := wechat.NewCrypter(wechat.Keys{
		AppID:   "wx 1",
		Tokens:  []string{"SEKRET token", "good", ""},
		AESKeys: []string{testAESKey, testAESKey[:42], testAESKey + "G", "SEKRET*" + testAESKey[7:], strings.Repeat("A", 42) + "\n"},
	})
	if err == nil {
		t.Fatal("want an error")
	}
	for _, want := range []string{
		"component_appid", "token 1 of 3", "token 3 of 3",
		"EncodingAESKey 2 of 5: want 43 characters, got 42", "EncodingAESKey 3 of 5: want 43 characters, got 44",
		"EncodingAESKey 4 of 5", "EncodingAESKey 5 of 5",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q:\n%v", want, err)
		}
	}
	for _, secret := range []string{"SEKRET", testAESKey[:20]} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows %q", secret)
		}
	}
	if _, err := wechat.NewCrypter(wechat.Keys{}); err == nil || !strings.Contains(err.Error(), "token: none") || !strings.Contains(err.Error(), "EncodingAESKey: none") {
		t.Errorf("no keys at all: %v", err)
	}
}

func TestNothingPrintsSecrets(t *testing.T) {
	t.Parallel()
	const secret = "SEKRET"
	key := secret + testAESKey[len(secret):]
	keys := wechat.Keys{AppID: testAppID, Tokens: []string{secret}, AESKeys: []string{key}}
	c := newCrypter(t, keys)
	for _, value := range []any{
		keys, &keys, c,
		wechat.Opened{Text: []byte(secret)},
		wechat.Push{Ticket: secret, Code: secret, PreAuthCode: secret},
		wechat.Message{Message: message.Message{Content: "QUERY_AUTH_CODE:" + secret}},
		wechat.Grant{AccessToken: secret, RefreshToken: secret},
		wechat.Authorization{AccessToken: secret, RefreshToken: secret},
		wechat.AuthorizerInfo{RefreshToken: secret},
		wechat.AuthorizerPage{List: []wechat.ListedAuthorizer{{RefreshToken: secret}}},
		wechat.PreAuthCode{Code: secret},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			printed := fmt.Sprintf(verb, value)
			if strings.Contains(printed, secret) || strings.Contains(printed, hex.EncodeToString([]byte(secret))) {
				t.Errorf("%s of %T shows the secret", verb, value)
			}
		}
	}
}
