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
