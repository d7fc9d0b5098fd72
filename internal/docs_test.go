package internal

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const decisions = "docs/adr"

var (
	decisionTitle  = regexp.MustCompile(`\A# (\d{4}): \S.*\n\n`)
	decisionStatus = regexp.MustCompile(`\A# .*\n\nStatus: (?:accepted|replaced by \[(\d{4})\]\((\S+)\)), \d{4}-\d{2}-\d{2}\b`)
)

// TestDecisions: each decision says its status and since when; one that was replaced and the one that replaces it name each other;
// and the list has them all.
func TestDecisions(t *testing.T) {
	t.Parallel()
	list := read(t, decisions+"/README.md")
	pages, err := filepath.Glob("../" + decisions + "/[0-9]*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no decisions: %v", err)
	}
	for _, page := range pages {
		name := filepath.Base(page)
		if fault := decisionFault(name, read(t, decisions+"/"+name), list, func(other string) string { return read(t, decisions+"/"+other) }); fault != "" {
			t.Errorf("%s: %s", name, fault)
		}
	}
}

// decisionFault says what a decision lacks, or nothing. read reads another decision.
func decisionFault(name, text, list string, read func(name string) string) string {
	title := decisionTitle.FindStringSubmatch(text)
	if title == nil || title[1] != name[:4] {
		return fmt.Sprintf("the first line is not %q", "# "+name[:4]+": ...")
	}
	status := decisionStatus.FindStringSubmatch(text)
	if status == nil {
		return `no line "Status: accepted, YYYY-MM-DD" or "Status: replaced by [NNNN](NNNN-....md), YYYY-MM-DD" below the title`
	}
	if status[1] != "" && !strings.Contains(read(status[2]), "Replaces ["+name[:4]+"]("+name+")") {
		return status[2] + " does not say that it replaces this one"
	}
	row := regexp.MustCompile(`(?m)^\| \[` + name[:4] + `\]\(` + regexp.QuoteMeta(name) + `\) \| .+ \| (accepted|replaced by \[` + status[1] + `\]).* \|$`).FindStringSubmatch(list)
	if row == nil {
		return "no row with its status in README.md"
	}
	if replaced := strings.HasPrefix(row[1], "replaced"); replaced != (status[1] != "") {
		return "README.md shows another status"
	}
	return ""
}

func TestDecisionFault(t *testing.T) {
	t.Parallel()
	const name, list = "0001-a.md", "| [0001](0001-a.md) | A | accepted, 2026-11-28 |\n"
	for _, row := range []struct{ what, text, list, other, want string }{
		{"good", "# 0001: A\n\nStatus: accepted, 2026-11-28\n", list, "", ""},
		{"amended", "# 0001: A\n\nStatus: accepted, 2026-11-28. Amended by [0002](0002-b.md): c.\n", list, "", ""},
		{"replaced", "# 0001: A\n\nStatus: replaced by [0002](0002-b.md), 2026-11-28\n",
			"| [0001](0001-a.md) | A | replaced by [0002](0002-b.md), 2026-11-28 |\n", "Replaces [0001](0001-a.md).", ""},
		{"number", "# 0002: A\n\nStatus: accepted, 2026-11-28\n", list, "", "first line"},
		{"no status", "# 0001: A\n\n## Context\n", list, "", "no line"},
		{"no date", "# 0001: A\n\nStatus: accepted\n", list, "", "no line"},
		{"one side only", "# 0001: A\n\nStatus: replaced by [0002](0002-b.md), 2026-11-28\n", list, "# 0002: B\n", "does not say"},
		{"not listed", "# 0001: A\n\nStatus: accepted, 2026-11-28\n", "", "", "no row"},
		{"listed otherwise", "# 0001: A\n\nStatus: replaced by [0002](0002-b.md), 2026-11-28\n", list, "Replaces [0001](0001-a.md).", "another status"},
	} {
		fault := decisionFault(name, row.text, row.list, func(string) string { return row.other })
		if row.want == "" && fault != "" || !strings.Contains(fault, row.want) {
			t.Errorf("%s: %q, want %q", row.what, fault, row.want)
		}
	}
}
