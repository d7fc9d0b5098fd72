// Package wechat implements the protocol of the WeChat Open Platform for third-party platforms
// (components), with only the standard library. It keeps no state and decides nothing.
//
// A push goes through four steps. The first three may refuse it; the last one reads as much as it
// can (package document):
//
//	query    := ParseQuery(raw query)       // timestamp, nonce, msg_signature
//	envelope := ParseEnvelope(body)         // the one Encrypt in it
//	opened   := crypter.Open(query, envelope.Encrypt)
//	push     := ParsePush(opened.Text)      // authorization event URL, or
//	message  := ParseMessage(opened.Text)   // message and event URL
//
// Every refusal is a *Refusal with a Reason. It tells what is wrong and where, but never quotes the
// document: nothing of a refused push may reach a log.
//
// Client calls the platform's token APIs. Each of its errors is an *Error, and Judge tells what to
// do about it.
//
// Facts about the platform are cited by the name of the public page that states them, such as
// "message_push" or "component_verify_ticket".
package wechat

import (
	"fmt"
	"io"
)

// hidden is embedded in types that hold a secret, so that no verb of fmt prints one by accident.
type hidden struct{}

// Format writes "[redacted]" whatever the verb.
func (hidden) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "[redacted]") }
