package wechat

import (
	"net/url"
	"slices"
	"strings"
)

// Query holds the query string of a push ("message_push"). ParseQuery checks the syntax of
// Timestamp, Nonce and MsgSignature; only Open and CheckSignature verify them.
type Query struct {
	Timestamp    string // epoch seconds, ten digits, as received
	Nonce        string // 1 to 32 letters and digits
	MsgSignature string // 40 lower-case hex digits; empty if absent
	// The signature of a GET with echostr. It does not cover a body, so it is never enough for a
	// push.
	Signature string
	EchoStr   string // printable ASCII; empty if absent
}

// Bounds of a query. WeChat sends six parameters.
const (
	maxParameters = 16
	maxEchoStr    = 1024 // bytes
)

// ParseQuery parses a raw query string as net/url does, but refuses what net/url lets pass: a
// repeated parameter, and values that WeChat never sends. Other parameters (encrypt_type, openid)
// are ignored: the request never decides how it is checked. The error is a *Refusal.
func ParseQuery(raw string) (Query, error) {
	var q Query
	var seen [maxParameters]string
	n := 0
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue
		}
		if strings.Contains(pair, ";") {
			return Query{}, refuse(ReasonQuery, "a semicolon in the query string")
		}
		key, value, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(key)
		if err == nil {
			value, err = url.QueryUnescape(value)
		}
		if err != nil {
			return Query{}, refuse(ReasonQuery, "parameter %d has a bad percent escape", n+1)
		}
		if n == maxParameters {
			return Query{}, refuse(ReasonQuery, "more than %d parameters", maxParameters)
		}
		if slices.Contains(seen[:n], key) {
			return Query{}, refuse(ReasonQueryDup, "parameter %d repeats an earlier one", n+1)
		}
		seen[n] = key
		n++
		switch key {
		case "timestamp":
			q.Timestamp = value
		case "nonce":
			q.Nonce = value
		case "msg_signature":
			if !isSignature(value) {
				return Query{}, refuse(ReasonSignatureSyntax, "msg_signature is not 40 lower-case hex digits")
			}
			q.MsgSignature = value
		case "signature":
			q.Signature = value
		case "echostr":
			if !isPrintable(value, maxEchoStr) {
				return Query{}, refuse(ReasonQuery, "echostr is not 1 to %d printable characters", maxEchoStr)
			}
			q.EchoStr = value
		default:
			if strings.Contains(key, "[") { // nonce[]=x: another spelling of a repeated parameter
				return Query{}, refuse(ReasonQueryDup, "parameter %d is an array", n)
			}
		}
	}
	if !isTimestamp(q.Timestamp) {
		return Query{}, refuse(ReasonTimestamp, "timestamp is not ten digits")
	}
	if !isNonce(q.Nonce) {
		return Query{}, refuse(ReasonNonce, "nonce is not 1 to 32 letters and digits")
	}
	return q, nil
}

// isTimestamp reports whether s is epoch seconds as WeChat writes them. Ten digits are enough until
// the year 2286.
func isTimestamp(s string) bool { return len(s) == 10 && isDigits(s) }

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func isNonce(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

func isSignature(s string) bool {
	for i := range len(s) {
		if c := s[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return len(s) == 40
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// isPrintable reports whether s is 1 to limit bytes of visible ASCII.
func isPrintable(s string, limit int) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= limit
}
