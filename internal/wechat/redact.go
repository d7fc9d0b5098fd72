package wechat

import "bytes"

// secretNames are the elements of a push that are credentials.
var secretNames = [][]byte{
	[]byte("ComponentVerifyTicket"), []byte("AuthorizationCode"), []byte("PreAuthCode"), []byte("auth_code"),
}

// Redact returns a copy of the document in which ComponentVerifyTicket, AuthorizationCode, PreAuthCode and
// auth_code are empty, at any depth; every other byte is as it was. Of a text that is no document it
// returns nothing, because there is no telling what in it is secret.
func Redact(text []byte) []byte {
	type span struct{ start, end int }
	var secrets []span
	isJSON, err := walk(text, func(at *element) error {
		for _, name := range secretNames {
			if bytes.EqualFold(at.name, name) {
				for len(secrets) > 0 && secrets[len(secrets)-1].start >= at.start {
					secrets = secrets[:len(secrets)-1] // inside this one
				}
				secrets = append(secrets, span{at.start, at.end})
			}
		}
		return nil
	})
	if err != nil {
		return nil
	}
	blank := ""
	if isJSON {
		blank = `""`
	}
	redacted := make([]byte, 0, len(text)+len(blank)*len(secrets))
	from := 0
	for _, secret := range secrets {
		redacted = append(redacted, text[from:secret.start]...)
		redacted = append(redacted, blank...)
		from = secret.end
	}
	return append(redacted, text[from:]...)
}
