package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
)

// Mark is the result of a check. Like the names of the checks it is the same in both languages: scripts look for
// them, and the runbook names them.
type Mark string

// The marks.
const (
	OK   Mark = "ok"
	Warn Mark = "warn" // works, but should be fixed
	Fail Mark = "FAIL" // does not work
	Skip Mark = "skip" // not checked; Saw says why
)

// Line is the line of a check in the report.
type Line struct {
	Mark   Mark
	Name   string
	Saw    lang.Text // what was found, or why it was not checked
	Remedy lang.Text // what to do: the field of WeChat's console, the flag and its variable, the command
}

// lineJSON is a line in one language, for JSON.
type lineJSON struct {
	Mark   Mark   `json:"mark"`
	Name   string `json:"name"`
	Saw    string `json:"saw"`
	Remedy string `json:"remedy,omitempty"`
	// Runbook has the addresses of the entries that the remedy names, as in the alerts' runbook_url.
	Runbook []string `json:"runbook,omitempty"`
}

// addresses returns the addresses of the runbook's entries that a remedy names.
func addresses(remedy string, l lang.Language) (all []string) {
	for _, m := range runbook.Mentions(remedy) {
		if address := m.Entry.Address(l); !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	return all
}

// Report is the result of all checks.
type Report []Line

// Err returns an error if a check failed.
func (r Report) Err(l lang.Language) error {
	failed := 0
	for _, line := range r {
		if line.Mark == Fail {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	return errors.New(lang.T("%d of %d checks failed", "有 %d 项检查没有通过，共 %d 项", failed, len(r)).In(l))
}

// WriteText writes the report for a person.
func (r Report) WriteText(w io.Writer, l lang.Language) error {
	width := 0
	for _, line := range r {
		width = max(width, len(line.Name))
	}
	var b strings.Builder
	for _, line := range r {
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", line.Mark, width, line.Name, line.Saw.In(l))
		if !line.Remedy.IsZero() {
			fmt.Fprintf(&b, "%*s-> %s\n", width+8, "", line.Remedy.In(l))
			for _, address := range addresses(line.Remedy.In(l), l) {
				fmt.Fprintf(&b, "%*s   %s\n", width+8, "", address)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteJSON writes the report for a program: [{"mark","name","saw","remedy","runbook"}].
func (r Report) WriteJSON(w io.Writer, l lang.Language) error {
	lines := make([]lineJSON, len(r))
	for i, line := range r {
		lines[i] = lineJSON{line.Mark, line.Name, line.Saw.In(l), line.Remedy.In(l), addresses(line.Remedy.In(l), l)}
	}
	return json.NewEncoder(w).Encode(lines)
}

// ReadJSON reads a report of Handler. It has texts in one language only.
func ReadJSON(data []byte) (Report, error) {
	var lines []lineJSON
	if err := json.Unmarshal(data, &lines); err != nil || len(lines) == 0 {
		return nil, errors.New("read the report: not the JSON of one")
	}
	r := make(Report, len(lines))
	for i, line := range lines {
		r[i] = Line{line.Mark, line.Name, lang.Same(line.Saw), lang.Same(line.Remedy)}
	}
	return r, nil
}

// Print writes the report for a person, and returns an error if a check failed.
func (r Report) Print(w io.Writer, l lang.Language) error {
	return errors.Join(r.WriteText(w, l), r.Err(l))
}

// Print runs all checks of a target and writes the report, with more lines at its end. It returns an error if a
// check failed.
func Print(ctx context.Context, t Target, w io.Writer, more ...Line) error {
	c, err := New(t)
	if err != nil {
		return err
	}
	return append(c.Run(ctx), more...).Print(w, t.Language)
}

func ok(name string, saw lang.Text) Line { return Line{OK, name, saw, lang.Text{}} }

func skip(name string, why lang.Text) Line { return Line{Skip, name, why, lang.Text{}} }
