package console

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"wxtoken/internal/counts"
	"wxtoken/internal/lang"
)

// keptTicks is how long ticks are kept.
const keptTicks = 24 * time.Hour

// tick is what a process did within some minutes.
type tick = counts.Record

// addTick takes over a record of TRAFFIC.
func (x *index) addTick(subject string, data []byte) {
	var t tick
	if json.Unmarshal(data, &t) != nil || t.From.IsZero() {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.ticks, func(_ string, old tick) bool { return t.To.Sub(old.To) > keptTicks })
	x.ticks[subject+" "+stamp(t.From)] = t
	x.touch()
}

// historyPlots plots what all processes did in the last day, or in less while the records are younger.
func (c *Console) historyPlots(q *Request) []Plot {
	ticks := c.index.history()
	from, slot := q.Now.Add(-keptTicks), 30*time.Minute
	oldest := q.Now
	for _, t := range ticks {
		if t.From.Before(oldest) {
			oldest = t.From
		}
	}
	switch age := q.Now.Sub(oldest); {
	case age < 10*time.Minute: // as with --sim, where a record covers seconds
		from, slot = q.Now.Add(-10*time.Minute), 15*time.Second
	case age < time.Hour:
		from, slot = q.Now.Add(-time.Hour), time.Minute
	}
	from = from.Truncate(slot).Add(slot)
	slots := int(q.Now.Sub(from)/slot) + 1
	span := spanInSentence((time.Duration(slots) * slot).Round(10 * time.Minute))
	series := func(name, class string, label lang.Text) Series {
		return Series{Name: name, Class: class, Label: q.Say(label), Values: slotted(ticks, name, from, slot, slots)}
	}
	plots := []Plot{
		{Name: "renewals", Title: q.Say(lang.T("Renewals of the last %s", "最近%s的续期", span)), Series: []Series{
			series(counts.Renewed, "c1", lang.T("renewed", "成功")), series(counts.Failed, "c2", lang.T("failed", "失败"))}},
		{Name: "lateness", Title: q.Say(lang.T("Greatest delay of a renewal in the last %s, in seconds", "最近%s续期的最大延迟（秒）", span)), Unit: q.Say(lang.T("s", "秒")), Series: []Series{
			series(counts.LatestMS, "c3", lang.T("greatest delay", "最大延迟"))}},
		{Name: "pushes", Title: q.Say(lang.T("Pushes of the last %s", "最近%s的推送", span)), Series: []Series{
			series(counts.Pushes, "c1", lang.T("taken", "已接收")), series(counts.Refused, "c2", lang.T("refused", "已拒绝"))}},
	}
	for i := range plots {
		plots[i].From, plots[i].Slot, plots[i].Step, plots[i].language = from, slot, slot.Seconds(), q.Language
		if len(ticks) == 0 {
			plots[i].Note = q.Say(lang.T("Processes record what they did every ten minutes: the first figures will appear then.", "各进程每十分钟记录一次，首批数据稍后显示。"))
		}
	}
	return plots
}

// history returns the ticks, in no order.
func (x *index) history() []tick {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Collect(maps.Values(x.ticks))
}

// slotted adds up a count by slot. Of the delay it takes the greatest, in seconds.
func slotted(ticks []tick, name string, from time.Time, slot time.Duration, slots int) []float64 {
	values := make([]float64, slots)
	for _, t := range ticks {
		i := int(t.To.Add(-1).Sub(from) / slot)
		if t.To.Before(from) || i < 0 || i >= slots {
			continue
		}
		v := float64(t.Counts[name])
		if name == counts.LatestMS {
			values[i] = max(values[i], v/1000)
			continue
		}
		values[i] += v
	}
	return values
}
