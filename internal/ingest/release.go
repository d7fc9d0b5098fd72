package ingest

import (
	"bytes"
	"strings"

	"wxtoken/client/message"
	"wxtoken/internal/wechat"
)

// WeChat's full-network-release check ("releases_instructions") lends the component one official
// account and one mini program out of ten, and checks how it answers on the message and event URL:
//
//	TESTCOMPONENT_MSG_TYPE_TEXT    a text with this and _callback, at once
//	any event                      a text with the name of the event and from_callback, at once
//	QUERY_AUTH_CODE:<code>         nothing; the code is exchanged, and the user gets a message by API
const (
	releaseText       = "TESTCOMPONENT_MSG_TYPE_TEXT"
	releaseCodePrefix = "QUERY_AUTH_CODE:"
)

// releaseAccounts are the accounts that WeChat lends, gh_ id to appid: five official accounts and
// five mini programs.
var releaseAccounts = map[string]string{
	"gh_3c884a361561": "wx570bc396a51b8ff8", "gh_8dad206e9538": "wxd101a85aa106f53e",
	"gh_c0f28a78b318": "wx9252c5e0bb1836fc", "gh_905ae9d01059": "wxc39235c15087f6f3",
	"gh_3f222ed8d140": "wx8e1097c5bc82cde9", "gh_393666f1fdf4": "wx7720d01d4b2a4500",
	"gh_26128078e9ab": "wx14550af28c71a144", "gh_39abb5d4e1b7": "wx05d483572dcd5d8b",
	"gh_2b3713f184a6": "wxa35b9c23cfe664eb", "gh_7818dcb60240": "wx5910277cae6fd970",
}

// releaseAccount returns the appid of the lent account that a message is for, by its ToUserName or
// the appid of the path; empty for a message to any other account.
func releaseAccount(appid string, m message.Message) string {
	if lent, ok := releaseAccounts[m.ToUserName]; ok {
		return lent
	}
	for _, lent := range releaseAccounts {
		if lent == appid {
			return lent
		}
	}
	return ""
}

// releaseCode returns the authorization code that a message carries; empty for any other message.
func releaseCode(m message.Message) string {
	code, ok := strings.CutPrefix(m.Content, releaseCodePrefix)
	if !ok || m.MsgType != "text" {
		return ""
	}
	return code
}

// releaseReply returns the reply that the check expects to a message for a lent account, nil if it
// expects none.
func (i *Ingest) releaseReply(m message.Message) []byte {
	var content string
	switch {
	case m.MsgType == "text" && m.Content == releaseText:
		content = releaseText + "_callback"
	case m.MsgType == "event" && m.Event != "":
		content = m.Event + "from_callback"
	default:
		return nil
	}
	return m.Reply(i.now()).Text(content)
}

// withoutCode returns the document of a message without its authorization code, which is a
// credential: with the check switched off the message is stored like any other, for all readers of
// MESSAGES. It returns nil if the code can't be removed, because the document spells it in an odd
// way.
func withoutCode(text []byte, code string) []byte {
	blanked := bytes.ReplaceAll(text, []byte(releaseCodePrefix+code), []byte(releaseCodePrefix))
	m, err := wechat.ParseMessage(blanked)
	if err != nil || m.Content != releaseCodePrefix {
		return nil
	}
	return blanked
}
