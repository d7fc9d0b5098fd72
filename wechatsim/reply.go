package wechatsim

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
)

// openReply checks and decrypts a passive reply ("message_push", "Passive_user_reply_message"). The
// reply must have the format of the push; in plain mode it is clear, in compat mode it may be.
func (job *push) openReply(body []byte) (text, msgType, content string, err error) {
	fields, err := leaves(body, job.json)
	text = string(body)
	encrypted := err == nil && fields["Encrypt"] != ""
	switch {
	case encrypted && job.mode != ModePlain:
		if text, err = job.component.decryptReply(fields); err != nil {
			return "", "", "", fmt.Errorf("reply: %w", err)
		}
		if fields, err = leaves([]byte(text), job.json); err != nil {
			return "", "", "", fmt.Errorf("reply: what was encrypted is %w", err)
		}
	case job.mode == ModeSecurity:
		return "", "", "", errors.New("reply: neither empty nor success nor an encrypted reply")
	case err != nil || fields["MsgType"] == "":
		return "", "", "", errors.New("reply: neither empty nor success nor a reply")
	}
	switch {
	case fields["MsgType"] == "":
		return "", "", "", errors.New("reply: MsgType is missing")
	case job.infoType == infoRaw: // the sender in a raw document is not known
	case fields["ToUserName"] != job.openID:
		return "", "", "", errors.New("reply: ToUserName is not the user who wrote")
	case fields["FromUserName"] != OriginalID(job.authorizer):
		return "", "", "", errors.New("reply: FromUserName is not the account")
	}
	return text, fields["MsgType"], fields["Content"], nil
}

// decryptReply checks the signature of an encrypted reply and decrypts it.
func (c *component) decryptReply(fields map[string]string) (string, error) {
	if !equal(fields["MsgSignature"], sign(c.Token, fields["TimeStamp"], fields["Nonce"], fields["Encrypt"])) {
		return "", errors.New("wrong MsgSignature")
	}
	message, appid, err := decrypt(c.key, fields["Encrypt"])
	if err != nil {
		return "", err
	}
	if appid != c.AppID {
		return "", errors.New("the appid at its end is not the component's")
	}
	return string(message), nil
}

// leaves returns the texts and numbers directly in the root of a document.
func leaves(document []byte, isJSON bool) (map[string]string, error) {
	fields := map[string]string{}
	if isJSON {
		var members map[string]any
		decoder := json.NewDecoder(bytes.NewReader(document))
		decoder.UseNumber()
		if err := decoder.Decode(&members); err != nil || decoder.Decode(new(any)) != io.EOF {
			return nil, errors.New("not a JSON object")
		}
		for name, value := range members {
			switch value.(type) {
			case string, json.Number:
				fields[name] = fmt.Sprint(value)
			}
		}
		return fields, nil
	}
	var root struct {
		XMLName  xml.Name `xml:"xml"`
		Elements []struct {
			XMLName xml.Name
			Text    string `xml:",chardata"`
		} `xml:",any"`
	}
	if err := xml.Unmarshal(document, &root); err != nil {
		return nil, errors.New("not XML in <xml>")
	}
	for _, element := range root.Elements {
		fields[element.XMLName.Local] = element.Text
	}
	return fields, nil
}
