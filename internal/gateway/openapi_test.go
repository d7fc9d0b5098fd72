package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"wxtoken/internal/gateway"
	"wxtoken/internal/services"
	"wxtoken/wxtokentest"
)

// spec is the description of /v1, as the gateway hands it out.
type spec struct {
	t        testing.TB
	doc      map[string]any
	compiler *jsonschema.Compiler
	seen     map[string]bool // "getToken 200"
}

const specURL = "https://wxtoken.example/openapi.json"

// readSpec reads the description. Its schemas are JSON Schema 2020-12, as OpenAPI 3.1 says.
func readSpec(t testing.TB, text []byte) *spec {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	s := &spec{t: t, doc: doc.(map[string]any), compiler: jsonschema.NewCompiler(), seen: map[string]bool{}}
	s.compiler.DefaultDraft(jsonschema.Draft2020)
	s.compiler.AssertFormat()
	if err := s.compiler.AddResource(specURL, doc); err != nil {
		t.Fatal(err)
	}
	if version, _ := s.doc["openapi"].(string); !strings.HasPrefix(version, "3.1.") {
		t.Fatalf("it is OpenAPI %q", version)
	}
	return s
}

// at returns what stands under some names, and goes on where a $ref leads.
func (s *spec) at(from any, names ...string) any {
	s.t.Helper()
	for _, name := range names {
		object, _ := from.(map[string]any)
		from = object[name]
		if object, _ := from.(map[string]any); object["$ref"] != nil {
			to := strings.Split(strings.TrimPrefix(object["$ref"].(string), "#/"), "/")
			if from = s.at(s.doc, to...); from == nil {
				s.t.Fatalf("%s leads nowhere", object["$ref"])
			}
		}
	}
	return from
}

// operation is one thing that can be asked.
type operation struct {
	method, path, id string
	parts            map[string]any
}

// operations returns all that are described.
func (s *spec) operations() (out []operation) {
	s.t.Helper()
	for path, item := range s.at(s.doc, "paths").(map[string]any) {
		for method, parts := range item.(map[string]any) {
			o := operation{strings.ToUpper(method), path, "", parts.(map[string]any)}
			o.id, _ = o.parts["operationId"].(string)
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b operation) int { return strings.Compare(a.id, b.id) })
	return out
}

// check compares an answer with the description: status, kind, headers and body.
func (s *spec) check(o operation, a answer) {
	s.t.Helper()
	status := strconv.Itoa(a.status)
	response, ok := s.at(o.parts, "responses", status).(map[string]any)
	if !ok {
		s.t.Errorf("%s: the status %d is not described: %s", o.id, a.status, a.body)
		return
	}
	s.seen[o.id+" "+status] = true
	headers, _ := response["headers"].(map[string]any)
	for name := range headers {
		if a.header.Get(name) == "" {
			s.t.Errorf("%s %d: no header %s", o.id, a.status, name)
		}
	}
	content, _ := response["content"].(map[string]any)
	kind, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	if len(content) == 0 && len(a.body) == 0 {
		return
	}
	media, ok := content[kind].(map[string]any)
	if !ok {
		s.t.Errorf("%s %d: it is %q, which is not described", o.id, a.status, kind)
		return
	}
	s.valid(fmt.Sprintf("%s %d", o.id, a.status), media["schema"], a.body)
}

// valid checks that JSON is of a schema, which is a reference or stands by itself.
func (s *spec) valid(what string, schema any, text []byte) {
	s.t.Helper()
	var problem error
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		problem = err
	} else if compiled, err := s.schema(schema); err != nil {
		problem = err
	} else {
		problem = compiled.Validate(value)
	}
	if problem != nil {
		s.t.Errorf("%s: %s\n%#v", what, text, problem)
	}
}

