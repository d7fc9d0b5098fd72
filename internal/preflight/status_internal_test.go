package preflight

import (
	"strings"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/truth"
)

// TestHeldBack: whatever keeps tokens from being renewed is a line that says what to do.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	until := time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC)
	with := func(reason wxtoken.Reason) *wxtoken.Status {
		return &wxtoken.Status{LastError: &wxtoken.LastError{API: "api_component_token", Code: 40125, Message: "invalid appsecret"}, Conditions: []wxtoken.Condition{
			{Type: "Ready", Status: "True"}, {Type: wxtoken.ConditionRenewing, Status: "False", Reason: reason, Message: "the message", Until: &until},
		}}
	}
	for _, row := range []struct {
		name   string
		status *wxtoken.Status
		mark   Mark
		remedy string
	}{
		{"no status", nil, Skip, ""},
		{"a status of an older program", &wxtoken.Status{}, OK, ""},
		{"nothing", &wxtoken.Status{Conditions: []wxtoken.Condition{{Type: wxtoken.ConditionRenewing, Status: "True"}}}, OK, ""},
		{"quota", with(wxtoken.HeldQuota), Fail, "The day's quota is gone"},
		{"secret", with(wxtoken.HeldRefused), Fail, "AppSecret"},
		{"empty", with(wxtoken.HeldEmptyAnswers), Fail, "compare --component-appid and the AppSecret"},
		{"away", with(wxtoken.HeldAway), Fail, "WeChat is away"},
		{"ticket", with(wxtoken.HeldNoTicket), Fail, "No ticket arrives"},
		{"another keeper", with(wxtoken.HeldTokenRefused), Fail, "Renewals are held back"},
		{"minute", with(wxtoken.HeldMinuteLimit), Warn, "Renewals are held back"},
	} {
		line := renewalsLine("renewals wxc", row.status)
		if line.Mark != row.mark || !strings.Contains(line.Remedy.EN, row.remedy) {
			t.Errorf("%s: %+v, want %s with %q", row.name, line, row.mark, row.remedy)
		}
		for saw, want := range map[string]string{line.Saw.EN: "the message", line.Saw.ZH: heldZH(row.status)} {
			if row.mark != OK && row.status != nil && (!strings.Contains(saw, want) || !strings.Contains(saw, "2026-11-22T16:00:00Z")) {
				t.Errorf("%s: %q does not tell what and until when", row.name, saw)
			}
		}
	}
}

// heldZH is what holds a component back, in Chinese.
func heldZH(s *wxtoken.Status) string {
	if s == nil {
		return ""
	}
	held, _ := s.Held()
	return truth.CauseOf(held.Reason).What(nil).ZH
}
