package console

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
)

// runbookPage shows one entry of the runbook: that of the version that runs, where a page says what to do.
func (c *Console) runbookPage() Page {
	return Page{
		Path: "/runbook/{entry}", Name: "runbook", Under: "/check", Title: lang.T("Runbook", "运维手册"),
		Data: func(_ context.Context, q *Request) (any, error) { return runbookEntry(q) },
		Text: func(out *bytes.Buffer, data any, _ *Request) {
			e := data.(RunbookEntry)
			fmt.Fprintf(out, "%s\n\n%s\n\n%s\n", e.Heading, e.Text, e.Address)
		},
	}
}

// RunbookEntry is what the page of an entry shows, in the language of the request.
type RunbookEntry struct {
	Heading string `json:"heading"`
	Text    string `json:"text"`    // Markdown
	Address string `json:"address"` // in the repository
}

// Title is the heading.
func (e RunbookEntry) Title() string { return e.Heading }

func runbookEntry(q *Request) (RunbookEntry, error) {
	entry, ok := runbook.ByAnchor(q.PathValue("entry"))
	if !ok {
		return RunbookEntry{}, &Fault{http.StatusNotFound, lang.T("the runbook has no such entry", "运维手册里没有这一项")}
	}
	return RunbookEntry{
		Heading: strings.ReplaceAll(q.Say(entry.Heading()), "`", ""), Text: entry.Text(q.Language), Address: entry.Address(q.Language),
	}, nil
}

// linked makes links of the entries of the runbook that a text names.
func linked(text string) template.HTML {
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
