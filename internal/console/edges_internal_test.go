package console

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestCSVPages: each file of a list has as many rows as the first.
func TestCSVPages(t *testing.T) {
	t.Parallel()
	for query, want := range map[string][2]int{
		"": {1, maxCSV}, "page=2": {2, maxCSV}, "page=2&limit=3": {2, 3}, "limit=1": {1, 1},
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		_, page, limit, err := readFilter(&Request{Query: values, format: "csv"})
		if err != nil || page != want[0] || limit != want[1] {
			t.Errorf("%q: page %d of %d rows, %v", query, page, limit, err)
		}
	}
}

// TestCacheAndClock: a clock that goes back does not keep an answer for longer.
func TestCacheAndClock(t *testing.T) {
	t.Parallel()
	var kept cache[int]
	asked := 0
	at := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	for _, now := range []time.Time{at, at.Add(time.Second), at.Add(-time.Hour)} {
		if _, err := kept.get(now, 5*time.Second, func() (int, error) { asked++; return asked, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times, want 2", asked)
	}
}

// TestNegativeErrcode: that an account is refused with a negative errcode is a reason, too.
func TestNegativeErrcode(t *testing.T) {
	t.Parallel()
	why := deadReasons(&Tally{Dead: 2, Errcodes: map[int]int{-80002: 2}})
	if len(why) != 1 || !strings.Contains(why[0].EN, "errcode -80002") {
		t.Errorf("%+v", why)
	}
}

// TestSlotSeconds: the slots of a plot that JSON tells cover what the plot covers, also where they are no whole seconds.
func TestSlotSeconds(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	x := newIndex()
	fill(t, x, 1, now.Add(10*time.Second)) // so that the plot is that of a minute
	p := (&Console{index: x}).duePlot(&Request{Now: now})
	if covered := p.Step * float64(len(p.Series[0].Values)); covered != 60 {
		t.Errorf("%d slots of %v s", len(p.Series[0].Values), p.Step)
	}
}
