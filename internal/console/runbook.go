package console

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
)

// runbookPage lists the sections of the runbook, of the version that runs.
func (c *Console) runbookPage() Page {
	return Page{
		Path: "/runbook", Name: "runbook", Under: "/check", Title: lang.T("Runbook", "运维手册"),
		Data: func(_ context.Context, q *Request) (any, error) { return runbookList(q), nil },
		Text: func(out *bytes.Buffer, data any, _ *Request) {
			for _, s := range data.(Runbook).Sections {
				fmt.Fprintf(out, "%s\n  %s\n", s.Heading, s.Href)
			}
		},
	}
}

// Runbook is what the page of the runbook shows.
type Runbook struct {
	Sections []RunbookSection `json:"sections"`
}

// RunbookSection is a section of it.
type RunbookSection struct {
	Heading string `json:"heading"` // in the language of the request
	Href    string `json:"href"`
	Entry   bool   `json:"entry"` // about something that happens or has to be done; false: one of the sections before those
}

func runbookList(q *Request) (r Runbook) {
	for _, s := range runbook.Sections() {
		r.Sections = append(r.Sections, RunbookSection{unmarked(q.Say(s.Heading)), "/runbook/" + s.Name, s.Entry})
	}
	return r
}

// Part returns the entries, or else the other sections.
func (r Runbook) Part(entries bool) (part []RunbookSection) {
	return slices.DeleteFunc(slices.Clone(r.Sections), func(s RunbookSection) bool { return s.Entry != entries })
}

// runbookEntryPage shows one section.
func (c *Console) runbookEntryPage() Page {
	return Page{
		Path: "/runbook/{entry}", Name: "runbookentry", Under: "/check", Title: lang.T("Runbook", "运维手册"),
		Data: func(_ context.Context, q *Request) (any, error) { return runbookEntry(q) },
		Text: func(out *bytes.Buffer, data any, _ *Request) {
			e := data.(RunbookEntry)
			fmt.Fprintf(out, "%s\n\n%s\n\n%s\n", e.Heading, e.Text, e.Address)
		},
	}
}

// RunbookEntry is what the page of a section shows, in the language of the request.
type RunbookEntry struct {
	Heading string        `json:"heading"`
	Text    string        `json:"text"`    // Markdown
	Address string        `json:"address"` // in the repository
	HTML    template.HTML `json:"-"`
}

// Title is the heading.
func (e RunbookEntry) Title() string { return e.Heading }

func runbookEntry(q *Request) (RunbookEntry, error) {
	all := runbook.Sections()
	i := slices.IndexFunc(all, func(s runbook.Section) bool { return s.Name == q.PathValue("entry") })
	if i < 0 {
		return RunbookEntry{}, &Fault{http.StatusNotFound, lang.T("the runbook has no such entry", "运维手册里没有这一项")}
	}
	s := all[i]
	e := RunbookEntry{Heading: unmarked(q.Say(s.Heading)), Text: q.Say(s.Text), Address: s.Address(q.Language)}
	var err error
	e.HTML, err = renderMarkdown(e.Text, q.Language)
	return e, err
}

// unmarked is a text without the backticks of Markdown.
func unmarked(text string) string { return strings.ReplaceAll(text, "`", "") }

// unmarkedText is unmarked for a text in both languages.
func unmarkedText(text lang.Text) lang.Text { return lang.Given(unmarked(text.EN), unmarked(text.ZH)) }

// withRunbookLinks is a text in which each mention of an entry of the runbook is a link to it.
func withRunbookLinks(text string) template.HTML {
	var out strings.Builder
	at := 0
	for _, m := range runbook.Mentions(text) {
		out.WriteString(template.HTMLEscapeString(text[at:m.From]))
		out.WriteString(`<a href="/runbook/` + m.Entry.Anchor() + `">` + template.HTMLEscapeString(text[m.From:m.Upto]) + `</a>`)
		at = m.Upto
	}
	out.WriteString(template.HTMLEscapeString(text[at:]))
	return template.HTML(out.String()) // #nosec G203 -- all that is foreign was escaped above
}
