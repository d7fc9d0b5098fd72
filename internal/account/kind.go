package account

import (
	"wxtoken/client"
	"wxtoken/internal/wechat"
)

// Kind is what sets the keys of one kind apart from the others. Kinds are told apart here and
// nowhere else in the rooms around the credential: what is different about a kind is a field, so
// that a new kind is a row and not a search for branches.
type Kind struct {
	// OfComponent: the token is the component's own, with which all calls for its accounts are made.
	// So views hold it whole, its gate knows the newest one, and its status says what holds the
	// component back.
	OfComponent bool
	// OfMerchant: a merchant's consent brought it. Such an account has a refresh token, a profile,
	// and maybe tickets beside its token.
	OfMerchant bool
	// Ticket is which ticket it is, "" for a token. A ticket is got with its account's token.
	Ticket wechat.TicketType

	// has reports whether a credential has what the next token is got with, beside an authorization
	// that is in force.
	has func(Credential) bool
}

var (
	ofComponent = Kind{OfComponent: true, has: func(c Credential) bool { return c.Ticket != "" }}
	ofMerchant  = Kind{OfMerchant: true, has: func(c Credential) bool { return c.RefreshToken != "" }}
	jsapiTicket = Kind{Ticket: wechat.TicketJSAPI, has: stored}
	cardTicket  = Kind{Ticket: wechat.TicketWxCard, has: stored}
	unknownKind = Kind{has: func(Credential) bool { return false }}
)

// stored is what a ticket takes: it needs nothing of its own but a record.
func stored(c Credential) bool { return c.Revision > 0 }

// KindOf returns what is different about a key. The sweep asks it of each key, so it is a switch
// and not a map.
func KindOf(key wxtoken.Key) *Kind {
	switch key.Kind {
	case wxtoken.KindComponent:
		return &ofComponent
	case wxtoken.KindAuthorizer:
		return &ofMerchant
	case wxtoken.KindJSAPITicket:
		return &jsapiTicket
	case wxtoken.KindWxCardTicket:
		return &cardTicket
	}
	return &unknownKind
}

// TicketKinds are the kinds of tickets that can be kept beside an account's token.
var TicketKinds = []wxtoken.Kind{wxtoken.KindJSAPITicket, wxtoken.KindWxCardTicket}

// Derived reports whether a key is that of a ticket that is got with an account's token.
func Derived(key wxtoken.Key) bool { return KindOf(key).Ticket != "" }
