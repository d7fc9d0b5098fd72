package wechatsim

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// Truth is what the platform knows about one account under one component, or about the component
// itself. It has only Fingerprints of secrets.
type Truth struct {
	Component  string `json:"component"`
	Authorizer string `json:"authorizer,omitempty"` // empty for the component itself

	Live      bool      `json:"live"`                // the account authorizes the component now; of a component: it exists
	Exchanged bool      `json:"exchanged,omitempty"` // a code of the present authorization was exchanged
	AuthTime  time.Time `json:"auth_time,omitzero"`  // of the present or last authorization, in whole seconds
	Epoch     int       `json:"epoch,omitempty"`     // counts its authorizations

	RefreshToken      string `json:"refresh_token,omitempty"` // the newest, empty if none is accepted
	RefreshGeneration int    `json:"refresh_generation,omitempty"`

	Token      string    `json:"token,omitempty"`      // the newest access token, empty if none is accepted now
	Generation int       `json:"generation,omitempty"` // how many access tokens were issued
	ValidUntil time.Time `json:"valid_until,omitzero"` // of the newest access token

	Ticket        string `json:"ticket,omitempty"` // of a component: the newest
	TicketNumber  int    `json:"ticket_number,omitempty"`
	TicketsPushed bool   `json:"tickets_pushed,omitempty"` // regular tickets are pushed
	Authorizers   int    `json:"authorizers,omitempty"`    // live accounts of a component
}

// Truth returns what is true now about an account, or about the component if authorizer is empty.
// For unknown ones all fields but the names are zero.
func (p *Platform) Truth(componentAppID, authorizer string) Truth {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return Truth{Component: componentAppID, Authorizer: authorizer}
	}
	if authorizer == "" {
		return p.componentTruth(c)
	}
	if a := c.authorizers[authorizer]; a != nil {
		return p.accountTruth(c, a)
	}
	return Truth{Component: c.AppID, Authorizer: authorizer}
}

// Truths returns the truth about every component and every account that ever authorized it.
func (p *Platform) Truths() []Truth {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Truth
	for _, c := range p.sortedComponents() {
		all = append(all, p.componentTruth(c))
		first := len(all)
		for _, a := range c.authorizers {
			all = append(all, p.accountTruth(c, a))
		}
		slices.SortFunc(all[first:], func(a, b Truth) int { return strings.Compare(a.Authorizer, b.Authorizer) })
	}
	return all
}

func (p *Platform) componentTruth(c *component) Truth {
	t := Truth{
		Component: c.AppID, Live: true, Generation: c.generation,
		Ticket: fingerprintOrNone(c.ticket), TicketNumber: c.ticketNumber, TicketsPushed: c.pushing && !c.stopped,
	}
	for _, a := range c.authorizers {
		if a.authorized {
			t.Authorizers++
		}
	}
	p.addNewest(&t, c.live)
	return t
}

func (p *Platform) accountTruth(c *component, a *authorizer) Truth {
	t := Truth{
		Component: c.AppID, Authorizer: a.appid, Live: a.authorized, Exchanged: a.exchanged, AuthTime: a.authTime, Epoch: a.epoch,
		RefreshToken: fingerprintOrNone(a.refresh), RefreshGeneration: a.refreshGeneration, Generation: a.generation,
	}
	p.addNewest(&t, a.live)
	return t
}

func fingerprintOrNone(secret string) string {
	if secret == "" {
		return ""
	}
	return Fingerprint(secret)
}

func (p *Platform) addNewest(t *Truth, live []*token) {
	if len(live) == 0 {
		return
	}
	newest := live[len(live)-1]
	if t.ValidUntil = newest.validUntil(); newest.refusal(p.now()) == 0 {
		t.Token = Fingerprint(newest.value)
	}
}

// Accepts reports whether an access token of an account would be accepted now.
func (p *Platform) Accepts(componentAppID, authorizer, token string) bool {
	return p.now().Before(p.ValidUntil(componentAppID, authorizer, token))
}

// AcceptsComponent reports whether a component access token would be accepted now.
func (p *Platform) AcceptsComponent(componentAppID, token string) bool {
	return p.Accepts(componentAppID, "", token)
}

// ValidUntil returns when an access token of an account stops or stopped being valid, as of now;
// authorizer is empty for a component token. It is zero for a token that was never theirs.
func (p *Platform) ValidUntil(componentAppID, authorizer, token string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	t := p.tokens[token]
	if err != nil || t == nil || t.component != c.AppID || t.authorizer != authorizer {
		return time.Time{}
	}
	return t.validUntil()
}

// AcceptsRefresh reports whether a refresh token of an account would be accepted now.
func (p *Platform) AcceptsRefresh(componentAppID, authorizer, refreshToken string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, a, err := p.account(componentAppID, authorizer)
	return err == nil && p.refreshGenerationOf(a, refreshToken) > 0
}

// AcceptsTicket reports whether a component_verify_ticket would be accepted now.
func (p *Platform) AcceptsTicket(componentAppID, ticket string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	return err == nil && p.now().Before(c.tickets[ticket])
}

// AcceptsAccountTicket reports whether a ticket of getticket, of type jsapi or wx_card, is valid
// now: whether WeChat would accept what an account signs with it.
func (p *Platform) AcceptsAccountTicket(componentAppID, authorizer, ticketType, ticket string) bool {
	return p.now().Before(p.AccountTicketValidUntil(componentAppID, authorizer, ticketType, ticket))
}

// AccountTicketValidUntil returns when such a ticket stops or stopped being valid, as of now. It is
// zero for a ticket that was never of this account and type.
func (p *Platform) AccountTicketValidUntil(componentAppID, authorizer, ticketType, ticket string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	t := p.tickets[ticket]
	if err != nil || t == nil || t.component != c.AppID || t.authorizer != authorizer || t.what != ticketTypes[ticketType] {
		return time.Time{}
	}
	return t.validUntil()
}

// Judgement is what the platform knows about an access token, found by its SHA-256.
type Judgement struct {
	Known      bool      `json:"known"`
	Valid      bool      `json:"valid"`
	Component  string    `json:"component,omitempty"`
	Authorizer string    `json:"authorizer,omitempty"`
	Generation int       `json:"generation,omitempty"`
	Newest     bool      `json:"newest"` // no later one was issued
	ValidUntil time.Time `json:"valid_until,omitzero"`
}

// Judge looks an access token up by its SHA-256 in hex, or by the first 16 digits or more of it.
func (p *Platform) Judge(sha256Hex string) Judgement {
	if len(sha256Hex) < 16 {
		return Judgement{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for value, t := range p.tokens {
		sum := sha256.Sum256([]byte(value))
		if !strings.HasPrefix(hex.EncodeToString(sum[:]), strings.ToLower(sha256Hex)) {
			continue
		}
		issued := p.components[t.component].generation
		if t.authorizer != "" {
			issued = p.components[t.component].authorizers[t.authorizer].generation
		}
		return Judgement{
			Known: true, Valid: t.refusal(p.now()) == 0, Component: t.component, Authorizer: t.authorizer,
			Generation: t.generation, Newest: t.generation == issued, ValidUntil: t.validUntil(),
		}
	}
	return Judgement{}
}
