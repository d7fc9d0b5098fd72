package preflight

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wxtoken/client"
	"wxtoken/internal/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// However often somebody looks, WeChat is asked once in a while: less often when all is well, and
// at once when the secret is another one.
func TestCallsAreRemembered(t *testing.T) {
	t.Parallel()
	k := calls{known: map[string]called{}}
	now := time.Date(2026, 1, 5, 8, 0, 0, 0, time.UTC)
	made := 0
	var answer error
	look := func(secret string, after time.Duration) {
		now = now.Add(after)
		_, _, err := k.once(settings.Component{AppID: "wx1", AppSecret: wxtoken.NewSecret(secret)}, now, func() (bool, error) { made++; return true, answer })
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