func (s *spec) schema(schema any) (*jsonschema.Schema, error) {
	if name, ok := schema.(map[string]any)["$ref"].(string); ok {
		return s.compiler.Compile(specURL + name)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("inline.json", schema); err != nil {
		return nil, err
	}
	return c.Compile("inline.json")
}

// routes are the patterns of the mux of /v1, from the source.
func routes(t *testing.T) (out []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(`"[A-Z]+ /v1/[^" ]*"`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range pattern.FindAll(text, -1) {
			if route, err := strconv.Unquote(string(m)); err == nil && !strings.HasSuffix(file, "_test.go") {
				out = append(out, route)
			}
		}
	}
	return out
}

// Every route is described, and everything described is a route.
func TestOpenAPIRoutes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	s := readSpec(t, text)
	want := routes(t)
	slices.Sort(want)
	var got []string
	ids := map[string]bool{}
	for _, o := range s.operations() {
		got = append(got, o.method+" "+o.path)
		if ids[o.id] || o.id == "" {
			t.Errorf("%s %s: the operationId %q is missing, or stands there twice", o.method, o.path, o.id)
		}
		ids[o.id] = true
		for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(o.path, -1) {
			if parameters, _ := o.parts["parameters"].([]any); !slices.ContainsFunc(parameters, func(p any) bool {
				return s.at(p, "name") == m[1] && s.at(p, "in") == "path" && s.at(p, "required") == true
			}) {
				t.Errorf("%s: {%s} is no parameter", o.path, m[1])
			}
		}
	}
	slices.Sort(got)
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("described are\n%q, the routes are\n%q", got, want)
	}
	for name := range s.at(s.doc, "components", "schemas").(map[string]any) {
		if _, err := s.compiler.Compile(specURL + "#/components/schemas/" + name); err != nil {
			t.Errorf("the schema %s: %v", name, err)
		}
		if !bytes.Contains(text, []byte(`"#/components/schemas/`+name+`"`)) {
			t.Errorf("the schema %s is not used", name)
		}
	}
}

// The keys of services that this test adds.
const (
	noneKey      = "none-key-SEKRET"      // has accounts and no rights
	elsewhereKey = "elsewhere-key-SEKRET" // has a component that there is not
)

// trial is one call of an operation.
type trial struct {
	id, key, rest, body string // rest is put after /v1/
	header              []string
}

