package wechat

import "time"

// Message is what WeChat says on the message and event URL: a message of a user, or an event ("message_push").
type Message struct {
	hidden
	ToUserName   string    // the authorizer's gh_ id
	FromUserName string    // the user's openid
	MsgType      string    // text, image, event, ...
	Event        string    // for MsgType event
	MsgID        string    // empty for most events
	Content      string    // for MsgType text
	CreateTime   time.Time // UTC, to the second; zero when it can't be read
	JSON         bool      // the document is JSON
}

// maxMsgType bounds MsgType and Event, in bytes: they stand in a subject.
const maxMsgType = 128

// ParseMessage reads a decrypted document of the message and event URL, XML or JSON. Only MsgType has to be there;
// there are hundreds of events, so whatever else can be read is taken. The error is a *Refusal.
func ParseMessage(text []byte) (Message, error) {
	var to, from, msgType, event, msgID, msgID2, content, createTime field
	isJSON, err := walk(text, func(at *element) error {
		if at.depth != 2 {
			return nil
		}
		switch string(at.name) {
		case "ToUserName":
			to.setFirst(at)
		case "FromUserName":
			from.setFirst(at)
		case "MsgType":
			return msgType.set(at)
		case "Event":
			return event.set(at)
		case "MsgId":
			msgID.setFirst(at)
		case "MsgID": // the spelling of TEMPLATESENDJOBFINISH
			msgID2.setFirst(at)
		case "Content":
			content.setFirst(at)
		case "CreateTime":
			createTime.setFirst(at)
		}
		return nil
	})
	if err != nil {
		return Message{}, err
	}
	m := Message{
		ToUserName: to.String(), FromUserName: from.String(),
		MsgType: msgType.String(), Event: event.String(),
		MsgID: msgID.String(), Content: content.String(),
		JSON: isJSON,
	}
	if m.MsgID == "" {
		m.MsgID = msgID2.String()
	}
	if m.MsgType == "" || len(m.MsgType) > maxMsgType {
		return Message{}, refuse(ReasonField, "MsgType is missing or longer than %d bytes", maxMsgType)
	}
	if len(m.Event) > maxMsgType {
		return Message{}, refuse(ReasonField, "Event is longer than %d bytes", maxMsgType)
	}
	if seconds := createTime.seconds(); seconds > 0 {
		m.CreateTime = time.Unix(seconds, 0).UTC()
	}
	return m, nil
}

// ID returns a digest of the component, the authorizer's appid in the path, and the decrypted document.
// WeChat's repeats of a message have the same document though they are encrypted anew.
func (Message) ID(component, appid string, text []byte) string {
	return digest([]byte("message"), []byte(component), []byte(appid), text)
}
