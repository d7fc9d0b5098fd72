package runbook

import (
	"regexp"
	"strings"

	"wxtoken/internal/lang"
)

// page returns the file of the runbook, as links have it: those of the alerts' runbook_url, too.
func page(l lang.Language) string {
	if l == lang.Chinese {
		return "docs/operations.zh-CN.md"
	}
	return "docs/operations.md"
}

// unlinked is what a heading loses in a link.
var unlinked = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// Anchor returns what a heading is called in a link, as code hosts make it.
func Anchor(heading string) string {
	return strings.ReplaceAll(unlinked.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// Address is where the entry stands, from the root of the repository: what the alerts have as
// runbook_url.
func (e Entry) Address(l lang.Language) string { return page(l) + "#" + Anchor(headings[e].In(l)) }

// Anchor names the entry in an address of the operator's page, the same in both languages.
func (e Entry) Anchor() string { return Anchor(headings[e].EN) }

// Mention is a place of a text that names an entry.
type Mention struct {
	Entry      Entry
	From, Upto int // of its heading, in bytes
}

// Mentions returns where a text that See wrote, or several that were joined, names entries. A page
// may have taken the backticks out.
func Mentions(text string) (all []Mention) {
	for at := 0; at < len(text); {
		next, after := -1, ""
		for _, marker := range []string{"runbook: ", "运维手册："} {
			if i := strings.Index(text[at:], marker); i >= 0 && (next < 0 || i < next) {
				next, after = i, marker
			}
		}
		if next < 0 {
			return all
		}
		at += next + len(after)
		if e, length := begins(text[at:]); length > 0 {
			all = append(all, Mention{e, at, at + length})
			at += length
		}
	}
	return all
}

// begins returns the entry with whose heading a text begins, the longest where there are several.
func begins(text string) (found Entry, length int) {
	for e := None + 1; int(e) < len(headings); e++ {
		for _, heading := range []string{headings[e].EN, headings[e].ZH} {
			for _, h := range []string{heading, strings.ReplaceAll(heading, "`", "")} {
				if strings.HasPrefix(text, h) && len(h) > length {
					found, length = e, len(h)
				}
			}
		}
	}
	return found, length
}
