package gateway

import "testing"

// TestBucketMadeAnew has a bucket be made anew, which counts its revisions from 1: an event that was written of the old one is not told again.
func TestBucketMadeAnew(t *testing.T) {
	t.Parallel()
	n := newChangeLog()
	one := eventID{event: eventToken, revision: 5}
	told := func(what string) string { return string(n.encode(one, func() any { return what }).data) }
	for _, step := range []struct {
		to         mark
		says, want string
	}{
		{mark{5, 9}, "old", `"old"`},
		{mark{6, 9}, "written twice", `"old"`},
		{mark{5, 10}, "new", `"new"`},
		{mark{6, 3}, "newer", `"newer"`},
		{mark{6, 3}, "written twice", `"newer"`},
	} {
		n.prepare(step.to)
		if got := told(step.says); got != step.want {
			t.Errorf("at %v: %s, want %s", step.to, got, step.want)
		}
		n.add(step.to, nil)
	}
}
