package wechat

import (
	"time"

	"wxtoken/internal/lang"
)

// MinuteLimit is how long a call is held back after 45011, too many calls in a minute.
const MinuteLimit = time.Minute

// beijing is the time zone of WeChat's days.
var beijing = time.FixedZone("UTC+8", 8*60*60)

// InChina returns the same time in China's time zone.
func InChina(t time.Time) time.Time { return t.In(beijing) }

// Stamp returns a time for a text: in UTC as RFC 3339 has it in English, China's in Chinese.
func Stamp(t time.Time) lang.Text {
	return lang.Given(t.UTC().Format(time.RFC3339), InChina(t).Format(time.DateTime)+" (UTC+8)")
}

// Day returns the day in China, such as "2026-11-22": WeChat's daily limits are for such days.
func Day(now time.Time) string { return now.In(beijing).Format(time.DateOnly) }

// nextDay returns when WeChat's next day starts, in UTC.
func nextDay(now time.Time) time.Time {
	y, m, d := now.In(beijing).Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, beijing).UTC()
}

// dayTurns is how long after midnight in China WeChat may still count calls for the day before.
const dayTurns = 10 * time.Minute

// QuotaBack returns when a call whose daily quota is used up may be made again: at the start of
// WeChat's next day. A refusal right after midnight is still about the day before, since clocks
// differ: then it is a few minutes later, at a whole one, so that all who are refused at once agree.
func QuotaBack(now time.Time) time.Time {
	next := nextDay(now)
	if now.Sub(next.Add(-24*time.Hour)) < dayTurns {
		return now.Add(dayTurns / 2).UTC().Truncate(time.Minute)
	}
	return next
}
