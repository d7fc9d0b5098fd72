package store

import (
	"bytes"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
)

// outline returns the outline of a record. A record that can't be read is empty in a view: there is
// nothing to renew with.
func outline(key wxtoken.Key, record []byte, revision uint64) account.Outline {
	c, ok := scanCredential(key, record)
	if !ok {
		c, _ = decodeCredential(key, record)
	}
	c.Key, c.Revision = key, revision
	return account.OutlineOf(c)
}

// scanCredential reads the fields of a record that an outline needs, in a third of the time of
// json.Unmarshal. ok is false if it has other values than plain texts, numbers and times, such as a
// claim, or unknown fields.
func scanCredential(key wxtoken.Key, record []byte) (c account.Credential, ok bool) {
	rest := scan{record}
	if !rest.skip("{") {
		return c, false
	}
	named := false
	for {
		if !rest.skip(`"`) {
			return c, false
		}
		name := rest.text()
		if !rest.skip(":") {
			return c, false
		}
		switch string(name) {
		case "key":
			named, ok = true, rest.skip(`"`) && string(rest.text()) == key.String()
		case "v":
			var v uint64
			v, ok = rest.number()
			ok = ok && v <= recordVersion
		default:
			ok = scanField(&c, string(name), &rest)
		}
		switch {
		case !ok:
			return c, false
		case rest.skip(","):
		default:
			return c, named && string(rest.left) == "}"
		}
	}
}

// scanField reads a field of a credential.
func scanField(c *account.Credential, name string, rest *scan) (ok bool) {
	var unused account.Credential // fields that no outline needs are still parsed, to check them
	switch name {
	case "generation":
		c.Generation, ok = rest.number()
	case "authorizations":
		c.Authorizations, ok = rest.number()
	case "failures":
		var n uint64
		n, ok = rest.number()
		c.Failures, ok = int(n), ok && n < 1<<31
	case "refresh_token":
		c.RefreshToken, ok = rest.quoted()
	case "code_digest":
		c.CodeDigest, ok = rest.quoted()
	case "ref", "commit":
		ok = rest.skip(`"`) && rest.text() != nil
	case "authorized_at":
		ok = rest.time(&c.AuthorizedAt)
	case "revoked_at":
		ok = rest.time(&c.RevokedAt)
	case "retry_at":
		ok = rest.time(&c.RetryAt)
	case "sought_at":
		ok = rest.time(&c.SoughtAt)
	case "forced_at", "unsure_since":
		ok = rest.time(&unused.ForcedAt)
	case "authorization_needed":
		c.AuthorizationNeeded, ok = true, rest.skip("true")
	case "anew":
		c.Anew, ok = true, rest.skip("true")
	case "forced":
		_, ok = rest.number()
	case "history":
		ok = rest.history()
	}
	return ok
}

// history passes over the history of a credential, eight records in each that was renewed as often.
func (s *scan) history() (ok bool) {
	if !s.skip("[") {
		return false
	}
	for more := true; more; more = s.skip(",") {
		if !s.past() {
			return false
		}
	}
	return s.skip("]")
}

// past passes over a record of a history, with its fields in the order in which they are written.
func (s *scan) past() (ok bool) {
	if !s.skip(`{"g":`) {
		return false
	}
	if _, ok = s.number(); !ok || !s.skip(`,"at":`) {
		return false
	}
	if _, ok = s.number(); !ok || !s.skip(`,"r":"`) || s.text() == nil {
		return false
	}
	for _, name := range []string{`,"l":`, `,"t":`} {
		if s.skip(name) {
			if _, ok = s.number(); !ok {
				return false
			}
		}
	}
	for _, name := range []string{`,"by":"`, `,"s":"`} {
		if s.skip(name) && s.text() == nil {
			return false
		}
	}
	return s.skip("}")
}

// scan is the rest of a record that is being scanned.
type scan struct{ left []byte }

// skip skips text if it comes next, and reports whether it did.
func (s *scan) skip(text string) bool {
	if len(s.left) < len(text) || string(s.left[:len(text)]) != text {
		return false
	}
	s.left = s.left[len(text):]
	return true
}

// text reads a text up to and including its closing quotation mark, and returns it without that;
// nil if it is not plain ASCII.
func (s *scan) text() []byte {
	i := bytes.IndexByte(s.left, '"')
	for _, b := range s.left[:max(i, 0)] {
		if b < ' ' || b > '~' || b == '\\' {
			return nil
		}
	}
	if i < 0 {
		return nil
	}
	text := s.left[:i:i]
	s.left = s.left[i+1:]
	return text
}

// quoted reads a text between quotation marks.
func (s *scan) quoted() (string, bool) {
	if !s.skip(`"`) {
		return "", false
	}
	text := s.text()
	return string(text), text != nil
}

// time reads a time between quotation marks.
func (s *scan) time(t *time.Time) bool {
	if !s.skip(`"`) {
		return false
	}
	text := s.text()
	return text != nil && t.UnmarshalText(text) == nil
}

// number reads a number of at most 18 digits.
func (s *scan) number() (n uint64, ok bool) {
	i := 0
	for ; i < len(s.left) && i < 19 && s.left[i] >= '0' && s.left[i] <= '9'; i++ {
		n = 10*n + uint64(s.left[i]-'0')
	}
	ok = i > 0 && i < 19 && (s.left[0] != '0' || i == 1)
	s.left = s.left[i:]
	return n, ok
}
