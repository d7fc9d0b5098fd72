package ingest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"wxtoken/client/document"
	"wxtoken/internal/events"
	"wxtoken/internal/wechat"
)

// pushed is a push that was read.
type pushed struct {
	kind    string    // InfoType, or kindMessage, or kindReleaseCheck
	created time.Time // zero if the push has none
	events  []events.Event
	reply   reply
	odd     []document.Oddity
}

// authInfoTypes are the InfoTypes on which the refresher acts. Their events go to AUTH.
var authInfoTypes = []string{
	wechat.InfoTicket, wechat.InfoAuthorized, wechat.InfoUpdateAuthorized, wechat.InfoUnauthorized, wechat.InfoFastRegister,
}

// fromPush reads a document of the authorization event URL. The error is a *wechat.Refusal.
func (i *Ingest) fromPush(path, component string, text []byte) (pushed, error) {
	push, err := wechat.ParsePush(text)
	if err != nil {
		return pushed{}, err
	}
	if push.AppID != "" && push.AppID != component { // may be missing: the push is signed for this component
		return pushed{}, &wechat.Refusal{Reason: wechat.ReasonAppID, Detail: "AppId is not the component of the path"}
	}
	p := pushed{kind: push.InfoType, created: push.CreateTime, odd: push.Odd}
	at := i.now().UTC()
	if !push.CreateTime.IsZero() {
		at = push.CreateTime
	}
	id := push.ID()
	auth := events.Auth{Component: component, CreateTime: at, ReceivedAt: i.now().UTC()}
	acted := slices.Contains(authInfoTypes, push.InfoType)
	if acted && push.Lacks == "" {
		auth := auth
		auth.Kind, auth.Authorizer, auth.Ticket = push.InfoType, push.AuthorizerAppID, push.Ticket
		auth.Code, auth.PreAuthCode = push.Code, push.PreAuthCode
		if auth.Authorizer == "" && auth.Code != "" {
			auth.Kind = events.KindCallback // WeChat's answer to the code names the account
		}
		// First in order: a service may be waiting for this one.
		e, err := auth.Event(id, path)
		if err != nil {
			return pushed{}, fmt.Errorf("push of InfoType %s: %w", push.InfoType, err)
		}
		p.events = append(p.events, e)
	}
	notice := withoutSecrets(text, push)
	if push.InfoType != wechat.InfoTicket && notice != nil {
		subject := events.NoticeSubject(component, push.InfoType)
		p.events = append(p.events, events.Event{
			Subject: subject, ID: id, Source: path, Type: eventType(subject, 1), About: push.AuthorizerAppID,
			Time: at, ContentType: contentType(text), Data: notice,
		})
	}
	switch {
	case push.Lacks != "":
		auth.Detail = push.Lacks
	case notice == nil && push.InfoType != wechat.InfoTicket:
		auth.Detail = wechat.NotRedactable
	default:
		return p, nil
	}
	auth.AskList = push.InfoType != wechat.InfoTicket && (acted || push.InfoType == "")
	e, err := unreadable(auth, path, text)
	if err != nil {
		return pushed{}, err
	}
	p.events = append(p.events, e)
	return p, nil
}

// unreadable returns the event with which the refresher puts a document on DEAD, where an operator
// finds it.
func unreadable(auth events.Auth, path string, text []byte) (events.Event, error) {
	auth.Kind, auth.Document = events.KindUnreadable, base64.StdEncoding.EncodeToString(text)
	e, err := auth.Event(wechat.DocumentID(auth.Component, text), path)
	if err != nil {
		return events.Event{}, fmt.Errorf("unreadable push: %w", err)
	}
	return e, nil
}

// withoutSecrets returns the document of a push without its secrets, for all readers of MESSAGES;
// nil if a secret can't be removed.
func withoutSecrets(text []byte, push wechat.Push) []byte {
	notice := wechat.Redact(text)
	for _, secret := range []string{push.Ticket, push.Code, push.PreAuthCode} {
		if secret != "" && bytes.Contains(notice, []byte(secret)) {
			return nil
		}
	}
	return notice
}

// fromMessage reads a document of the message and event URL, in plain mode one without a signature.
// The error is a *wechat.Refusal.
func (i *Ingest) fromMessage(path, component, appid string, text []byte, plain bool) (pushed, error) {
	m, err := wechat.ParseMessage(text)
	if err != nil {
		return pushed{}, err
	}
	secret := m.MsgType == "" && wechat.NamesSecret(text) // not a message, but perhaps a push
	if secret && plain {
		return pushed{}, &wechat.Refusal{Reason: wechat.ReasonField, Detail: "MsgType is missing, and there may be a secret"}
	}
	if m.MsgType == "" && m.ToUserName == "" && !plain {
		// WeChat's console has two fields for URLs, and people mix them up.
		if push, err := wechat.ParsePush(text); err == nil && push.AppID == component && push.InfoType != "" {
			return i.fromPush(path, component, text)
		}
	}
	p := pushed{kind: kindMessage, odd: m.Odd}
	id := m.ID(component, appid, text)
	at := i.now().UTC()
	if isTime(m.CreateTime) {
		p.created, at = m.CreateTime, m.CreateTime
	}
	account := releaseAccount(appid, m.Message)
	code := releaseCode(m.Message)
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
		p.reply.document = i.releaseReply(m.Message)
	}
	if secret {
		auth := events.Auth{Component: component, CreateTime: at, ReceivedAt: i.now().UTC(), Detail: wechat.NotRedactable, AskList: true}
		e, err := unreadable(auth, path, text)
		p.events = []events.Event{e}
		return p, err
	}
	p.reply.subject = events.ReplySubject(component, appid, m.MsgType, m.Event)
	subject := events.MessageSubject(component, appid, m.MsgType, m.Event)
	p.events = []events.Event{{
		Subject: subject, ID: id, Source: path, Type: eventType(subject, 2), About: appid,
		Time: at, ContentType: contentType(text), Data: text,
	}}
	return p, nil
}

// isTime reports whether WeChat can have meant t: one from before 2001 would make the message too
// old to be stored, and RFC 3339 ends with the year 9999.
func isTime(t time.Time) bool { return t.Unix() >= 1e9 && t.Year() <= 9999 }

// eventType returns the ce-type of an event on subject: the subject without its appids. No
// character in it has a meaning in a header.
func eventType(subject string, appids int) string {
	tokens := strings.Split(subject, ".")
	return strings.Join(slices.Delete(tokens, 2, 2+appids), ".")
}

// contentType returns the content type of a document, which is XML or JSON.
func contentType(text []byte) string {
	start := bytes.TrimLeftFunc(text, func(r rune) bool { return r <= ' ' || r == '\uFEFF' })
	if bytes.HasPrefix(start, []byte("{")) || bytes.HasPrefix(start, []byte("[")) {
		return "application/json"
	}
	return "application/xml"
}
