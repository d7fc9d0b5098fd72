package lang_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// verb is a verb of package fmt, or an escaped per cent.
var verb = regexp.MustCompile(`%[-+# 0]*(?:\d+|\*)?(?:\.(?:\d+|\*)?)?(?:\[\d+\])?.`)

// literal returns the value of a string literal, or of several that are added.
func literal(e ast.Expr) (value string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		value, err := strconv.Unquote(e.Value)
		return value, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		left, lok := literal(e.X)
		right, rok := literal(e.Y)
		return left + right, lok && rok && e.Op == token.ADD
	}
	return "", false
}

// name returns the name that is selected of package lang, "" of others.
func name(e ast.Expr) string {
	if s, ok := e.(*ast.SelectorExpr); ok {
		if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "lang" {
			return s.Sel.Name
		}
	}
	return ""
}

// fault says what is wrong with a call of lang.T, "" if nothing.
func fault(call *ast.CallExpr) string {
	if len(call.Args) < 2 {
		return "one text only"
	}
	en, okEN := literal(call.Args[0])
	zh, okZH := literal(call.Args[1])
	verbs := func(text string) []string {
		return slices.DeleteFunc(verb.FindAllString(text, -1), func(v string) bool { return v == "%%" })
	}
	args := len(call.Args) - 2
	spoken := regexp.MustCompile(`\pL`).MatchString(verb.ReplaceAllString(en, ""))
	switch {
	case !okEN || !okZH:
		return "not two literals: nothing can be said about them"
	case en == "":
		return "no English text"
	case zh == "":
		return "no Chinese text"
	case zh == en:
		return "the Chinese text is the English one"
	case spoken && !strings.ContainsFunc(zh, func(r rune) bool { return unicode.Is(unicode.Han, r) }):
		return "the Chinese text has no Chinese character"
	case !slices.Equal(verbs(en), verbs(zh)):
		return fmt.Sprintf("verbs %q in English, %q in Chinese", verbs(en), verbs(zh))
	case len(verbs(en)) != args && !call.Ellipsis.IsValid():
		return fmt.Sprintf("%d verbs, and %d arguments", len(verbs(en)), args)
	}
	return ""
}

// faults looks at each use of package lang in a file, and counts the texts. The headings of package runbook are
// compared with the pages of both languages there.
func faults(fset *token.FileSet, file *ast.File) (found []string, texts int) {
	ast.Inspect(file, func(n ast.Node) bool {
		wrong := ""
		switch n := n.(type) {
		case *ast.CallExpr:
			switch name(n.Fun) {
			case "T":
				texts++
				wrong = fault(n)
			case "Same":
				if text, ok := literal(n.Args[0]); ok && strings.Contains(text, " ") && file.Name.Name != "runbook" {
					wrong = "a sentence is not the same in both"
				}
			}
		case *ast.CompositeLit:
			if name(n.Type) == "Text" && len(n.Elts) > 0 {
				wrong = "a Text is made with lang.T or lang.Same"
			}
		}
		if wrong != "" {
			found = append(found, fset.Position(n.Pos()).String()+": "+wrong)
		}
		return true
	})
	return found, texts
}

// TestTexts reads all texts of the module.
func TestTexts(t *testing.T) {
	t.Parallel()
	all := 0
	err := filepath.WalkDir("../..", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base := path.Base(filepath.ToSlash(file)); entry.IsDir() && (base == "testdata" || len(base) > 2 && base[0] == '.') {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		found, texts := faults(fset, parsed)
		for _, fault := range found {
			t.Error(fault)
		}
		all += texts
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if all < 100 {
		t.Errorf("%d texts: are they still found?", all)
	}
}

// TestFaultsAreFound shows that each fault would be noticed.
func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		`lang.T("wait %s", "等 %s", x)`:                    "",
		`lang.T("100%% of " + "it", "全部的 100%%")`:         "",
		`lang.T("%s; %s", "%s；%s", x, y)`:                 "",
		`lang.T("%s", "%s", x)`:                           "is the English one",
		`lang.T("a", "")`:                                 "no Chinese text",
		`lang.T("", "字")`:                                 "no English text",
		`lang.T("wait", "wait")`:                          "is the English one",
		`lang.T("wait", "attendre")`:                      "no Chinese character",
		`lang.T("wait %s", "等", x)`:                       "verbs",
		`lang.T("%s of %d", "%d 之 %s", x, y)`:             "verbs",
		`lang.T("wait %s", "等 %s")`:                       "1 verbs, and 0 arguments",
		`lang.T("wait", "等", x)`:                          "0 verbs, and 1 arguments",
		`lang.T("50% done", "完成 50%")`:                    "verbs",
		`lang.T(x, "等")`:                                  "not two literals",
		`lang.T("wait")`:                                  "one text only",
		`lang.Text{EN: "wait", ZH: "等"}`:                  "made with lang.T",
		`lang.Same("always")`:                             "",
		`lang.Same(err.Error())`:                          "",
		`lang.Same("wait " + "a minute")`:                 "not the same in both",
		`other.T("wait", "wait")`:                         "",
		`lang.T("a", lang.T("wait", "wait").In("zh"))`:    "not two literals",
		`lang.T("wait %-4s", "等 %-4s", x)`:                "",
		`lang.T("wait %.1f", "等 %s", x)`:                  "verbs",
		"lang.T(`wait`, `等`)":                             "",
		`lang.T("\"%s\" is open", "“%s” 已打开", x)`:         "",
		`lang.T("to %s", "至 %s", lang.T("here", "here"))`: "is the English one",
	} {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "x.go", "package x\nvar _ = "+code, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		found, _ := faults(fset, file)
		if got := strings.Join(found, "; "); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", code, got, want)
		}
	}
}
