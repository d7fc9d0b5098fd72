package internal

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// inChinese is how the name of a page in Chinese ends; the English one beside it ends in ".md".
const inChinese = ".zh-CN.md"

// quoting are the pages that name the same log lines, metrics and settings in both languages: an
// operator searches for them.
var quoting = []string{"docs/operations.md"}

// naming are those, and the page with the names that other programs rely on.
var naming = append([]string{"docs/contract.md"}, quoting...)

// page is what two languages of a page have in common.
type page struct {
	headings []string // their levels, "#" or "##" ...
	blocks   []block
	rows     int      // of tables
	spans    []string // the pieces of code in the text, sorted, each once
}

// block is a block of code.
type block struct {
	kind string // "sh", "go", ...; "" for an indented one
	line int
	text string // without what may be said in another language
}

var (
	fenceLine = regexp.MustCompile("^ *(```+|~~~+) *([A-Za-z]*)")
	listItem  = regexp.MustCompile(`^( *)(?:[-*]|\d+\.) +`)
	span      = regexp.MustCompile("`[^`]+`")

	comment     = regexp.MustCompile(`(?m)(^|\s+)(#|//)(\s.*)?$`)
	placeholder = regexp.MustCompile(`<[^<>\s]+>`)
	worded      = regexp.MustCompile(`<[^<>]+>`) // a placeholder too, in a span: "<appid or *>"
	literal     = regexp.MustCompile(`"[^"\n]*"`)
	blank       = regexp.MustCompile(`\s+`)
)

// readPage takes a page of Markdown apart.
func readPage(text string) (p page) {
	var prose strings.Builder
	var fence string // that is open
	indent := 0      // of the text of the list item that a line may belong to
	open := false    // whether the line before belongs to an indented block, or is empty, so that one may begin
	within := false  // whether the line before belongs to an indented block
	begin := func(kind string, line int) { p.blocks = append(p.blocks, block{kind: kind, line: line + 1}) }
	add := func(line string) { p.blocks[len(p.blocks)-1].text += line + "\n" }
	for i, line := range strings.Split(text, "\n") {
		words := strings.TrimSpace(line)
		mark := fenceLine.FindStringSubmatch(line)
		code := open && words != "" && strings.HasPrefix(line, strings.Repeat(" ", indent+4))
		switch {
		case fence != "" && strings.HasPrefix(words, fence):
			fence = ""
		case fence != "":
			add(line)
		case mark != nil:
			fence = mark[1]
			begin(mark[2], i)
		case code:
			if !within {
				begin("", i)
			}
			add(line)
		default:
			prose.WriteString(line + "\n")
			p.count(line)
			if item := listItem.FindString(line); item != "" {
				indent = len(item)
			} else if words != "" && line[0] != ' ' {
				indent = 0
			}
		}
		open, within = code || words == "", code
	}
	for i, b := range p.blocks {
		p.blocks[i].text = plain(b.kind, b.text)
	}
	for _, s := range span.FindAllString(prose.String(), -1) {
		p.spans = append(p.spans, blank.ReplaceAllString(worded.ReplaceAllString(s, "<>"), " "))
	}
	slices.Sort(p.spans)
	p.spans = slices.Compact(p.spans)
	return p
}

// count takes in a line that may be a heading or a row of a table.
func (p *page) count(line string) {
	switch text := strings.TrimLeft(line, "#"); {
	case text != line && strings.HasPrefix(text, " "):
		p.headings = append(p.headings, line[:len(line)-len(text)])
	case strings.HasPrefix(strings.TrimSpace(line), "|"):
		p.rows++
	}
}

