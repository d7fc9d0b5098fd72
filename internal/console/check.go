package console

import (
	"context"
	"net/http"
	"time"

	"wxtoken/internal/lang"
)

// Checks runs the checks of --check and passes on each line: its mark (ok, warn, FAIL, skip), the name
// of the check, what was seen and what to do.
type Checks func(ctx context.Context, line func(mark, name string, saw, remedy lang.Text))

// checkPage shows the report of --check.
func (c *Console) checkPage() Page {
	return Page{
		Path: "/check", Name: "check", Nav: lang.T("Check", "检查"), Title: lang.T("Check", "检查"),
		Data: func(ctx context.Context, q *Request) (any, error) { return c.check(ctx, q) },
	}
}

// CheckReport is what the page of checks shows.
type CheckReport struct {
	At       time.Time   `json:"at"`
	Sentence string      `json:"sentence"`
	Verdict  string      `json:"verdict"` // broken, at_risk or ok
	Lines    []CheckLine `json:"lines"`
}

// CheckLine is the result of one check, as GET /check tells a program.
type CheckLine struct {
	Mark   string `json:"mark"`
	Name   string `json:"name"`
	Saw    string `json:"saw"`
	Remedy string `json:"remedy,omitempty"`
}

// check makes the page of checks.
func (c *Console) check(ctx context.Context, q *Request) (CheckReport, error) {
	r := CheckReport{At: q.Now, Lines: []CheckLine{}}
	if c.cfg.Checks == nil {
		return r, &Fault{http.StatusNotFound, lang.T("this process has no checks", "本进程不做检查")}
	}
	failed, warned := 0, 0
	c.cfg.Checks(ctx, func(mark, name string, saw, remedy lang.Text) {
		switch mark {
		case "FAIL":
			failed++
		case "warn":
			warned++
		}
		r.Lines = append(r.Lines, CheckLine{mark, name, q.Say(saw), q.Say(remedy)})
	})
	switch {
	case failed > 0:
		r.Verdict, r.Sentence = "broken", q.Say(lang.T("%d of %d checks failed.", "有 %d 项检查未通过，共 %d 项。", failed, len(r.Lines)))
		if failed == 1 {
			r.Sentence = q.Say(lang.T("1 of %d checks failed.", "有 1 项检查未通过，共 %d 项。", len(r.Lines)))
		}
	case warned > 0:
		r.Verdict, r.Sentence = "at_risk", q.Say(lang.T("No check failed; %d of %d gave a warning.", "没有检查失败；有 %d 项警告，共 %d 项检查。", warned, len(r.Lines)))
		if warned == 1 {
			r.Sentence = q.Say(lang.T("No check failed; 1 of %d gave a warning.", "没有检查失败；有 1 项警告，共 %d 项检查。", len(r.Lines)))
		}
	default:
		r.Verdict, r.Sentence = "ok", q.Say(lang.T("All %d checks passed.", "%d 项检查全部通过。", len(r.Lines)))
		if len(r.Lines) == 1 {
			r.Sentence = q.Say(lang.T("The check passed.", "检查通过。"))
		}
	}
	return r, nil
}

// Tone is the class of its badge: that of a state with the same colour.
func (l CheckLine) Tone() string {
	switch l.Mark {
	case "ok":
		return "active"
	case "warn":
		return "renewing_failed"
	case "FAIL":
		return "operator"
	}
	return ""
}

// SawText says what was seen, as it can be shown: it may quote another program.
func (l CheckLine) SawText() string { return printableLines(l.Saw) }

// RemedyText says what to do, as it can be shown.
func (l CheckLine) RemedyText() string { return unmarked(printableLines(l.Remedy)) }

// MarkText is the mark in words; JSON has the mark itself.
func (l CheckLine) MarkText() lang.Text {
	switch l.Mark {
	case "ok":
		return lang.T("passed", "通过")
	case "warn":
		return lang.T("warning", "警告")
	case "FAIL":
		return lang.T("failed", "未通过")
	}
	return lang.T("skipped", "已跳过")
}
