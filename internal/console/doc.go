// Package console is the operator's page: what wxtoken knows about each key, read from NATS at the
// moment of the request. It changes nothing, and it never shows a token: only the first 8 hex
// digits of its SHA-256, which is enough to see whether a service holds the same one.
//
// A browser gets a page, in Chinese or English; curl gets the same as aligned text, and a program
// gets it with ?format=json. There is no script. Whatever came from outside, a nick_name for
// instance, is shown without control characters and escaped.
//
// Parameters: limit (1 to 500 authorizers, 50 by default), after (the key after which the list
// goes on), q (part of an appid), format (html, text or json).
package console