// plain leaves out of a block of code what is said to a reader: comments, the names of what the
// reader fills in, and strings that are words.
func plain(kind, code string) string {
	code = comment.ReplaceAllString(code, "")
	code = placeholder.ReplaceAllString(code, "<>")
	if kind == "go" || kind == "js" || kind == "python" {
		code = literal.ReplaceAllStringFunc(code, func(s string) string {
			if strings.ContainsFunc(s, func(r rune) bool { return r == ' ' || r > unicode.MaxASCII }) {
				return `"words"`
			}
			return s
		})
	}
	var lines []string
	for line := range strings.Lines(code) {
		if line = blank.ReplaceAllString(strings.TrimSpace(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// pages returns the names of all pages, from the top of the repository.
func pages(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel("..", p)
		hidden := strings.HasPrefix(d.Name(), ".") && d.Name() != ".github"
		if d.IsDir() && name != "." && (hidden || d.Name() == "node_modules" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if !d.IsDir() && filepath.Ext(name) == ".md" {
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestLanguages: a page that is there in two languages has the same headings, tables and commands
// in both, and links to the other.
func TestLanguages(t *testing.T) {
	t.Parallel()
	found := 0
	for _, chinese := range pages(t) {
		start, ok := strings.CutSuffix(chinese, inChinese)
		if !ok {
			continue
		}
		found++
		english := start + ".md"
		t.Run(english, func(t *testing.T) {
			t.Parallel()
			a, b := read(t, english), read(t, chinese)
			for _, diff := range differences(readPage(a), readPage(b), slices.Contains(naming, english)) {
				t.Error(diff)
			}
			if !strings.Contains(head(a), "]("+path.Base(chinese)+")") || !strings.Contains(head(b), "]("+path.Base(english)+")") {
				t.Error("the two languages do not link to each other at their tops")
			}
		})
	}
	if found < 4 {
		t.Errorf("only %d pages in Chinese were found", found)
	}
}

// head returns the first lines of a page.
func head(text string) string { return strings.Join(strings.SplitN(text, "\n", 9)[:8], "\n") }

// differences says what the two languages of a page do not have in common; with spans, that means
// the pieces of code in their text too.
func differences(english, chinese page, spans bool) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	lacks := func(language string, some, other []string) {
		for _, s := range some {
			if !slices.Contains(other, s) {
				say("in %s alone: %s", language, s)
			}
		}
	}
	if spans {
		lacks("English", english.spans, chinese.spans)
		lacks("Chinese", chinese.spans, english.spans)
	}
	if !slices.Equal(english.headings, chinese.headings) {
		say("%d headings in English, %d in Chinese, or on other levels:\n%v\n%v",
			len(english.headings), len(chinese.headings), english.headings, chinese.headings)
	}
	if english.rows != chinese.rows {
		say("%d rows of tables in English, %d in Chinese", english.rows, chinese.rows)
	}
	if len(english.blocks) != len(chinese.blocks) {
		say("%d blocks of code in English, %d in Chinese", len(english.blocks), len(chinese.blocks))
	}
	for i := range min(len(english.blocks), len(chinese.blocks)) {
		a, b := english.blocks[i], chinese.blocks[i]
		printed := a.kind == "text" || a.kind == "mermaid" // what a program prints, or a drawing, may be in either language
		if a.kind != b.kind || a.text != b.text && !printed {
			say("block %d of code, line %d in English:\n%s\nline %d in Chinese:\n%s", i+1, a.line, a.text, b.line, b.text)
			break // the ones behind it only follow
		}
	}
	return out
}

// TestDifferences: each kind of difference between the languages of a page is found, and what may differ is none.
func TestDifferences(t *testing.T) {
	t.Parallel()
	english := strings.Join([]string{
		"# Page",
		"",
		"Say `hello`:",
		"",
		"    curl http://a/b    # of a process",
		"    # a comment",
		"    echo <host> #kept",
		"",
		"## Go",
		"",
		"1. Do it:",
		"",
		"       indented in a list",
		"",
		"   ```go",
		"   fmt.Println(\"in a log:\", token) // [redacted]",
		"   ```",
		"",
		"| a | b |",
		"|---|---|",
		"",
		"```text",
		"printed",
		"```",
	}, "\n") + "\n"
	// row: what is replaced, by what, and what the difference is said to be
	for _, row := range []struct{ old, new, want string }{
		{"# of a process", "# 进程", ""},
		{"    # a comment\n", "", ""},
		{"<host>", "<域名>", ""},
		{"in a log:", "日志", ""},
		{"// [redacted]", "// 不显示", ""},
		{"printed", "输出", ""},
		{"Say", "说", ""},
		{"/b  ", "/c  ", "block 1 of code"},
		{"#kept", "#other", "block 1 of code"},
		{"    curl http://a/b    # of a process\n", "", "block 1 of code"},
		{"       indented in a list\n\n", "", "4 blocks of code in English, 3 in Chinese"},
		{"indented in", "elsewhere in", "block 2 of code"},
		{"token)", "token.Value)", "block 3 of code"},
		{"```go", "```js", "block 3 of code"},
		{"## Go", "### Go", "headings"},
		{"## Go\n", "", "headings"},
		{"|---|---|\n", "", "rows of tables"},
		{"`hello`", "`bye`", "in Chinese alone: `bye`"},
	} {
		other := strings.Replace(english, row.old, row.new, 1)
		if other == english {
			t.Fatalf("%q is not on the page", row.old)
		}
		got := strings.Join(differences(readPage(english), readPage(other), true), "\n")
		if row.want == "" && got != "" || !strings.Contains(got, row.want) {
			t.Errorf("%q in the place of %q: got %q, want %q", row.new, row.old, got, row.want)
		}
	}
}

var (
	message = regexp.MustCompile("^`[A-Za-z][A-Za-z' ,.-]*`$")
	command = regexp.MustCompile("^`(docker|go|ingest|nats|nats-server|promtool|refresher|systemctl|systemd-analyze|wxtoken) ")
)

// foreign are messages of other programs that the runbook quotes.
var foreign = []string{
	"Authorization Violation", "Error recreating stream", "JetStream account 'PARTNER' could not be resolved", "consumer deleted",
	"jetstream not enabled", "leadership change", "malformed or corrupt message in ...blk", "maximum consumers limit reached",
	"missing stream header", "no heartbeat received", "no space left on device", "permissions violation",
}

// TestQuotes: a message that the runbook quotes is one that a program of ours says, or an alert.
func TestQuotes(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	code.WriteString(read(t, "deploy/prometheus/alerts.yml"))
	for _, s := range sources(t) {
		if !s.test {
			code.WriteString(read(t, s.name))
		}
	}
	found := 0
	for _, name := range quoting {
		for _, quoted := range readPage(read(t, name)).spans {
			words := strings.Trim(quoted, "`")
			if !message.MatchString(quoted) || !strings.Contains(words, " ") || command.MatchString(quoted) || slices.Contains(foreign, words) {
				continue
			}
			found++
			for _, part := range strings.Split(words, "...") {
				part = strings.TrimSpace(part)
				_, rest, _ := strings.Cut(part, " ") // it may begin with a name
				if !strings.Contains(code.String(), part) && !strings.Contains(code.String(), "%s "+rest) {
					t.Errorf("%s quotes %s, which no program of ours says", name, quoted)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d messages were found", found)
	}
}

// TestGatewayAddress: pages for those who try the gateway name the address that it has in wxtoken --sim, by
// hand and with Docker. On 8090 the fake platform answers, and refuses the key.
func TestGatewayAddress(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"README.md", "docs/gateway.md", "docs/sdks.md", "docs/webhooks.md", "docs/redis.md", "examples/README.md"} {
		for _, page := range []string{name, strings.TrimSuffix(name, ".md") + inChinese} {
			if strings.Contains(read(t, page), "http://127.0.0.1:8090") {
				t.Errorf("%s leads to the fake platform instead of the gateway, which is at 127.0.0.1:8092", page)
			}
		}
	}
}

var (
	link      = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	inHeading = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// TestLinks: what a page of ours links to is there, headings too.
func TestLinks(t *testing.T) {
	t.Parallel()
	anchors := map[string][]string{}
	names := pages(t)
	for _, name := range names {
		anchors[name] = anchorsOf(read(t, name))
	}
	found := 0
	for _, name := range names {
		for _, m := range link.FindAllStringSubmatch(read(t, name), -1) {
			if strings.Contains(m[1], ":") { // an address
				continue
			}
			found++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := path.Join(path.Dir(name), file)
			if file == "" {
				target = name
			}
			if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(target))); err != nil {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			} else if anchor != "" && !slices.Contains(anchors[target], anchor) {
				t.Errorf("%s links to %s, and %s has no such heading", name, m[1], target)
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d links were found", found)
	}
}

// anchorsOf returns the names under which a page's headings are linked to, as code hosts make them:
// letters, digits, hyphens and underscores in lower case, with hyphens for spaces; a name that was
// there before gets a number.
func anchorsOf(text string) (out []string) {
	fence := false
	for line := range strings.Lines(text) {
		if fenceLine.MatchString(line) {
			fence = !fence
		}
		title := strings.TrimLeft(line, "#")
		if fence || title == line || !strings.HasPrefix(title, " ") {
			continue
		}
		title = inHeading.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "$1")
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return r
			}
			return -1
		}, title)
		again := 0
		for _, other := range out {
			if other == anchor {
				again++
			}
		}
		if again > 0 {
			anchor = fmt.Sprintf("%s-%d", anchor, again)
		}
		out = append(out, anchor)
	}
	return out
}