// TestOpenAPI has a running gateway produce each status that is described, and compares the answers with the description.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	more := func(name, key, accounts, may string) string {
		return fmt.Sprintf(`,{"name":%q,"keys":[%q],"accounts":[%q],"may":[%s]}]}`, name, services.Digest(key), accounts, may)
	}
	text := strings.TrimSuffix(file(), "]}") + more("none", noneKey, component+"/*", "")
	text = strings.TrimSuffix(text, "]}") + more("elsewhere", elsewhereKey, "wxother00000000001/*", `"links"`)
	r.write(text)
	r.until("the services are not in force", func() bool { return strings.Contains(r.log.String(), "services read") }) // asked with their keys, they would count as wrong
	described := r.call("GET", "/v1/openapi.json", nil)
	s := readSpec(t, described.body)
	operations := map[string]operation{}
	for _, o := range s.operations() {
		operations[o.id] = o
	}
	s.check(operations["describe"], described)

	merchant, other := wxtokentest.Merchant.String(), wxtokentest.OtherMerchant.String()
	if err := r.k.WeChat.Invalidate(component, wxtokentest.Merchant.Authorizer); err != nil {
		t.Fatal(err)
	}
	etag := r.v1(allKey, "GET", "tokens/"+other, "").header.Get("ETag")
	r.k.Renew(wxtokentest.OtherMerchant) // too young to be refused
	r.until("the new token is not there", func() bool { return r.v1(allKey, "GET", "tokens/"+other, "").header.Get("ETag") != etag })
	etag = r.v1(allKey, "GET", "tokens/"+other, "").header.Get("ETag")
	large, link := strings.Repeat(" ", 70<<10), fmt.Sprintf(`{"component":%q,"ref":"tenant-17","auth_type":3,"expires_in":60}`, component)
	right := map[string]trial{ // what is answered with a good thing
		"getToken":      {rest: "tokens/" + merchant + "?wait=0"},
		"reportRefused": {rest: "tokens/" + merchant + "/refused", body: `{"generation":1}`},
		"listAccounts":  {rest: "accounts?limit=1&q=WXA&state=active&component=" + component + "&after=component." + component},
		"getAccount":    {rest: "accounts/" + other},
		"createLink":    {rest: "links", body: link},
		"followEvents":  {rest: "events"},
	}
	try := func(one trial) answer {
		o := operations[one.id]
		return r.call(o.method, "/v1/"+one.rest, []byte(one.body), append([]string{"Authorization", "Bearer " + one.key}, one.header...)...)
	}
	for _, one := range []trial{
		{id: "getToken", key: realKey, rest: "tokens/" + wxtokentest.Component.String()},
		{id: "getToken", key: allKey, rest: "tokens/" + other, header: []string{"If-None-Match", etag}},
		{id: "getToken", key: allKey, rest: "tokens/authorizer." + component + ".wxnobody"},
		{id: "getToken", key: allKey, rest: "tokens/x"},
		{id: "getAccount", key: allKey, rest: "accounts/authorizer." + component + ".wxnobody"},
		{id: "getAccount", key: allKey, rest: "accounts/" + wxtokentest.Component.String()},
		{id: "getAccount", key: allKey, rest: "accounts/x"},
		{id: "reportRefused", key: allKey, rest: "tokens/" + other + "/refused", body: `{"generation":2}`},
		{id: "reportRefused", key: shopKey, rest: "tokens/" + other + "/refused", body: `{"generation":2}`},
		{id: "reportRefused", key: allKey, rest: "tokens/" + other + "/refused", body: `{"refx":1}`},
		{id: "reportRefused", key: allKey, rest: "tokens/" + other + "/refused", body: large},
		{id: "listAccounts", key: allKey, rest: "accounts"},
		{id: "listAccounts", key: allKey, rest: "accounts?state=fine"},
		{id: "createLink", key: elsewhereKey, rest: "links", body: `{"component":"wxother00000000001"}`},
		{id: "createLink", key: allKey, rest: "links", body: `{"refx":1}`},
		{id: "createLink", key: allKey, rest: "links", body: large},
		{id: "followEvents", key: allKey, rest: "events", header: []string{"Last-Event-ID", "x"}},
	} {
		s.check(operations[one.id], try(one))
	}
	away := r.withoutView()
	for id, one := range right {
		o := operations[id]
		one.id, one.key = id, allKey
		if id != "followEvents" {
			s.check(o, try(one))
		}
		for _, key := range []string{"wrong", noneKey} {
			one.key = key
			s.check(o, try(one))
		}
		s.check(o, away(o.method, "/v1/"+one.rest, one.body))
	}
	s.follow(r, operations["followEvents"])
	s.parameters(operations, right, try)
	for id, one := range right { // at last: it shuts out this address for a while
		one.id, one.key = id, "wrong"
		r.until("wrong keys are not limited", func() bool {
			a := try(one)
			s.check(operations[id], a)
			return a.status == http.StatusTooManyRequests
		})
	}
	for id, o := range operations {
		for status := range s.at(o.parts, "responses").(map[string]any) {
			if status != "default" && !s.seen[id+" "+status] {
				t.Errorf("%s: the status %s is described, and did not come", id, status)
			}
		}
	}
}

