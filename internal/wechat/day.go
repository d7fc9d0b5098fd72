package wechat

import "time"

// MinuteLimit is how long a call rests after 45011, too many in a minute.
const MinuteLimit = time.Minute

// beijing is the time zone of WeChat's days.
var beijing = time.FixedZone("UTC+8", 8*60*60)

// InChina returns the same moment by the clocks in China.
func InChina(t time.Time) time.Time { return t.In(beijing) }

// Day returns the day in China, which WeChat's daily limits go by.
func Day(now time.Time) string { return now.In(beijing).Format(time.DateOnly) }

// nextDay returns when WeChat's daily limits start anew.
func nextDay(now time.Time) time.Time {
	y, m, d := now.In(beijing).Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, beijing).UTC()
}

// dayTurns is how long after midnight in China WeChat may still count the day before.
const dayTurns = 10 * time.Minute

// QuotaBack returns when a call whose daily quota is gone may be made again: when the day turns. A
// refusal right after that is still about the day before: no two clocks turn at once.
func QuotaBack(now time.Time) time.Time {
	next := nextDay(now)
	if now.Sub(next.Add(-24*time.Hour)) < dayTurns {
		return now.Add(dayTurns / 2).UTC()
	}
	return next
}
