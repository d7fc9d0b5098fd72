package wechat

import (
	"testing"
	"time"
)

func TestQuotaBack(t *testing.T) {
	t.Parallel()
	for now, want := range map[string]string{
		"2026-11-22T12:00:00Z": "2026-11-22T16:00:00Z",
		"2026-11-22T15:59:59Z": "2026-11-22T16:00:00Z",
		"2026-11-22T16:00:00Z": "2026-11-22T16:05:00Z", // our clock is ahead, and it is still the day before there
		"2026-11-22T16:09:59Z": "2026-11-22T16:14:00Z",
		"2026-11-22T16:10:00Z": "2026-11-23T16:00:00Z",
	} {
		at, err := time.Parse(time.RFC3339, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := QuotaBack(at).Format(time.RFC3339); got != want {
			t.Errorf("gone at %s, back at %s, want %s", now, got, want)
		}
	}
}

func TestNextDay(t *testing.T) {
	t.Parallel()
	for now, want := range map[string]string{
		"2026-11-22T12:00:00Z":        "2026-11-22T16:00:00Z",
		"2026-11-22T15:59:59Z":        "2026-11-22T16:00:00Z",
		"2026-11-22T16:00:00Z":        "2026-11-23T16:00:00Z",
		"2026-12-31T23:00:00+08:00":   "2026-12-31T16:00:00Z",
		"2028-02-28T20:00:00.5-05:00": "2028-02-29T16:00:00Z",
	} {
		at, err := time.Parse(time.RFC3339, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := nextDay(at).Format(time.RFC3339); got != want {
			t.Errorf("after %s a day begins at %s, want %s", now, got, want)
		}
	}
}
