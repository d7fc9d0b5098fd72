package wxtoken_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"wxtoken/client"
)

// The JSON is a contract: services in other languages read it.
func TestStatusJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name   string
		status wxtoken.Status
		text   string
	}{
		{"component", wxtoken.Status{
			Key: wxtoken.ComponentKey("wxc"), State: wxtoken.StateOperator, TicketReceivedAt: &at, Failures: 2,
			Conditions: []wxtoken.Condition{{Type: "Token", Status: "False", Reason: "Refused", Message: "m", Since: at}},
			LastError:  &wxtoken.LastError{Code: 61004, Message: "access clientip is not registered", RID: "r-1", At: at},
		}, `{"key":"component.wxc","state":"operator",` +
			`"conditions":[{"type":"Token","status":"False","reason":"Refused","message":"m","since":"2026-11-22T10:00:00Z"}],` +
			`"ticket_received_at":"2026-11-22T10:00:00Z",` +
			`"last_error":{"code":61004,"message":"access clientip is not registered","rid":"r-1","at":"2026-11-22T10:00:00Z"},"failures":2}`},
		{"authorizer", wxtoken.Status{
			Key: wxtoken.AuthorizerKey("wxc", "wxa"), State: wxtoken.StateNeedsAuthorization, Conditions: []wxtoken.Condition{},
			Authorizer: &wxtoken.Authorizer{
				Profile:  map[string]json.RawMessage{"nick_name": json.RawMessage(`"Tea House"`)},
				FuncInfo: []int{1, 15}, AuthorizedAt: &at, Ref: "tenant-7",
			},
			ReauthorizeURL: "https://example.com/connect/1",
		}, `{"key":"authorizer.wxc.wxa","state":"needs_authorization","conditions":[],` +
			`"authorizer":{"authorized_at":"2026-11-22T10:00:00Z","func_info":[1,15],"nick_name":"Tea House","ref":"tenant-7"},` +
			`"failures":0,"reauthorize_url":"https://example.com/connect/1"}`},
		{"authorizer without a profile", wxtoken.Status{
			Key: wxtoken.AuthorizerKey("wxc", "wxa"), State: wxtoken.StateActive, Conditions: []wxtoken.Condition{}, Authorizer: &wxtoken.Authorizer{},
		}, `{"key":"authorizer.wxc.wxa","state":"active","conditions":[],"authorizer":{},"failures":0}`},
	} {
		text, err := json.Marshal(test.status)
		if err != nil || string(text) != test.text {
			t.Errorf("%s: JSON %s, %v\nwant %s", test.name, text, err, test.text)
		}
		var got wxtoken.Status
		if err := json.Unmarshal([]byte(test.text), &got); err != nil || !reflect.DeepEqual(got, test.status) {
			t.Errorf("%s: came back as %+v, %v", test.name, got, err)
		}
	}
}

// The fields that are ours can't be set by a profile.
func TestAuthorizerProfileKeepsOut(t *testing.T) {
	t.Parallel()
	a := wxtoken.Authorizer{Profile: map[string]json.RawMessage{
		"ref": json.RawMessage(`"forged"`), "func_info": json.RawMessage(`[99]`), "authorized_at": json.RawMessage(`"x"`),
		"user_name": json.RawMessage(`"gh_1"`),
	}}
	text, err := json.Marshal(a)
	if err != nil || string(text) != `{"user_name":"gh_1"}` {
		t.Errorf("JSON %s, %v", text, err)
	}
	if len(a.Profile) != 4 {
		t.Error("marshalling changed the profile")
	}
}

// FuzzStatus checks that whatever is taken for a status comes back the same when it is written and read again.
func FuzzStatus(f *testing.F) {
	f.Add([]byte(`{"key":"component.wxc","state":"active","conditions":[],"failures":0}`))
	f.Add([]byte(`{"key":"authorizer.wxc.wxa","state":"revoked","authorizer":{"nick_name":"a","ref":"r","func_info":[1]}}`))
	f.Fuzz(func(t *testing.T, record []byte) {
		var status, again wxtoken.Status
		if json.Unmarshal(record, &status) != nil {
			return
		}
		written, err := json.Marshal(status)
		if err != nil {
			return // no key
		}
		if err := json.Unmarshal(written, &again); err != nil {
			t.Fatalf("%s is written as %s: %v", record, written, err)
		}
		rewritten, err := json.Marshal(again)
		if err != nil || string(rewritten) != string(written) {
			t.Fatalf("%s is written as %s and then as %s, %v", record, written, rewritten, err)
		}
	})
}

// TestStateAt: the clock decides, not what was written last.
func TestStateAt(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		state     wxtoken.State
		expiresAt time.Time
		want      wxtoken.State
	}{
		{wxtoken.StateActive, now.Add(time.Second), wxtoken.StateActive},
		{wxtoken.StateActive, now, wxtoken.StateRenewingFailed},
		{wxtoken.StateActive, time.Time{}, wxtoken.StateRenewingFailed},
		{wxtoken.StateNeedsAuthorization, now, wxtoken.StateNeedsAuthorization},
		{wxtoken.StateRevoked, time.Time{}, wxtoken.StateRevoked},
		{wxtoken.StateOperator, now, wxtoken.StateOperator},
	} {
		if got := (wxtoken.Status{State: row.state}).StateAt(now, row.expiresAt); got != row.want {
			t.Errorf("%s with a token until %v is %s, want %s", row.state, row.expiresAt, got, row.want)
		}
	}
}

// TestConditionsAreInTheContract compares the types and reasons of conditions with the tables of docs/contract.md: a
// service in another language reads them there.
func TestConditionsAreInTheContract(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "../../client/status.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && spec.Type != nil {
			if kind, ok := spec.Type.(*ast.Ident); ok && (kind.Name == "ConditionType" || kind.Name == "Reason") {
				words[strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`)] = true
			}
		}
		return true
	})
	if len(words) < 30 {
		t.Fatalf("found only %v", words)
	}
	contract, err := os.ReadFile("../../docs/contract.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tables, ok := strings.Cut(string(contract), "| condition | reasons |")
	if tables, _, _ = strings.Cut(tables, "\n#"); !ok {
		t.Fatal("the contract has no table of conditions")
	}
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("`([A-Z][A-Za-z]+)`").FindAllStringSubmatch(tables, -1) {
		told[m[1]] = true
	}
	delete(told, "True")
	delete(told, "False")
	for word := range words {
		if !told[word] {
			t.Errorf("%s is not in the contract", word)
		}
	}
	for word := range told {
		if !words[word] {
			t.Errorf("%s is in the contract, and has no constant", word)
		}
	}
}
