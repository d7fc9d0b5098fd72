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

// markdown renders pages of docs/: CommonMark with tables, without HTML.
var markdown = goldmark.New(goldmark.WithExtensions(extension.Table))

// renderMarkdown renders a section of the runbook as HTML. Links to other sections and out of the
// repository stay links. A link to another page of docs/ becomes text with its path, since this process
// does not know where the repository is.
func renderMarkdown(section string, l lang.Language) (template.HTML, error) {
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
		resolveLink(link, l)
	}
	var out bytes.Buffer
	if err := markdown.Renderer().Render(&out, source, document); err != nil {
		return "", fmt.Errorf("render the runbook: %w", err)
	}
	return template.HTML(out.String()), nil // #nosec G203 -- the page is this program's own, and goldmark leaves HTML in it out
}

// resolveLink points a link to a page of the console, or replaces it by its text.
func resolveLink(link *ast.Link, l lang.Language) {
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
