package wechat

import (
	"bytes"

	"wxtoken/client/document"
)

// Envelope is the body of a push before it is decrypted. Nothing in it but Encrypt is signed.
type Envelope struct {
	Encrypt []byte // base64, without white space
	JSON    bool   // the body is JSON, so the answer must be too
}

// ParseEnvelope reads the body of a push in XML or JSON ("Message_encryption_and_decryption").
// There must be exactly one Encrypt; fields in the clear beside it, as in compatibility mode, are
// ignored. The error is a *Refusal.
func ParseEnvelope(body []byte) (Envelope, error) {
	nested := false
	d, err := document.Read(body, func(at document.Element) {
		nested = nested || string(at.Name) == "Encrypt" && (at.Depth != 2 || !at.Leaf)
	})
	switch {
	case err != nil:
		return Envelope{}, refuse(ReasonXML, "%v", err)
	case len(bytes.TrimSpace(body)) == 0:
		return Envelope{}, refuse(ReasonEmpty, "nothing but white space")
	case d == nil:
		return Envelope{}, refuse(ReasonXML, "neither XML with the root xml nor a JSON object")
	case d.Outside && d.JSON:
		return Envelope{}, refuse(ReasonJSON, "something follows the object")
	case d.Outside:
		return Envelope{}, refuse(ReasonXMLShape, "something stands outside the root")
	case d.Foreign:
		return Envelope{}, refuse(ReasonXML, "processing instruction, or another encoding than UTF-8: WeChat sends none")
	}
	found := d.Elements("Encrypt")
	switch {
	case len(found) > 1 && d.JSON:
		return Envelope{}, refuse(ReasonJSON, "more than one Encrypt")
	case len(found) > 1 || len(found) == 1 && found[0].Pieces > 1:
		return Envelope{}, refuse(ReasonXMLShape, "more than one Encrypt, or one in pieces")
	case len(found) == 0 && nested && d.Whole:
		return Envelope{}, refuse(ReasonXMLShape, "an Encrypt that is not plain text directly in the root")
	case len(found) == 0 && d.Is(document.Bounds):
		return Envelope{}, refuse(ReasonXMLShape, "too deep, too many or too long elements")
	case len(found) == 0 || len(bytes.TrimSpace(found[0].Value)) == 0:
		return Envelope{}, refuse(ReasonNoEncrypt, "no Encrypt in the body: what is not encrypted is not from WeChat")
	}
	encrypt := withoutSpace(found[0].Value)
	for _, c := range encrypt {
		if c <= ' ' || c > '~' || c == '<' || c == '>' {
			return Envelope{}, refuse(ReasonXML, "Encrypt has characters that base64 can't have")
		}
	}
	return Envelope{Encrypt: encrypt, JSON: d.JSON}, nil
}

// withoutSpace returns base64 without the white space in and around it.
func withoutSpace(text []byte) []byte {
	if !bytes.ContainsAny(text, " \t\r\n") {
		return text
	}
	return bytes.Join(bytes.Fields(text), nil)
}
