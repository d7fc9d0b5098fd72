package account

import (
	"testing"
	"time"

	"wxtoken/client"
)

func TestRenewable(t *testing.T) {
	t.Parallel()
	owner, component := wxtoken.AuthorizerKey("wxc", "wxa"), wxtoken.ComponentKey("wxc")
	for _, row := range []struct {
		name string
		c    Credential
		want bool
	}{
		{"account with a refresh token", Credential{Key: owner, RefreshToken: "r"}, true},
		{"account without", Credential{Key: owner, Ticket: "t"}, false},
		{"account revoked", Credential{Key: owner, RefreshToken: "r", RevokedAt: time.Unix(1, 0)}, false},
		{"component with a ticket", Credential{Key: component, Ticket: "t"}, true},
		{"component without", Credential{Key: component, RefreshToken: "r"}, false},
	} {
		if row.c.Renewable() != row.want {
			t.Errorf("%s: %t", row.name, !row.want)
		}
	}
}

func TestClaimKeepsOff(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	mine, other := ForAuth(7), ForDue(7)
	until := func(at time.Time) *Claim { return &Claim{For: mine, Until: at} }
	for _, row := range []struct {
		name        string
		claim       *Claim
		purpose     string
		redelivered bool
		want        bool
	}{
		{"none", nil, other, false, false},
		{"another message", until(now.Add(time.Second)), other, false, true},
		{"another message, delivered again", until(now.Add(time.Second)), other, true, true},
		{"the same message", until(now.Add(time.Second)), mine, true, false},
		{"the same number in its first delivery", until(now.Add(time.Second)), mine, false, true}, // of a stream that was made anew
		{"over", until(now), other, false, false},
	} {
		if got := row.claim.KeepsOff(row.purpose, row.redelivered, now); got != row.want {
			t.Errorf("%s: %t, want %t", row.name, got, row.want)
		}
	}
}
