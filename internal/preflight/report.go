package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Mark is the outcome of one check.
type Mark string

// The marks.
const (
	OK   Mark = "ok"
	Warn Mark = "warn" // works, and should not stay so
	Fail Mark = "FAIL" // does not work
	Skip Mark = "skip" // not looked at, for the reason that stands beside it
)

// Line is what came of one check.
type Line struct {
	Mark   Mark   `json:"mark"`
	Name   string `json:"name"`
	Saw    string `json:"saw"`              // what was found, or why it was not looked at
	Remedy string `json:"remedy,omitempty"` // what to do: the field of WeChat's console, the flag and its variable, the command
}

// Report is what came of all checks.
type Report []Line

// Err returns an error when a check failed.
func (r Report) Err() error {
	failed := 0
	for _, l := range r {
		if l.Mark == Fail {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d checks failed", failed, len(r))
}

// WriteText writes the lines for a person.
func (r Report) WriteText(w io.Writer) error {
	width := 0
	for _, l := range r {
		width = max(width, len(l.Name))
	}
	var b strings.Builder
	for _, l := range r {
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", l.Mark, width, l.Name, l.Saw)
		if l.Remedy != "" {
			fmt.Fprintf(&b, "%*s-> %s\n", width+8, "", l.Remedy)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// ReadJSON reads a report as Handler answers it.
func ReadJSON(data []byte) (Report, error) {
	var r Report
	if err := json.Unmarshal(data, &r); err != nil || len(r) == 0 {
		return nil, errors.New("read the report: not the JSON of one")
	}
	return r, nil
}

// Print writes the lines for a person, and returns an error when a check failed.
func (r Report) Print(w io.Writer) error { return errors.Join(r.WriteText(w), r.Err()) }

// Print makes all checks of a target and writes the report, with more lines at its end. It returns an error when a
// check failed.
func Print(ctx context.Context, t Target, w io.Writer, more ...Line) error {
	c, err := New(t)
	if err != nil {
		return err
	}
	return append(c.Run(ctx), more...).Print(w)
}

func ok(name, format string, args ...any) Line {
	return Line{OK, name, fmt.Sprintf(format, args...), ""}
}

func skip(name, format string, args ...any) Line {
	return Line{Skip, name, fmt.Sprintf(format, args...), ""}
}
