package console

import (
	"bytes"
	"fmt"
	"html/template"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"

	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
)

// markdown reads the pages of docs/: CommonMark with tables. HTML in them is left out.
var markdown = goldmark.New(goldmark.WithExtensions(extension.Table))

// rendered makes HTML of a section of the runbook. A link leads to where it can: to a section that this process has with it, or out of
// the repository; of any other page its name is said, since nothing here knows where the repository lies.
func rendered(section string, l lang.Language) (template.HTML, error) {
	source := []byte(section)
	document := markdown.Parser().Parse(text.NewReader(source))
	var links []*ast.Link
	if err := ast.Walk(document, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if link, ok := n.(*ast.Link); ok && entering {
			links = append(links, link)
		}
		return ast.WalkContinue, nil
	}); err != nil {
		return "", fmt.Errorf("read the runbook: %w", err)
	}
	for _, link := range links {
		lead(link, l)
	}
	var out bytes.Buffer
	if err := markdown.Renderer().Render(&out, source, document); err != nil {
		return "", fmt.Errorf("render the runbook: %w", err)
	}
	return template.HTML(out.String()), nil // #nosec G203 -- the page is this program's own, and goldmark leaves HTML in it out
}

// lead has a link lead somewhere, or makes text of it.
func lead(link *ast.Link, l lang.Language) {
	to := string(link.Destination)
	if anchor, within := strings.CutPrefix(to, "#"); within {
		if s, ok := runbook.Linked(anchor, l); ok {
			link.Destination = []byte("/runbook/" + s.Name)
			return
		}
		to = ""
	}
	if strings.HasPrefix(to, "https://") {
		return
	}
	parent := link.Parent()
	for child := link.FirstChild(); child != nil; {
		next := child.NextSibling()
		parent.InsertBefore(parent, link, child)
		child = next
	}
	if page, _, _ := strings.Cut(to, "#"); page != "" {
		parent.InsertBefore(parent, link, ast.NewString([]byte(" (docs/"+page+")")))
	}
	parent.RemoveChild(parent, link)
}
