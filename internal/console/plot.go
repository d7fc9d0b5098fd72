package console

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"wxtoken/internal/lang"
)

// Plot is a stacked column chart over time: one column per slot, with one part per series.
type Plot struct {
	Name   string        `json:"name"`
	Title  string        `json:"title"`
	Unit   string        `json:"unit,omitempty"`
	From   time.Time     `json:"from"`
	Slot   time.Duration `json:"-"`
	Step   float64       `json:"slot_seconds"`
	Series []Series      `json:"series"`
	Note   string        `json:"note,omitempty"` // shown instead of a plot without data

	language lang.Language
}

// Series is what a plot counts, over its slots.
type Series struct {
	Name   string    `json:"name"`
	Label  string    `json:"label"`
	Class  string    `json:"-"` // its colour
	Values []float64 `json:"values"`
}

// Sum returns the sum of a series.
func (s Series) Sum() int {
	sum := 0.0
	for _, v := range s.Values {
		sum += v
	}
	return int(math.Round(sum))
}

// slots returns the number of columns.
func (p Plot) slots() int {
	n := 0
	for _, s := range p.Series {
		n = max(n, len(s.Values))
	}
	return n
}

// Summary describes the plot for screen readers.
func (p Plot) Summary() string {
	var parts []string
	for _, s := range p.Series {
		most := 0.0
		for _, v := range s.Values {
			most = max(most, v)
		}
		if p.Unit != "" {
			parts = append(parts, fmt.Sprintf("%s: %s %s %s", s.Label, lang.T("at most", "最多").In(p.language), figure(most), p.Unit))
			continue
		}
		parts = append(parts, fmt.Sprintf("%s: %s", s.Label, grouped(s.Sum())))
	}
	return strings.Join(parts, "; ")
}

// The size and margins of a plot, in units of its viewBox.
const (
	plotWidth  = 440.0
	plotHeight = 160.0
	plotLeft   = 40.0
	plotRight  = 8.0
	plotTop    = 10.0
	plotBottom = 24.0
)

// SVG draws a plot. Each column shows its figures on hover; colours are in the style sheet.
func (p Plot) SVG() template.HTML {
	var out strings.Builder
	slots := p.slots()
	top := p.top()
	fmt.Fprintf(&out, `<svg class="plot" viewBox="0 0 %g %g" role="img" aria-labelledby="plot-%[3]s-t plot-%[3]s-d" preserveAspectRatio="xMidYMid meet">`,
		plotWidth, plotHeight, p.Name)
	fmt.Fprintf(&out, `<title id="plot-%s-t">%s</title><desc id="plot-%[1]s-d">%[3]s</desc>`, p.Name, template.HTMLEscapeString(p.Title), template.HTMLEscapeString(p.Summary()))
	height, width := plotHeight-plotTop-plotBottom, plotWidth-plotLeft-plotRight
	y := func(v float64) float64 { return plotTop + height*(1-v/top) }
	for _, tick := range ticksOf(top) {
		fmt.Fprintf(&out, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1[3]f"/><text class="y" x="%[4]g" y="%.1[5]f">%[6]s</text>`,
			plotLeft, plotWidth-plotRight, y(tick), plotLeft-6, y(tick)+4, figure(tick))
	}
	step := width / float64(max(slots, 1))
	gap := min(2, step/5)
	for i := range slots {
		base := 0.0
		var said []string
		for _, s := range p.Series {
			if i < len(s.Values) && s.Values[i] > 0 {
				said = append(said, fmt.Sprintf("%s %s %s", s.Label, figure(s.Values[i]), p.Unit))
			}
		}
		if len(said) == 0 {
			continue
		}
		at := p.From.Add(time.Duration(i) * p.Slot)
		fmt.Fprintf(&out, `<g><title>%s UTC: %s</title>`, at.Format("15:04:05"), template.HTMLEscapeString(strings.TrimSpace(strings.Join(said, ", "))))
		for _, s := range p.Series {
			if i >= len(s.Values) || s.Values[i] <= 0 {
				continue
			}
			upper := y(base + s.Values[i])
			lower := y(base)
			if lower-upper < 1.5 {
				upper = lower - 1.5 // a small value stays visible
			}
			fmt.Fprintf(&out, `<rect class="%s" x="%.2f" y="%.2f" width="%.2f" height="%.2f"/>`, s.Class, plotLeft+float64(i)*step+gap/2, upper, step-gap, lower-upper)
			base += s.Values[i]
		}
		out.WriteString(`</g>`)
	}
	fmt.Fprintf(&out, `<line class="axis" x1="%g" x2="%g" y1="%.1f" y2="%.1[3]f"/>`, plotLeft, plotWidth-plotRight, y(0))
	for _, mark := range p.marks(slots) {
		fmt.Fprintf(&out, `<line class="tick" x1="%.1f" x2="%.1[1]f" y1="%.1[2]f" y2="%.1[3]f"/><text class="x" data-at="%[6]s" x="%.1[1]f" y="%.1[4]f">%[5]s</text>`,
			plotLeft+mark.at*step, y(0), y(0)+4, y(0)+18, mark.text, stamp(mark.time))
	}
	fmt.Fprintf(&out, `<text class="y zone" x="%g" y="%.1f">UTC</text>`, plotLeft-6, y(0)+18)
	out.WriteString(`</svg>`)
	return template.HTML(out.String())
}

