package wechat

import (
	"wxtoken/client/document"
	"wxtoken/client/message"
)

// Message is a push to the message and event URL: a message of a user, or an event
// ("message_push"). Fields that are missing, or whose value is in doubt, are empty.
type Message struct {
	hidden
	message.Message

	Odd []document.Oddity // what is odd about the document
}

// ParseMessage reads a decrypted document of the message and event URL, XML or JSON, as far as
// possible: there are hundreds of events, and users write what they like. It returns an error, a
// *Refusal, only for a document with a document type.
func ParseMessage(text []byte) (Message, error) {
	d, err := document.Read(text, nil)
	if err != nil {
		return Message{}, refuse(ReasonXML, "%v", err)
	}
	if d == nil {
		return Message{Odd: unreadable}, nil
	}
	m := Message{Message: message.From(d)}
	if m.MsgType == "" {
		d.Odd(document.Field, "MsgType is missing, or in doubt")
	}
	m.Odd = d.Oddities
	return m, nil
}

// unreadable is the oddity of a text that is not a document.
var unreadable = []document.Oddity{{Kind: document.Unreadable, Detail: "neither XML with the root xml nor a JSON object"}}

// ID returns a digest of the component, the authorizer's appid in the path, and the decrypted
// document. WeChat's repeats of a message have the same document though they are encrypted anew.
func (Message) ID(component, appid string, text []byte) string {
	return digest([]byte("message"), []byte(component), []byte(appid), text)
}
