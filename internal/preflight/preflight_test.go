package preflight

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wxtoken/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Every part of the runbook that a remedy names is there.
func TestRemediesAreInTheRunbook(t *testing.T) {
	t.Parallel()
	runbook, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`runbook: ([A-Z][^";+]+)"`).FindAllSubmatch(text, -1) {
			named++
			if !strings.Contains(string(runbook), "\n### "+string(found[1])+"\n") {
				t.Errorf("%s: docs/operations.md has no %q", file, found[1])
			}
		}
	}
	if named < 8 {
		t.Errorf("%d parts of the runbook are named: are they still found?", named)
	}
}

func TestAddressIn(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]string{
		"access clientip is not registered requestIP: 203.0.113.7":         "203.0.113.7",
		"invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist": "203.0.113.7",
		"invalid ip 2001:db8::5, not in whitelist":                         "2001:db8::5",
		"not in whitelist": "this machine's outbound address",
		"":                 "this machine's outbound address",
	} {
		if got := addressIn(message); got != want {
			t.Errorf("%q: got %q, want %q", message, got, want)
		}
	}
}

// However often somebody looks, WeChat is asked once in a while: less often when all is well, and at once when the secret is another one.
func TestCallsAreRemembered(t *testing.T) {
	t.Parallel()
	k := calls{known: map[string]called{}}
	now := time.Date(2026, 1, 5, 8, 0, 0, 0, time.UTC)
	made := 0
	var answer error
	look := func(secret string, after time.Duration) {
		now = now.Add(after)
		_, _, err := k.once(Component{"wx1", wxtoken.NewSecret(secret)}, now, func() (bool, error) { made++; return true, answer })
		if !errors.Is(err, answer) {
			t.Errorf("got %v, want %v", err, answer)
		}
	}
	for i, row := range []struct {
		secret string
		answer error
		after  time.Duration
		made   int
	}{
		{"a", nil, 0, 1},
		{"a", nil, 14 * time.Minute, 1},
		{"a", nil, time.Minute, 2},
		{"b", errors.New("refused"), 0, 3},
	} {
		answer = row.answer
		look(row.secret, row.after)
		if made != row.made {
			t.Errorf("look %d: %d calls, want %d", i, made, row.made)
		}
	}
	look("b", 59*time.Second)
	look("b", time.Second)
	if made != 4 {
		t.Errorf("%d calls, want 4: a refusal counts for a minute", made)
	}
}
