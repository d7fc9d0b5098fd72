package wechatsim

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// Mode is how messages are pushed, as the operator of an account chooses it on the console
// ("message-push"). Components get only ModeSecurity; the other modes are for accounts without a
// component.
type Mode string

// The modes.
const (
	ModeSecurity Mode = "security" // 安全模式: encrypted, and so is the reply
	ModeCompat   Mode = "compat"   // 兼容模式: clear fields and Encrypt side by side; the reply may be clear or encrypted
	ModePlain    Mode = "plain"    // 明文模式: clear, with only a signature that does not cover the body
)

// Message is what a user sends to an account, or an event of the account.
type Message struct {
	OpenID  string // of the user; "" means oSimUser
	MsgType string // "" means text, or event if Event is set
	Event   string // of MsgType event
	Content string // of MsgType text
	MsgID   int64  // 0 means the next free one; events have none
	Mode    Mode   // "" means ModeSecurity
	JSON    bool   // JSON instead of XML, as mini programs may choose
}

// PushMessage pushes a message or an event for an account to the MessageURL.
func (p *Platform) PushMessage(componentAppID, authorizer string, m Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, a, err := p.account(componentAppID, authorizer)
	if err != nil {
		return fmt.Errorf("push message: %w", err)
	}
	if c.MessageURL == "" {
		return fmt.Errorf("push message: component %q has no MessageURL", c.AppID)
	}
	switch m.Mode {
	case "", ModeSecurity, ModeCompat, ModePlain:
	default:
		return fmt.Errorf("push message: mode %q: want %s, %s or %s", m.Mode, ModeSecurity, ModeCompat, ModePlain)
	}
	p.pushMessage(c, a, m)
	return nil
}

// pushMessage pushes a message. The caller holds p.mu.
func (p *Platform) pushMessage(c *component, a *authorizer, m Message) *push {
	m.OpenID = cmp.Or(m.OpenID, defaultOpenID)
	if m.MsgType == "" {
		m.MsgType = "text"
		if m.Event != "" {
			m.MsgType = "event"
		}
	}
	created, infoType := p.now().Unix(), m.MsgType
	document := object{
		{"ToUserName", OriginalID(a.appid)}, {"FromUserName", m.OpenID}, {"CreateTime", created}, {"MsgType", m.MsgType},
	}
	if m.MsgType == "event" {
		document = append(document, field{"Event", m.Event})
		infoType += "." + m.Event
	} else {
		id := cmp.Or(m.MsgID, 24_000_000_000_000_000+int64(p.pushes))
		document = append(document, field{"Content", m.Content}, field{"MsgId", id})
	}
	render := renderXML
	if m.JSON {
		render = renderJSON
	}
	return p.enqueue(push{
		component: c, authorizer: a.appid, message: true, openID: m.OpenID, infoType: infoType, createTime: created,
		document: render(document, p.vary()), mode: cmp.Or(m.Mode, ModeSecurity), json: m.JSON,
	})
}

// PushInfo pushes an event of any InfoType to the AuthURL, with further fields: name, value, name,
// value.
func (p *Platform) PushInfo(componentAppID, infoType string, namesAndValues ...string) error {
	if infoType == "" || len(namesAndValues)%2 != 0 {
		return errors.New("push: want an InfoType, and a value for each name")
	}
	var fields object
	for i := 0; i < len(namesAndValues); i += 2 {
		if !isElementName(namesAndValues[i]) {
			return fmt.Errorf("push: %q is not the name of an element", namesAndValues[i])
		}
		fields = append(fields, field{namesAndValues[i], namesAndValues[i+1]})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	p.pushInfo(c, "", infoType, fields...)
	return nil
}

// isElementName reports whether s may be the name of an element: letters, digits and _.
func isElementName(s string) bool {
	for i, r := range s {
		if !(r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || i > 0 && '0' <= r && r <= '9') {
			return false
		}
	}
	return s != ""
}

// PushRaw encrypts a document as it is and pushes it to the AuthURL, or, if authorizer is not
// empty, to its MessageURL, in a JSON envelope if the document begins with {. The document is not
// checked: it may be a replay, an old ticket or nonsense.
func (p *Platform) PushRaw(componentAppID, authorizer, document string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	if authorizer != "" && c.MessageURL == "" {
		return fmt.Errorf("push: component %q has no MessageURL", c.AppID)
	}
	p.enqueue(push{
		component: c, authorizer: authorizer, message: authorizer != "", openID: defaultOpenID,
		infoType: infoRaw, document: document, createTime: p.now().Unix(), mode: ModeSecurity,
		json: authorizer != "" && strings.HasPrefix(document, "{"),
	})
	return nil
}
