package wechat

import (
	"bytes"
	"slices"

	"wxtoken/client/document"
)

// secretNames are the elements of a push that are credentials.
var secretNames = [][]byte{
	[]byte("ComponentVerifyTicket"), []byte("AuthorizationCode"), []byte("PreAuthCode"), []byte("auth_code"),
}

// secretMarks are the beginnings of WeChat's secrets, in documents and in error texts (scrub).
var secretMarks = []string{"ticket@@@", "queryauthcode@@@", "preauthcode@@@", "refreshtoken@@@"}

// Redact returns a copy of the document in which ComponentVerifyTicket, AuthorizationCode,
// PreAuthCode and auth_code are empty, at any depth; all other bytes are unchanged. It returns nil
// if there may be secrets that can't be told from the rest: in a document that can't be scanned to
// its end, unless it has none of these names at all, and in one with WeChat's secrets in other
// places.
func Redact(text []byte) []byte {
	type span struct{ start, end int }
	var secrets []span
	d, err := document.Read(text, func(at document.Element) {
		for _, name := range secretNames {
			if bytes.EqualFold(at.Name, name) {
				for len(secrets) > 0 && secrets[len(secrets)-1].start >= at.Start {
					secrets = secrets[:len(secrets)-1] // inside this one
				}
				secrets = append(secrets, span{at.Start, at.End})
			}
		}
	})
	switch {
	case err != nil || d == nil:
		return nil
	case !d.Whole && NamesSecret(text):
		return nil
	case !d.Whole:
		secrets = nil
	}
	blank := ""
	if d.JSON {
		blank = `""`
	}
	redacted := make([]byte, 0, len(text)+len(blank)*len(secrets))
	from := 0
	for _, secret := range secrets {
		redacted = append(redacted, text[from:secret.start]...)
		redacted = append(redacted, blank...)
		from = secret.end
	}
	redacted = append(redacted, text[from:]...)
	if hasMark(redacted) || !d.JSON && d.Is(document.Markup) && namesSecretOutsideTags(redacted) {
		return nil
	}
	return redacted
}

// namesSecretOutsideTags reports whether the name of a credential stands elsewhere than at the
// beginning of a tag: in an attribute or a comment, which are not scanned.
func namesSecretOutsideTags(text []byte) bool {
	lower := bytes.ToLower(text)
	for _, name := range secretNames {
		name = bytes.ToLower(name)
		for from := 0; ; {
			at := bytes.Index(lower[from:], name)
			if at < 0 {
				break
			}
			if from += at; from == 0 || bytes.IndexByte([]byte("</:"), lower[from-1]) < 0 {
				return true
			}
			from += len(name)
		}
	}
	return false
}

func hasMark(text []byte) bool {
	return slices.ContainsFunc(secretMarks, func(mark string) bool { return bytes.Contains(text, []byte(mark)) })
}

// NamesSecret reports whether a text that can't be scanned may contain a credential.
func NamesSecret(text []byte) bool {
	lower := bytes.ToLower(text)
	for _, name := range secretNames {
		if bytes.Contains(lower, bytes.ToLower(name)) {
			return true
		}
	}
	return hasMark(text) || bytes.Contains(lower, []byte(`\u`)) || bytes.IndexByte(text, 0) >= 0 // a name may be spelled with escapes or in another encoding
}
