package events_test

import (
	"testing"

	"wxtoken/internal/events"
)

func TestCoversAndOverlaps(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		allowed, wanted  string
		covers, overlaps bool
	}{
		{"a.b", "a.b", true, true},
		{"a.b", "a.c", false, false},
		{"a.*", "a.b", true, true},
		{"a.b", "a.*", false, true},
		{"a.*", "a.b.c", false, false},
		{"a.>", "a.b.c", true, true},
		{"a.>", "a", false, false},
		{"a.>", "a.>", true, true},
		{"a.*", "a.>", false, true},
		{"a.b.>", "a.>", false, true},
		{">", "a.>", true, true},
		{"*.b", "a.*", false, true},
		{"a.*.c", "a.b.c", true, true},
		{"a.*.c", "a.b.d", false, false},
		{"a.b", "a", false, false},
	} {
		if got := events.Covers(row.allowed, row.wanted); got != row.covers {
			t.Errorf("Covers(%q, %q) = %v", row.allowed, row.wanted, got)
		}
		if got := events.Overlaps(row.allowed, row.wanted); got != row.overlaps {
			t.Errorf("Overlaps(%q, %q) = %v", row.allowed, row.wanted, got)
		}
	}
}
