package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"wxtoken/internal/runbook"
)

var (
	alertExpr  = regexp.MustCompile(`(?m)^        expr: (.*)$`)
	alertEntry = regexp.MustCompile(`runbook_url: "docs/operations\.md#([^"]*)"`)
	docsExpr   = regexp.MustCompile("(?m)^\\| [^|]* \\| `(.*)` \\|$")
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// TestAlerts compares deploy/prometheus/alerts.yml with the table in docs/operations.md and with
// its headings, and lets promtool fire each alert where there is one.
func TestAlerts(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	rules, page := read("../../deploy/prometheus/alerts.yml"), read("../../docs/operations.md")
	_, table, _ := strings.Cut(page, "## Metrics and alerts")
	table, _, _ = strings.Cut(table, "\n## ")
	var told, shipped []string
	for _, m := range docsExpr.FindAllStringSubmatch(table, -1) {
		told = append(told, strings.ReplaceAll(m[1], `\|`, "|"))
	}
	for _, m := range alertExpr.FindAllStringSubmatch(rules, -1) {
		shipped = append(shipped, m[1])
	}
	if len(shipped) < 10 || strings.Join(told, "\n") != strings.Join(shipped, "\n") {
		t.Errorf("the page tells\n%s\nand alerts.yml\n%s", strings.Join(told, "\n"), strings.Join(shipped, "\n"))
	}
	anchors := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		anchors[runbook.Anchor(m[1])] = true
	}
	links := alertEntry.FindAllStringSubmatch(rules, -1)
	if len(links) != len(shipped) {
		t.Errorf("%d rules, and %d with a runbook_url", len(shipped), len(links))
	}
	for _, m := range links {
		if !anchors[m[1]] {
			t.Errorf("an alert points to %q, which the page has not", m[1])
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool (Debian's package prometheus): the alerts are not fired")
	}
	cmd := exec.CommandContext(t.Context(), promtool, "test", "rules", "alerts_test.yml")
	cmd.Dir = "../../deploy/prometheus"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
