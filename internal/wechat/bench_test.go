package wechat_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"net/url"
	"slices"
	"strings"
	"testing"

	"wxtoken/internal/wechat"
)

// BenchmarkTicketPush is everything between the HTTP server and the event: query, envelope,
// signature, decryption, document.
func BenchmarkTicketPush(b *testing.B) {
	v := vectorNamed(b, "self-ticket")
	c := v.crypter(b)
	raw := "signature=" + v.Signature + "&timestamp=" + v.Timestamp + "&nonce=" + v.Nonce + "&encrypt_type=aes&msg_signature=" + v.MsgSignature
	body := []byte(v.Body)
	b.ReportAllocs()
	for b.Loop() {
		q, err := wechat.ParseQuery(raw)
		if err != nil {
			b.Fatal(err)
		}
		e, err := wechat.ParseEnvelope(body)
		if err != nil {
			b.Fatal(err)
		}
		opened, err := c.Open(q, e.Encrypt)
		if err != nil {
			b.Fatal(err)
		}
		p, err := wechat.ParsePush(opened.Text)
		if err != nil || p.Ticket == "" {
			b.Fatal(err)
		}
	}
}

// BenchmarkTicketPushStandardLibrary is the same work in the most direct way, without any of the
// checks that make it safe: the floor to measure against.
func BenchmarkTicketPushStandardLibrary(b *testing.B) {
	v := vectorNamed(b, "self-ticket")
	raw := "signature=" + v.Signature + "&timestamp=" + v.Timestamp + "&nonce=" + v.Nonce + "&encrypt_type=aes&msg_signature=" + v.MsgSignature
	body := []byte(v.Body)
	key, err := base64.StdEncoding.DecodeString(v.AESKey + "=")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		q, err := url.ParseQuery(raw)
		if err != nil {
			b.Fatal(err)
		}
		var envelope struct{ AppID, Encrypt string }
		if err := xml.Unmarshal(body, &envelope); err != nil {
			b.Fatal(err)
		}
		parts := []string{v.Token, q.Get("timestamp"), q.Get("nonce"), envelope.Encrypt}
		slices.Sort(parts)
		sum := sha1.Sum([]byte(strings.Join(parts, "")))
		if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(q.Get("msg_signature"))) != 1 {
			b.Fatal("signature")
		}
		sealed, err := base64.StdEncoding.DecodeString(envelope.Encrypt)
		if err != nil {
			b.Fatal(err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			b.Fatal(err)
		}
		cipher.NewCBCDecrypter(block, key[:16]).CryptBlocks(sealed, sealed)
		length := binary.BigEndian.Uint32(sealed[16:])
		var push struct {
			AppID                 string `xml:"AppId"`
			InfoType              string
			CreateTime            int64
			ComponentVerifyTicket string
		}
		if err := xml.Unmarshal(sealed[20:20+length], &push); err != nil || push.ComponentVerifyTicket == "" {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen is verification and decryption alone.
func BenchmarkOpen(b *testing.B) {
	v := vectorNamed(b, "self-ticket")
	c, q, encrypt := v.crypter(b), v.query(), []byte(v.Encrypt)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Open(q, encrypt); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMessage is the path of a message of a user, up to its id.
func BenchmarkMessage(b *testing.B) {
	v := vectorNamed(b, "wxbizmsgcrypt-python-sample")
	c, q, encrypt := v.crypter(b), v.query(), []byte(v.Encrypt)
	b.ReportAllocs()
	for b.Loop() {
		opened, err := c.Open(q, encrypt)
		if err != nil {
			b.Fatal(err)
		}
		m, err := wechat.ParseMessage(opened.Text)
		if err != nil || m.ID(testAppID, v.AppID, opened.Text) == "" {
			b.Fatal(err)
		}
	}
}