// withoutView returns how to ask a gateway that has not read anything from NATS.
func (r *rig) withoutView() func(method, path, body string) answer {
	r.Helper()
	signer, err := gateway.ReadSigner(strings.NewReader(gateway.MakeTokenKey()))
	r.must(err)
	watch, err := services.Open(r.file, zerolog.Nop())
	r.must(err)
	g, err := gateway.New(gateway.Config{RetryBody: 1, MaxBody: 1}, gateway.Deps{
		NATS: r.nc, Services: watch, Signer: signer, WeChat: r.wechat.url, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(), Now: time.Now,
	})
	r.must(err)
	return func(method, path, body string) answer {
		req := httptest.NewRequestWithContext(r.Context(), method, path, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+allKey)
		w := httptest.NewRecorder()
		g.Handler().ServeHTTP(w, req)
		return answer{w.Code, w.Header(), w.Body.Bytes()}
	}
}

// parameters checks that those described are known, and no others where some are.
func (s *spec) parameters(operations map[string]operation, right map[string]trial, try func(trial) answer) {
	s.t.Helper()
	for id, o := range operations {
		parameters, _ := o.parts["parameters"].([]any)
		asked := url.Values{}
		for _, p := range parameters {
			if s.at(p, "in") != "query" {
				continue
			}
			name, example := s.at(p, "name").(string), fmt.Sprint(s.at(p, "example"))
			asked.Set(name, example)
			one := right[id]
			one.id, one.key = id, allKey
			one.rest, _, _ = strings.Cut(one.rest, "?")
			one.rest += "?" + url.Values{name: {example}}.Encode()
			if a := try(one); a.status != http.StatusOK {
				s.t.Errorf("%s: the parameter %s is not taken: %d %s", id, name, a.status, a.body)
			}
		}
		if len(asked) == 0 {
			continue
		}
		one := right[id]
		one.id, one.key = id, allKey
		one.rest, _, _ = strings.Cut(one.rest, "?")
		one.rest += "?unknown=1"
		a := try(one)
		for name := range maps.Keys(asked) {
			if a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), name) {
				s.t.Errorf("%s: an unknown parameter is answered with %d %s, which does not name %s", id, a.status, a.body, name)
			}
		}
	}
}

// follow reads a stream until each kind of event came, and has it go on from the first id.
func (s *spec) follow(r *rig, o operation) {
	r.Helper()
	first := s.stream(r, o, "", func(kinds map[string]bool) {
		switch {
		case !kinds["token"]:
			r.k.Renew(wxtokentest.OtherMerchant)
		case !kinds["lost"]:
			r.k.Revoke(wxtokentest.OtherMerchant)
		}
	}, "token", "state", "lost")
	s.stream(r, o, first, func(map[string]bool) {}, "state")
}

// stream reads events until those wanted came, and returns the first id. next makes something happen: it is called at the start and
// after each event.
func (s *spec) stream(r *rig, o operation, last string, next func(kinds map[string]bool), want ...string) (first string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, o.method, r.url+o.path, nil)
	r.must(err)
	req.Header.Set("Authorization", "Bearer "+allKey)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	res, err := r.http.Do(req)
	r.must(err)
	defer func() { _ = res.Body.Close() }()
	kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
	media, ok := s.at(o.parts, "responses", strconv.Itoa(res.StatusCode), "content", kind).(map[string]any)
	if !ok || res.StatusCode != http.StatusOK {
		r.Fatalf("%s: %s %s", o.id, res.Status, kind)
	}
	s.seen[o.id+" 200"] = true
	pattern := regexp.MustCompile(s.at(o.parts["parameters"].([]any)[0], "schema", "pattern").(string))
	kinds, event := map[string]bool{}, ""
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			if !pattern.MatchString(value) {
				r.Errorf("the id %q is not as described", value)
			}
			if first == "" {
				first = value
			}
		case "event":
			event = value
		case "data":
			schema, ok := media["x-events"].(map[string]any)[event]
			if !ok {
				r.Fatalf("the event %q is not described", event)
			}
			s.valid("event "+event, schema, []byte(value))
			kinds[event] = true
		case "":
			if !slices.ContainsFunc(want, func(kind string) bool { return !kinds[kind] }) {
				return first
			}
			next(kinds)
		}
	}
	r.Fatalf("the stream ended after %v: %v", kinds, lines.Err())
	return ""
}
