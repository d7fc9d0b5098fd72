package webhooks

import (
	"slices"
	"testing"

	"wxtoken/internal/events"
)

// TestDisjoint makes filters that one consumer can have: none of them overlap, and all that was asked for is among them.
func TestDisjoint(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ in, want []string }{
		{[]string{"a.b", "a.c"}, []string{"a.b", "a.c"}},
		{[]string{"a.b", "a.b"}, []string{"a.b"}},
		{[]string{"a.*", "a.b"}, []string{"a.*"}},
		{[]string{"a.*.x", "a.b.>"}, []string{"a.*.>"}},
		{[]string{"a.*.x", "a.b.*", "c.d"}, []string{"a.*.*", "c.d"}},
		{[]string{"a.b", "a.b.c"}, []string{"a.b", "a.b.c"}},
		{[]string{"a.event", "a.event.*", "a.>"}, []string{"a.>"}},
	} {
		got := disjoint(row.in)
		if !slices.Equal(got, row.want) {
			t.Errorf("%q: got %q, want %q", row.in, got, row.want)
		}
		for i, a := range got {
			for _, b := range got[i+1:] {
				if _, overlap := union(a, b); overlap {
					t.Errorf("%q: %q and %q overlap", row.in, a, b)
				}
			}
		}
		for _, f := range row.in {
			if !slices.ContainsFunc(got, func(all string) bool { return events.Covers(all, f) }) {
				t.Errorf("%q: %q is missing in %q", row.in, f, got)
			}
		}
	}
}
