package ingest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"wxtoken/internal/events"
	"wxtoken/internal/wechat"
)

// pushed is a push that was read.
type pushed struct {
	kind    string    // InfoType, or kindMessage, or kindReleaseCheck
	created time.Time // zero when the push does not tell
	events  []events.Event
	reply   reply
}

// authInfoTypes are the InfoTypes that the refresher acts on. Their events go to AUTH.
var authInfoTypes = []string{
	wechat.InfoTicket, wechat.InfoAuthorized, wechat.InfoUpdateAuthorized, wechat.InfoUnauthorized, wechat.InfoFastRegister,
}

// fromPush reads a document of the authorization event URL. The error is a *wechat.Refusal.
func (i *Ingest) fromPush(path, component string, text []byte) (pushed, error) {
	push, err := wechat.ParsePush(text)
	if err != nil {
		return pushed{}, err
	}
	if push.AppID != component {
		return pushed{}, &wechat.Refusal{Reason: wechat.ReasonAppID, Detail: "AppId is not the component of the path"}
	}
	p := pushed{kind: push.InfoType, created: push.CreateTime}
	id := push.ID()
	if slices.Contains(authInfoTypes, push.InfoType) {
		auth := events.Auth{
			Kind: push.InfoType, Component: component, CreateTime: push.CreateTime, ReceivedAt: i.now().UTC(),
			Authorizer: push.AuthorizerAppID, Ticket: push.Ticket, Code: push.Code, PreAuthCode: push.PreAuthCode,
		}
		if sane(push.CodeExpiresAt) {
			auth.CodeExpiresAt = &push.CodeExpiresAt
		}
		// First, because it is the one that somebody waits for.
		e, err := auth.Event(id, path)
		if err != nil {
			return pushed{}, fmt.Errorf("push of InfoType %s: %w", push.InfoType, err)
		}
		p.events = append(p.events, e)
	}
	if push.InfoType != wechat.InfoTicket {
		subject := events.NoticeSubject(component, push.InfoType)
		p.events = append(p.events, events.Event{
			Subject: subject, ID: id, Source: path, Type: eventType(subject, 1), About: push.AuthorizerAppID,
			Time: push.CreateTime, ContentType: contentType(text), Data: wechat.Redact(text),
		})
	}
	return p, nil
}

// fromMessage reads a document of the message and event URL. The error is a *wechat.Refusal.
func (i *Ingest) fromMessage(path, component, appid string, text []byte) (pushed, error) {
	m, err := wechat.ParseMessage(text)
	if err != nil {
		return pushed{}, err
	}
	p := pushed{kind: kindMessage}
	id := m.ID(component, appid, text)
	at := i.now().UTC()
	if sane(m.CreateTime) {
		p.created, at = m.CreateTime, m.CreateTime
	}
	account := releaseAccount(appid, m)
	code := releaseCode(m)
	switch {
	case account == "":
	case code != "" && i.releaseCheck:
		p.kind = kindReleaseCheck
		p.reply.silent = true
		e, err := events.Auth{
			Kind: events.KindReleaseCheck, Component: component, CreateTime: at, ReceivedAt: i.now().UTC(),
			Authorizer: account, Code: code, OpenID: m.FromUserName,
		}.Event(id, path)
		if err != nil {
			return pushed{}, fmt.Errorf("message of the release check: %w", err)
		}
		p.events = []events.Event{e}
		return p, nil
	case code != "":
		text = withoutCode(text, code)
	case i.releaseCheck:
		p.reply.document = i.releaseReply(m, text)
	}
	p.reply.subject = events.ReplySubject(component, appid, m.MsgType, m.Event)
	subject := events.MessageSubject(component, appid, m.MsgType, m.Event)
	p.events = []events.Event{{
		Subject: subject, ID: id, Source: path, Type: eventType(subject, 2), About: appid,
		Time: at, ContentType: contentType(text), Data: text,
	}}
	return p, nil
}

// sane reports whether t is given and can be written down: RFC 3339 ends with the year 9999.
func sane(t time.Time) bool { return !t.IsZero() && t.Year() <= 9999 }

// eventType returns the ce-type of an event on subject: the subject without its appids, of which
// there are so many. No character in it means anything to a header.
func eventType(subject string, appids int) string {
	tokens := strings.Split(subject, ".")
	return strings.Join(slices.Delete(tokens, 2, 2+appids), ".")
}

// contentType tells XML from JSON, which are all that wechat reads.
func contentType(text []byte) string {
	if bytes.HasPrefix(bytes.TrimLeft(text, "\uFEFF \t\r\n"), []byte("{")) {
		return "application/json"
	}
	return "application/xml"
}
