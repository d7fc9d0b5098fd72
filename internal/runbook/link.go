package runbook

import (
	"regexp"
	"strings"

	"wxtoken/internal/lang"
)

// page returns the path of the runbook's file for links, also for the alerts' runbook_url.
func page(l lang.Language) string {
	if l == lang.Chinese {
		return "docs/operations.zh-CN.md"
	}
	return "docs/operations.md"
}

// notInAnchor matches the characters of a heading that are left out in its anchor.
var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// Anchor returns the anchor of a heading, as code hosts make it.
func Anchor(heading string) string {
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// Address returns the entry's path and anchor from the root of the repository, as in the alerts'
// runbook_url.
func (e Entry) Address(l lang.Language) string { return page(l) + "#" + Anchor(headings[e].In(l)) }

// Anchor returns the entry's name in addresses of the operator's page, the same in both languages.
func (e Entry) Anchor() string { return Anchor(headings[e].EN) }

// Mention is a place in a text that names an entry.
type Mention struct {
	Entry      Entry
	From, Upto int // where its heading is in the text, in bytes
}

// Mentions returns the places where a text names entries. The text was written by See, or joined
// from several such texts; its backticks may have been removed.
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
		if e, length := headingAt(text[at:]); length > 0 {
			all = append(all, Mention{e, at, at + length})
			at += length
		}
	}
	return all
}

// headingAt returns the entry with whose heading a text begins, the one with the longest heading if
// there are several.
func headingAt(text string) (found Entry, length int) {
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
