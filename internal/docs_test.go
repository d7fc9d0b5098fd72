package internal

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const decisions = "../docs/adr"

var (
	decisionTitle  = regexp.MustCompile(`\A# (\d{4}): \S.*\n\n`)
	decisionStatus = regexp.MustCompile(`\A# .*\n\nStatus: (?:accepted|replaced by \[(\d{4})\]\((\S+)\)), \d{4}-\d{2}-\d{2}\b`)
)

// TestDecisions: each decision says its status and since when; one that was replaced and the one that replaces it name each other;
// and the list has them all.
func TestDecisions(t *testing.T) {
	t.Parallel()
	list := readPage(t, filepath.Join(decisions, "README.md"))
	pages, err := filepath.Glob(filepath.Join(decisions, "[0-9]*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("no decisions: %v", err)
	}
	for _, page := range pages {
		name := filepath.Base(page)
		if fault := decisionFault(name, readPage(t, page), list, func(other string) string { return readPage(t, filepath.Join(decisions, other)) }); fault != "" {
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

var (
	fences  = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	links   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	linked  = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	dropped = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
)

// anchors returns the anchors of a page's headings, as a host of Markdown makes them.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fences.ReplaceAllString(text, ""), -1) {
		words := linked.ReplaceAllString(m[1], "$1")
		out[strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(words), ""), " ", "-")] = true
	}
	return out
}

// TestLinks: each link between pages leads to a file that is there, and to a heading that is in it.
func TestLinks(t *testing.T) {
	t.Parallel()
	pages := map[string]string{}
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != ".." && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".github" || d.Name() == "testdata" || d.Name() == "node_modules"):
			return fs.SkipDir
		case !d.IsDir() && filepath.Ext(p) == ".md":
			pages[filepath.Clean(p)] = readPage(t, p)
		}
		return nil
	})
	if err != nil || len(pages) < 20 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	for page, text := range pages {
		for _, m := range links.FindAllStringSubmatch(fences.ReplaceAllString(text, ""), -1) {
			file, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(file, ":") {
				continue // another site
			}
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s leads nowhere", page, m[1])
			} else if other, ok := pages[target]; ok && anchor != "" && !anchors(other)[anchor] {
				t.Errorf("%s: %s: no such heading", page, m[1])
			}
		}
	}
}

func TestAnchors(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"## Who may do what":            "who-may-do-what",
		"## `wxtoken` does not: a, `b`": "wxtoken-does-not-a-b",
		"### 扩容、重启、计划内维护":               "扩容重启计划内维护",
		"## WeChat's [console](x.md)":   "wechats-console",
	} {
		if got := anchors("# A\n\n```\n# no\n```\n" + line + "\n"); !got[want] || got["no"] {
			t.Errorf("%s: %v, want %s", line, got, want)
		}
	}
}

func readPage(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
