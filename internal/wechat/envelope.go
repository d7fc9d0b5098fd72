package wechat

// Envelope is the body of a push before it is decrypted. Nothing in it but Encrypt is signed.
type Envelope struct {
	AppID      string // AppId on the authorization event URL
	ToUserName string // the authorizer's gh_ id on the message and event URL
	Encrypt    []byte // base64; part of the body given to ParseEnvelope
	JSON       bool   // the body is JSON, so the answer has to be
}

// ParseEnvelope reads the body of a push in XML or JSON ("Message_encryption_and_decryption"). It wants
// exactly one Encrypt; fields in the clear beside it, as in compatibility mode, are not looked at.
// The error is a *Refusal.
func ParseEnvelope(body []byte) (Envelope, error) {
	var e Envelope
	var appID, toUserName field
	var found bool
	isJSON, err := walk(body, func(at *element) error {
		if string(at.name) == "Encrypt" {
			if found || at.depth != 2 || !at.leaf || at.pieces > 1 {
				return refuse(ReasonXMLShape, "more than one Encrypt, or not plain text directly in the root, before byte %d", at.end)
			}
			found = true
			e.Encrypt = at.value
		}
		if at.depth != 2 {
			return nil
		}
		switch string(at.name) {
		case "AppId":
			return appID.set(at)
		case "ToUserName":
			return toUserName.set(at)
		}
		return nil
	})
	if err != nil {
		return Envelope{}, err
	}
	if len(e.Encrypt) == 0 {
		return Envelope{}, refuse(ReasonNoEncrypt, "no Encrypt in the body: what is not encrypted is not from WeChat")
	}
	e.AppID, e.ToUserName, e.JSON = appID.String(), toUserName.String(), isJSON
	return e, nil
}

// field is a field of a document that may stand there once.
type field struct {
	value []byte
	given bool
}

func (f *field) set(at *element) error {
	if f.given {
		return refuse(ReasonXMLShape, "%s stands twice", at.name)
	}
	if !at.leaf {
		return refuse(ReasonXMLShape, "%s is not plain text", at.name)
	}
	f.value, f.given = at.value, true
	return nil
}

// setFirst is set for a field that decides nothing: what can't be read is passed over.
func (f *field) setFirst(at *element) {
	if !f.given && at.leaf {
		f.value, f.given = at.value, true
	}
}

// String returns the field's text, empty when it was not given.
func (f *field) String() string { return string(f.value) }
