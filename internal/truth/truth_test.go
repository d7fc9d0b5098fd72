package truth_test

import (
	"strings"
	"testing"

	"wxtoken/client"
	"wxtoken/internal/gate"
	"wxtoken/internal/truth"
)

// TestCauses: each thing that can hold a component back has words of its own, in both languages, and an entry of the runbook; a severity
// has each that lasts until a person acts.
func TestCauses(t *testing.T) {
	t.Parallel()
	known := map[wxtoken.Reason]truth.Cause{}
	for _, c := range truth.Causes {
		if known[c.Name].Name != "" {
			t.Errorf("%s is there twice", c.Name)
		}
		known[c.Name] = c
		if what, do := c.What(nil), c.Do(nil); what.EN == "" || what.ZH == "" || !strings.Contains(do.EN, "runbook: ") || !strings.Contains(do.ZH, "运维手册：") {
			t.Errorf("%s: %q, %q", c.Name, what, do)
		}
	}
	for _, r := range gate.Reasons {
		if c, ok := known[r.Name]; !ok || (c.Severity == "") != (r.State == "") {
			t.Errorf("%s makes the state %q and has the severity %q", r.Name, r.State, c.Severity)
		}
	}
	if later := truth.CauseOf("OfALaterTime"); later.Severity == "" || later.What(nil).EN != "OfALaterTime" {
		t.Errorf("an unknown cause is %+v", later)
	}
}

// TestRefusals: where WeChat refused calls its errcode decides what to do, and its words are shown nowhere.
func TestRefusals(t *testing.T) {
	t.Parallel()
	e := &wxtoken.LastError{Code: 61004, API: "api_component_token", Message: "access clientip is not registered requestIP: 203.0.113.7 SEKRET"}
	c := truth.CauseOf(wxtoken.HeldRefused)
	if do := c.Do(e).EN; !strings.Contains(do, "203.0.113.7") || !strings.Contains(do, "A component is in state `operator`") || strings.Contains(do, "SEKRET") {
		t.Errorf("to do: %s", do)
	}
	if what := c.What(e).EN; what != "WeChat refuses the component's calls: api_component_token was answered errcode 61004" {
		t.Errorf("it says %s", what)
	}
	busy := &wxtoken.LastError{Code: -1, API: "api_authorizer_token"}
	if do := truth.CauseOf(truth.AccountTokenDead).Do(busy).EN; !strings.Contains(do, "runbook: ") {
		t.Errorf("to do: %s", do)
	}
}
