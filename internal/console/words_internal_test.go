package console

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	wxtoken "wxtoken/client"
	"wxtoken/internal/lang"
	"wxtoken/internal/login"
)

// TestWords walks each enumeration that the page shows, as it stands in the sources: none of its values is shown as a program writes it.
func TestWords(t *testing.T) {
	t.Parallel()
	say := func(words map[string]lang.Text) func(string) lang.Text {
		return func(value string) lang.Text { return words[value] }
	}
	choices := func(all []choice) func(string) lang.Text {
		words := map[string]lang.Text{}
		for _, c := range all {
			words[c.Param] = c.Text
		}
		return say(words)
	}
	rights := map[string]lang.Text{}
	for right, text := range rightWords {
		rights[string(right)] = text
	}
	oddities := map[string]lang.Text{}
	for kind, text := range oddityWords {
		oddities[string(kind)] = text
	}
	for _, row := range []struct {
		files, prefix string // of constants with values that are texts
		but           string // those that are not shown, and those that belong to another row
		words         func(string) lang.Text
		least         int
	}{
		{"../../client/status.go", "State", "", func(v string) lang.Text { return stateWord(v) }, 6},
		{"../../client/status.go", "Reason", "", func(v string) lang.Text { return reasonWord(wxtoken.Reason(v)) }, 18},
		{"../../client/status.go", "Held", "", func(v string) lang.Text { return reasonWord(wxtoken.Reason(v)) }, 11},
		{"../../client/status.go", "Condition", "", func(v string) lang.Text { return conditionWord(wxtoken.ConditionType(v)) }, 5},
		{"../../client/report.go", "Outcome", "", say(outcomeWords), 4},
		{"../../client/report.go", "Outcome", "", say(outcomes), 4},
		{"../events/audit.go", "Outcome", "", say(outcomeWords), 5},
		{"../events/request.go", "Reconcile", "", say(outcomeWords), 4},
		{"../events/request.go", "Reconcile", "", say(outcomes), 4},
		{"../events/audit.go", "Action", "", say(actionWords), 9},
		{"../events/schedule.go", "Reason", "", func(v string) lang.Text { return renewalReason(v) }, 9},
		{"../account/history.go", "Reason", "", func(v string) lang.Text { return renewalReason(v) }, 1},
		{"../events/request.go", "Connect", "ConnectPending", choices(linkStandings), 4},
		{"links.go", "link", "", choices(linkStandings), 3},
		{"../ingest/metrics.go", "result", "resultAccepted", choices(pushResults), 4},
		{"../ingest/journal.go", "result", "", choices(pushResults), 2},
		{"../ingest/metrics.go", "reason", "reasonReply", say(pushReasons), 10},
		{"../wechat/refusal.go", "Reason", "", say(pushReasons), 15},
		{"../../client/document/document.go", "", "space", say(oddities), 9},
		{"../login/role.go", "", "Local", func(v string) lang.Text { return roleWord(login.Role(v)) }, 3},
		{"../services/services.go", "Right", "", say(rights), 7},
		{"../wechat/errors.go", "verdictNames", "", say(linkReasons), 10},
	} {
		values := constants(t, row.files, row.prefix, row.but)
		if len(values) < row.least {
			t.Errorf("%s: %d constants %s…, there were %d: %v", row.files, len(values), row.prefix, row.least, values)
		}
		for name, value := range values {
			// A value that is written as it is has no words.
			if text := row.words(value); text.EN == "" || text.ZH == "" || text.EN == text.ZH {
				t.Errorf("%s of %s (%q) has no words: %q", name, row.files, value, text)
			}
		}
	}
}

// constants returns the texts of the constants whose names begin so, and of the array of that name, in a file.
func constants(t *testing.T, file, prefix, but string) map[string]string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(file), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	add := func(name string, e ast.Expr) {
		if literal, ok := e.(*ast.BasicLit); ok && literal.Kind == token.STRING && strings.HasPrefix(name, prefix) && (but == "" || !strings.HasPrefix(name, but)) {
			values[name], _ = strconv.Unquote(literal.Value)
		}
	}
	for _, declared := range parsed.Decls {
		group, ok := declared.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range group.Specs {
			s, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for i, value := range s.Values {
				if list, ok := value.(*ast.CompositeLit); ok {
					for _, element := range list.Elts {
						if kv, ok := element.(*ast.KeyValueExpr); ok && group.Tok == token.VAR && s.Names[i].Name == prefix {
							key, _ := kv.Key.(*ast.Ident)
							add(prefix+key.Name, kv.Value)
						}
					}
				} else if group.Tok == token.CONST {
					add(s.Names[i].Name, value)
				}
			}
		}
	}
	return values
}
