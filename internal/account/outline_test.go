package account

import (
	"testing"
	"time"

	"wxtoken/client"
)

// TestOutline compares outlines with the credentials that they are of.
func TestOutline(t *testing.T) {
	t.Parallel()
	key := wxtoken.AuthorizerKey("wxc", "wxa")
	for name, c := range map[string]Credential{
		"good":            {Key: key, RefreshToken: "r", Generation: 2, Revision: 3, AuthorizedAt: noon, CodeDigest: "code", Authorizations: 4},
		"without a token": {Key: key, Revision: 3, Generation: 1},
		"being exchanged": {Key: key, Revision: 3, Claim: &Claim{Until: noon}},
		"revoked":         {Key: key, RefreshToken: "r", Revision: 3, RevokedAt: noon},
		"component":       {Key: wxtoken.ComponentKey("wxc"), Ticket: "t", Revision: 3, Refused: &Refused{Generation: 1, At: noon}},
		"ticket":          {Key: wxtoken.JSAPITicketKey("wxc", "wxa"), Revision: 3, Authorizations: 4},
		"lacking":         {Key: key, RefreshToken: "r", Revision: 3, Trouble: Trouble{Failures: 1, LacksPermission: true}},
		"none":            {Key: key},
	} {
		o := OutlineOf(c)
		switch {
		case o.Renewable() != c.Renewable() || o.Unrenewable() != c.Unrenewable() || o.KeptFor(4) != c.KeptFor(4):
			t.Errorf("%s: %+v", name, o)
		case o.Revision != c.Revision || o.Generation != c.Generation || o.Authorizations != c.Authorizations:
			t.Errorf("%s: %+v", name, o)
		case !o.AuthorizedAt().Equal(c.AuthorizedAt) || !o.RevokedAt().Equal(c.RevokedAt) || o.AuthorizedAt().IsZero() != c.AuthorizedAt.IsZero():
			t.Errorf("%s: authorized %v, revoked %v", name, o.AuthorizedAt(), o.RevokedAt())
		case o.LacksPermission() != (name == "lacking"):
			t.Errorf("%s: lacks a permission set: %t", name, o.LacksPermission())
		case o.Has("r") != (name == "good") || o.Has("other") || o.CameFrom("code") != (name == "good") || o.CameFrom("other"):
			t.Errorf("%s: it has another refresh token, or came from another code", name)
		case o.BeingAuthorized(noon.Add(-1)) != (name == "being exchanged") || o.BeingAuthorized(noon):
			t.Errorf("%s: being authorized before noon %t, at noon %t", name, o.BeingAuthorized(noon.Add(-1)), o.BeingAuthorized(noon))
		}
	}
}

// TestLifeOfAToken has tokens live and die, and times that no clock shows.
func TestLifeOfAToken(t *testing.T) {
	t.Parallel()
	hour := func(from, to time.Time) Life { return NewLife(1, 1, from, to, from) }
	for _, row := range []struct {
		name                           string
		life                           Life
		exists, lives, longDead, dying bool
	}{
		{name: "none"},
		{name: "in the middle", life: hour(noon.Add(-30*time.Minute), noon.Add(30*time.Minute)), exists: true, lives: true},
		{name: "dies now", life: hour(noon.Add(-time.Hour), noon), exists: true},
		{name: "dies in a moment", life: hour(noon.Add(-time.Hour), noon.Add(1)), exists: true, lives: true, dying: true},
		{name: "dead for as long as it lived", life: hour(noon.Add(-2*time.Hour), noon.Add(-time.Hour)), exists: true},
		{name: "dead for longer than it lived", life: hour(noon.Add(-2*time.Hour), noon.Add(-time.Hour-1)), exists: true, longDead: true},
		{name: "from the year 1 to 9999", life: hour(time.Time{}.Add(1), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)), exists: true, lives: true},
		{name: "died in the year 1", life: hour(time.Time{}.Add(1), time.Time{}.Add(2)), exists: true, longDead: true},
	} {
		l := row.life
		if l.Exists() != row.exists || l.Lives(noon) != row.lives || l.LongDead(noon) != row.longDead || l.DiesSoon(noon) != row.dying {
			t.Errorf("%s: exists %t, lives %t, long dead %t, dies soon %t", row.name, l.Exists(), l.Lives(noon), l.LongDead(noon), l.DiesSoon(noon))
		}
	}
	if l := LifeOf(wxtoken.Token{ExpiresAt: noon}); l.Exists() {
		t.Error("a token without a value has a life")
	}
}
