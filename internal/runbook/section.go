package runbook

import (
	"strings"
	"sync"

	"wxtoken/docs"
	"wxtoken/internal/lang"
)

// Section is a section of docs/operations.md: an entry of the runbook, or a section before it.
type Section struct {
	Name          string // in addresses of the operator's page, the same in both languages
	Entry         bool   // it is an entry of the runbook
	Heading, Text lang.Text
}

// Address returns the section's path and anchor from the root of the repository.
func (s Section) Address(l lang.Language) string { return page(l) + "#" + Anchor(s.Heading.In(l)) }

// Sections returns all sections in their order.
var Sections = sync.OnceValue(func() (all []Section) {
	english, chinese := split(lang.English), split(lang.Chinese)
	within := false
	for i := range min(len(english), len(chinese)) { // a test checks that both pages have the same headings
		en, zh := english[i], chinese[i]
		if en.level == 2 {
			within = en.heading == "Runbook"
		}
		if en.text != "" {
			all = append(all, Section{Anchor(en.heading), within && en.level == 3, lang.Given(en.heading, zh.heading), lang.Given(en.text, zh.text)})
		}
	}
	return all
})

// Linked returns the section to which a link within the page leads; anchor is without the #.
func Linked(anchor string, l lang.Language) (Section, bool) {
	for _, s := range Sections() {
		if anchor == Anchor(s.Heading.In(l)) {
			return s, true
		}
	}
	return Section{}, false
}

// piece is a section of the page of one language.
type piece struct {
	level         int
	heading, text string
}

// split splits a page into its sections, without the text before the first one.
func split(l lang.Language) (all []piece) {
	whole, err := docs.Runbook.ReadFile(strings.TrimPrefix(page(l), "docs/"))
	if err != nil {
		return nil
	}
	fenced := false
	var text strings.Builder
	end := func() {
		if len(all) > 0 {
			all[len(all)-1].text = strings.Trim(text.String(), "\n") // an indented block may come first
		}
		text.Reset()
	}
	for line := range strings.Lines(string(whole)) {
		if strings.HasPrefix(strings.TrimLeft(line, " "), "```") {
			fenced = !fenced
		}
		hashes, heading, ok := strings.Cut(strings.TrimSpace(line), " ")
		if level := len(hashes); ok && !fenced && (level == 2 || level == 3) && hashes == "###"[:level] && line[0] == '#' {
			end()
			all = append(all, piece{level: level, heading: heading})
			continue
		}
		text.WriteString(line)
	}
	end()
	return all
}
