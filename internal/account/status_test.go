package account

import (
	"errors"
	"testing"
	"time"

	"wxtoken/client"
)

// TestStatusOfOneInNeed has the token of an account die whose merchant was asked to authorize again, and then the merchant cancel: that
// it died hides no reason, and of one that has cancelled no link is left.
func TestStatusOfOneInNeed(t *testing.T) {
	now := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	var s wxtoken.Status
	NeedsAuthorization(now, 4, wxtoken.ReasonRefreshTokenInvalid, errors.New("refused"), "https://wx.example.com/connect/1")(&s)
	Expired(now)(&s)
	if s.State != wxtoken.StateNeedsAuthorization || ReadyReason(s) != wxtoken.ReasonRefreshTokenInvalid || s.ReauthorizeURL == "" {
		t.Errorf("the token is dead: %+v", s)
	}
	Revoked(now, nil)(&s)
	Expired(now)(&s)
	if s.State != wxtoken.StateRevoked || ReadyReason(s) != wxtoken.ReasonCancelled || s.ReauthorizeURL != "" {
		t.Errorf("cancelled: %+v", s)
	}
}