// top returns the upper end of the axis: a round number that no column exceeds.
func (p Plot) top() float64 {
	most := 0.0
	for i := range p.slots() {
		sum := 0.0
		for _, s := range p.Series {
			if i < len(s.Values) {
				sum += s.Values[i]
			}
		}
		most = max(most, sum)
	}
	if most <= 4 {
		return 4
	}
	scale := math.Pow(10, math.Floor(math.Log10(most)))
	for _, round := range []float64{1, 1.5, 2, 3, 4, 5, 6, 8, 10} {
		if round*scale >= most {
			return round * scale
		}
	}
	return most
}

// ticksOf returns the numbers at the axis.
func ticksOf(top float64) []float64 { return []float64{top / 2, top} }

// figure writes a number in short form: 12.3k.
func figure(v float64) string {
	switch {
	case v >= 10_000:
		return fmt.Sprintf("%gk", math.Round(v/100)/10)
	case v == math.Trunc(v):
		return grouped(int(v))
	}
	return fmt.Sprintf("%.1f", v)
}

// plotMark is a time at the lower axis.
type plotMark struct {
	at   float64 // in slots
	time time.Time
	text string
}

// marks returns the times at the lower axis: about six round ones.
func (p Plot) marks(slots int) (marks []plotMark) {
	span := time.Duration(slots) * p.Slot
	every := 4 * time.Hour
	for _, d := range []time.Duration{
		10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
		10 * time.Minute, 20 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour,
	} {
		if span/d <= 6 {
			every = d
			break
		}
	}
	layout := "15:04"
	if every < time.Minute {
		layout = "15:04:05"
	}
	for at := p.From.Truncate(every).Add(every); at.Before(p.From.Add(span)); at = at.Add(every) {
		offset := float64(at.Sub(p.From)) / float64(p.Slot)
		if share := offset / float64(slots); share > 0.04 && share < 0.96 { // at the edge the text would be cut off
			marks = append(marks, plotMark{offset, at, at.Format(layout)})
		}
	}
	return marks
}

// dueSlots is the number of columns of the plot of due renewals.
const dueSlots = 48

// horizons are how far ahead that plot can look.
var horizons = []time.Duration{time.Minute, 5 * time.Minute, 20 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour}

// duePlot plots when renewals are due, so far ahead that nearly all of them are on it.
func (c *Console) duePlot(q *Request) Plot {
	seconds, all := c.index.upcoming(q.Now)
	far := horizonOf(seconds, all)
	p := Plot{Name: "due", From: q.Now, Slot: far / dueSlots, language: q.Language}
	p.Step = p.Slot.Seconds()
	p.Title = q.Say(lang.T("Renewals due in the next %s", "未来%s内到期的续期", spanInSentence(far)))
	values, until := make([]float64, dueSlots), int(far/time.Second)
	for s, n := range seconds[:until] {
		values[s*dueSlots/until] += float64(n)
	}
	p.Series = []Series{{Name: "due", Label: q.Say(lang.T("renewals", "续期")), Class: "c1", Values: values}}
	return p
}

// horizonOf returns the shortest horizon within which nine of ten renewals are due.
func horizonOf(seconds []uint32, all int) time.Duration {
	within, from := 0, 0
	for _, h := range horizons {
		until := int(h / time.Second)
		for _, n := range seconds[from:until] {
			within += int(n)
		}
		if from = until; within*10 >= all*9 {
			return h
		}
	}
	return horizons[len(horizons)-1]
}

// upcoming counts the renewals that are due from now on: all of them, and those of each second up to the
// last horizon.
func (x *index) upcoming(now time.Time) (bySecond []uint32, all int) {
	bySecond = make([]uint32, horizons[len(horizons)-1]/time.Second)
	x.mu.RLock()
	defer x.mu.RUnlock()
	from := seconds(now)
	for i := range x.rows {
		if r := &x.rows[i]; r.renews >= from && r.seen != [2]uint8{} {
			all++
			if left := r.renews - from; left < uint32(len(bySecond)) {
				bySecond[left]++
			}
		}
	}
	return bySecond, all
}
