package services_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"wxtoken/client"
	"wxtoken/internal/services"
)

const (
	component = "wxc0ffee0000000001"
	other     = "wxc0ffee0000000002"
	shop      = "wxa000000000000001"
	hotel     = "wxa000000000000002"
)

// secret is a good one for webhooks.
var secret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("SEKRETSEKRETSEKRETSEKRET"))

// parse reads a file that has to be good.
func parse(t *testing.T, text string) *services.Services {
	t.Helper()
	s, err := services.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// one reads a file with one service, of which a key and these fields are given.
func one(t *testing.T, fields string) *services.Service {
	t.Helper()
	return parse(t, fmt.Sprintf(`{"services":[{"name":"shop","keys":[%q],%s}]}`, services.Digest("k"), fields)).All()[0]
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	digest := services.Digest("SEKRET-key")
	entry := func(fields string) string {
		return fmt.Sprintf(`{"services":[{"name":"shop","keys":[%q]%s}]}`, digest, fields)
	}
	hook := func(fields string) string { return entry(`,"webhooks":[{` + fields + `}]`) }
	good := func(url, messages, secret string) string {
		return hook(fmt.Sprintf(`"url":%q,"messages":[%s],"secret":%q`, url, messages, secret))
	}
	for name, row := range map[string]struct {
		text string
		want []string // parts of the error
	}{
		"empty":                {"", []string{"unexpected end"}},
		"half written":         {`{"services":[{"name":"shop","keys":["SEKRET`, []string{"unexpected end"}},
		"no JSON":              {"services: []", []string{"invalid JSON at byte 1"}},
		"two documents":        {`{"services":[]}{"services":[]}`, []string{"text after the JSON object"}},
		"an unknown field":     {`{"services":[],"service":[]}`, []string{`unknown field "service"`}},
		"unknown in a service": {entry(`,"right":["token"]`), []string{`unknown field "right"`}},
		"unknown in a webhook": {hook(`"uri":"http://x"`), []string{`unknown field "uri"`}},
		"another kind":         {`{"services":[{"name":7}]}`, []string{"services.name", "number", "unexpected"}},
		"a list":               {`[]`, []string{"array", "unexpected"}},
		"a key as a number":    {`{"services":[{"name":"shop","keys":[7]}]}`, []string{"keys", "unexpected"}},

		"no name":        {`{"services":[{"keys":["` + digest + `"]}]}`, []string{"services[0]", "name: want lower-case"}},
		"a bad name":     {`{"services":[{"name":"Shop 1","keys":["` + digest + `"]}]}`, []string{"services[0] Shop 1", "name: want lower-case"}},
		"a long name":    {`{"services":[{"name":"` + strings.Repeat("x", 65) + `","keys":["` + digest + `"]}]}`, []string{"64 at most"}},
		"a name twice":   {`{"services":[{"name":"a","keys":["` + services.Digest("1") + `"]},{"name":"a","keys":["` + services.Digest("2") + `"]}]}`, []string{"services[1] a", "twice"}},
		"no keys":        {`{"services":[{"name":"shop"}]}`, []string{"keys: none", "--make-key=shop"}},
		"a key itself":   {`{"services":[{"name":"shop","keys":["SEKRET-key"]}]}`, []string{"keys[0]", "sha256:", "64 hex digits"}},
		"a short digest": {`{"services":[{"name":"shop","keys":["sha256:5E4C3E7"]}]}`, []string{"keys[0]"}},
		"no hex":         {`{"services":[{"name":"shop","keys":["sha256:` + strings.Repeat("SEKRET-x", 8) + `"]}]}`, []string{"keys[0]"}},
		"a key twice":    {`{"services":[{"name":"a","keys":["` + digest + `"]},{"name":"b","keys":["` + digest + `"]}]}`, []string{"services[1] b", "keys[0]", "twice"}},
		"in upper case":  {`{"services":[{"name":"a","keys":["` + digest + `","sha256:` + strings.ToUpper(strings.TrimPrefix(digest, "sha256:")) + `"]}]}`, []string{"keys[1]", "twice"}},

		"no account":           {entry(`,"accounts":["` + component + `"]`), []string{"accounts[0]: want <component>/<appid>"}},
		"an empty one":         {entry(`,"accounts":["` + component + `/*",""]`), []string{"accounts[1]"}},
		"all components":       {entry(`,"accounts":["*/*"]`), []string{"accounts[0]"}},
		"part of an appid":     {entry(`,"accounts":["` + component + `/wx*"]`), []string{"accounts[0]"}},
		"three parts":          {entry(`,"accounts":["` + component + `/a/b"]`), []string{"accounts[0]"}},
		"a ref without a star": {entry(`,"accounts":["ref:tenant-1"]`), []string{"accounts[0]: want ref:<prefix>*"}},
		"a ref with two":       {entry(`,"accounts":["ref:*tenant*"]`), []string{"accounts[0]: want ref:<prefix>*"}},
		"no right":             {entry(`,"may":["token","tokens"]`), []string{"may[1]: want one of token, relay, real, component, links, accounts, events"}},
		"no path":              {entry(`,"apis":["cgi-bin/"]`), []string{"apis[0]: want the beginning of a path"}},
		"a path up":            {entry(`,"apis":["/cgi-bin/","/cgi-bin/../sns"]`), []string{"apis[1]"}},

		"no URL":               {good("", `"c/*/*"`, secret), []string{"webhooks[0]: url: want http"}},
		"another scheme":       {good("ftp://x", `"c/*/*"`, secret), []string{"webhooks[0]: url"}},
		"a password":           {good("http://a:SEKRET@x", `"c/*/*"`, secret), []string{"webhooks[0]: url", "without a password"}},
		"no host":              {good("http:///x", `"c/*/*"`, secret), []string{"webhooks[0]: url"}},
		"an unreadable URL":    {good("http://a:SEKRET@x:y", `"c/*/*"`, secret), []string{"webhooks[0]: url"}},
		"no messages":          {good("http://x", ``, secret), []string{"webhooks[0]: messages: none"}},
		"no message":           {good("http://x", `"c/*/*","c/*"`, secret), []string{"webhooks[0]: messages[1]: want <component>/<appid or *>"}},
		"any component":        {good("http://x", `"*/*/*"`, secret), []string{"messages[0]"}},
		"a subject":            {good("http://x", `"c/a.b/*"`, secret), []string{"messages[0]"}},
		"no secret":            {good("http://x", `"c/*/*"`, ""), []string{"webhooks[0]: secret: want whsec_", "24 to 64 bytes"}},
		"a bare secret":        {good("http://x", `"c/*/*"`, strings.TrimPrefix(secret, "whsec_")), []string{"webhooks[0]: secret"}},
		"a short secret":       {good("http://x", `"c/*/*"`, "whsec_U0VLUkVU"), []string{"webhooks[0]: secret"}},
		"a long secret":        {good("http://x", `"c/*/*"`, "whsec_"+strings.Repeat("SEKR", 22)), []string{"webhooks[0]: secret"}},
		"a secret, not base64": {good("http://x", `"c/*/*"`, "whsec_SEKRET!!"), []string{"webhooks[0]: secret"}},

		"several": {`{"services":[{"name":"a"},{"name":"B","keys":["x"],"may":["y"]}]}`, []string{"services[0] a: keys", "services[1] B: name", "services[1] B: keys[0]", "services[1] B: may[0]"}},
	} {
		s, err := services.Parse([]byte(row.text))
		if err == nil || s != nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, part := range append(row.want, "services file: ") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: error %q does not say %q", name, err, part)
			}
		}
		for _, hidden := range []string{"SEKR", "U0VL", strings.TrimPrefix(digest, "sha256:"), "5E4C3E7"} {
			if strings.Contains(err.Error(), hidden) {
				t.Errorf("%s: error %q shows a key or a secret", name, err)
			}
		}
		if strings.Contains(err.Error(), "Go ") || strings.Contains(err.Error(), "json:") {
			t.Errorf("%s: error %q speaks Go", name, err)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	s := parse(t, fmt.Sprintf(`{"services":[
		{"name":"shop","keys":[%q,%q],"accounts":["%s/%s"],"may":["relay"],"webhooks":[{"url":"https://x/y","messages":["%s/*/event/subscribe","%s/%s/*"],"reply":true,"secret":%q}]},
		{"name":"b-2_c","keys":[%q]}]}`,
		services.Digest("one"), services.Digest("two"), component, shop, component, component, shop, secret, services.Digest("three")))
	all := s.All()
	if len(all) != 2 || all[0].Name != "shop" || all[1].Name != "b-2_c" {
		t.Fatalf("services %+v", all)
	}
	for key, want := range map[string]*services.Service{"one": all[0], "two": all[0], "three": all[1], "four": nil, "": nil, services.Digest("one"): nil, "One": nil} {
		got, ok := s.ByKey(key)
		if got != want || ok != (want != nil) {
			t.Errorf("ByKey(%q) = %v, %v", key, got, ok)
		}
	}
	if got, ok := s.ByName("b-2_c"); got != all[1] || !ok {
		t.Errorf("ByName = %v, %v", got, ok)
	}
	if got, ok := s.ByName("c"); got != nil || ok {
		t.Errorf("ByName of none = %v, %v", got, ok)
	}
	hook := all[0].Webhooks[0]
	if hook.URL != "https://x/y" || !hook.Reply || string(hook.Secret) != "SEKRETSEKRETSEKRETSEKRET" || len(hook.Messages) != 2 {
		t.Errorf("webhook %+v", hook)
	}
	all[0] = nil
	if s.All()[0] == nil {
		t.Error("what All returns is the list itself")
	}
	for _, right := range []services.Right{services.RightToken, services.RightComponent, services.RightLinks, services.RightAccounts, services.RightEvents, services.RightReal, services.RightRelay} {
		if may := s.All()[0].May(right); may != (right == services.RightToken || right == services.RightRelay) {
			t.Errorf("may %s: %v; relay includes token, and nothing else", right, may)
		}
		if s.All()[1].May(right) {
			t.Errorf("without rights it may %s", right)
		}
	}
	if n := len(parse(t, `{}`).All()) + len(parse(t, `{"services":null}`).All()); n != 0 {
		t.Errorf("%d services in files without any", n)
	}
}

func TestKnows(t *testing.T) {
	t.Parallel()
	account := wxtoken.AuthorizerKey
	for _, row := range []struct {
		fields string
		key    wxtoken.Key
		ref    string
		want   bool
	}{
		{`"accounts":["` + component + `/` + shop + `"]`, account(component, shop), "", true},
		{`"accounts":["` + component + `/` + shop + `"]`, account(component, shop), "any", true},
		{`"accounts":["` + component + `/` + shop + `"]`, account(component, hotel), "", false},
		{`"accounts":["` + component + `/` + shop + `"]`, account(other, shop), "", false},
		{`"accounts":["` + component + `/` + shop + `"]`, wxtoken.JSAPITicketKey(component, shop), "", true},
		{`"accounts":["` + component + `/` + shop + `"]`, wxtoken.ComponentKey(component), "", false},
		{`"accounts":["` + component + `/` + shop + `"],"may":["component"]`, wxtoken.ComponentKey(component), "", true},
		{`"accounts":["` + component + `/*"]`, account(component, hotel), "", true},
		{`"accounts":["` + component + `/*"]`, account(other, hotel), "", false},
		{`"accounts":["` + component + `/*"]`, wxtoken.ComponentKey(component), "", false}, // * are the authorizers
		{`"accounts":["` + component + `/*"],"may":["component"]`, wxtoken.ComponentKey(component), "", true},
		{`"accounts":["` + component + `/*"],"may":["component"]`, wxtoken.ComponentKey(other), "", false},
		{`"accounts":["ref:tenant-1*"]`, account(other, hotel), "tenant-17", true},
		{`"accounts":["ref:tenant-1*"]`, account(other, hotel), "tenant-2", false},
		{`"accounts":["ref:tenant-1*"]`, account(other, hotel), "", false},
		{`"accounts":["ref:*"]`, account(other, hotel), "", false}, // an account without a ref is nobody's
		{`"accounts":["ref:*"]`, account(other, hotel), "x", true},
		{`"accounts":["ref:tenant*"],"may":["component"]`, wxtoken.ComponentKey(component), "tenant", false},
		{`"accounts":["` + other + `/*","ref:t*"]`, account(component, shop), "t", true},
		{`"accounts":[]`, account(component, shop), "x", false},
		{`"may":["token"]`, account(component, shop), "x", false},
	} {
		if got := one(t, row.fields).Knows(row.key, row.ref); got != row.want {
			t.Errorf("%s: knows %s with ref %q: %v", row.fields, row.key, row.ref, got)
		}
	}
}

func TestCalls(t *testing.T) {
	t.Parallel()
	paths := []string{"/cgi-bin/message/custom/send", "/cgi-bin", "/sns/userinfo", "/"}
	for fields, want := range map[string][]string{
		`"may":["relay"]`:                   paths,
		`"apis":null`:                       paths,
		`"apis":[]`:                         {},
		`"apis":["/cgi-bin/"]`:              {"/cgi-bin/message/custom/send"},
		`"apis":["/sns/userinfo","/cgi-b"]`: {"/cgi-bin/message/custom/send", "/cgi-bin", "/sns/userinfo"},
	} {
		s := one(t, fields)
		got := slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return !s.Calls(p) })
		if !slices.Equal(got, want) {
			t.Errorf("%s: may call %v, want %v", fields, got, want)
		}
	}
}

func TestMayLink(t *testing.T) {
	t.Parallel()
	whole, byRef := `"may":["links"],"accounts":["`+component+`/*"]`, `"may":["links"],"accounts":["ref:tenant-1*"]`
	account := `"may":["links"],"accounts":["` + component + `/` + shop + `"]`
	for _, row := range []struct {
		fields string
		link   wxtoken.LinkRequest
		want   bool
	}{
		{whole, wxtoken.LinkRequest{Component: component}, true},
		{whole, wxtoken.LinkRequest{Component: component, Ref: "x", Move: true}, true},
		{whole, wxtoken.LinkRequest{Component: other}, false},
		{`"may":["token","accounts"],"accounts":["` + component + `/*"]`, wxtoken.LinkRequest{Component: component}, false},
		{byRef, wxtoken.LinkRequest{Component: other, Ref: "tenant-17"}, true},
		{byRef, wxtoken.LinkRequest{Component: other, Ref: "tenant-17", Move: true}, false}, // it would take an account of another's
		{byRef, wxtoken.LinkRequest{Component: other, Ref: "tenant-2"}, false},
		{byRef, wxtoken.LinkRequest{Component: other}, false},
		{`"may":["links"],"accounts":["ref:*"]`, wxtoken.LinkRequest{Component: other}, false},
		{account, wxtoken.LinkRequest{Component: component, BizAppID: shop}, true},
		{account, wxtoken.LinkRequest{Component: component, BizAppID: shop, Move: true}, false},
		{account, wxtoken.LinkRequest{Component: component, BizAppID: hotel}, false},
		{account, wxtoken.LinkRequest{Component: component}, false}, // any account could authorize
		{account, wxtoken.LinkRequest{Component: other, BizAppID: shop}, false},
	} {
		if got := one(t, row.fields).MayLink(row.link); got != row.want {
			t.Errorf("%s: may make %+v: %v", row.fields, row.link, got)
		}
	}
}

func TestMakeKey(t *testing.T) {
	t.Parallel()
	key, digest := services.MakeKey()
	again, _ := services.MakeKey()
	if key == again || len(key) < 20 || digest != services.Digest(key) {
		t.Errorf("keys %q and %q, digest %q", key, again, digest)
	}
	s := parse(t, fmt.Sprintf(`{"services":[{"name":"made","keys":[%q]}]}`, digest))
	if got, ok := s.ByKey(key); !ok || got.Name != "made" {
		t.Errorf("the key made finds %v", got)
	}
	// printf demo-key | sha256sum
	if got := services.Digest("demo-key"); got != "sha256:c48a01f49fd0f2cc404bc3cbbc80e91457a3d41bb429a695243de4c61794155c" {
		t.Errorf("the digest of demo-key is %s", got)
	}
}

// FuzzParse checks that no file breaks it, and that no error shows what stands in one where keys and secrets do.
func FuzzParse(f *testing.F) {
	f.Add(`"sha256:SEKRETVALUE"`, "x", `["c/*/*"]`)
	f.Add(`7`, "http://a:SEKRETVALUE@b", `[]`)
	f.Fuzz(func(t *testing.T, keys, url, messages string) {
		text := fmt.Sprintf(`{"services":[{"name":"a","keys":[%s],"webhooks":[{"url":%q,"messages":%s,"secret":"whsec_SEKRETVALUE"}]}]}`, keys, url, messages)
		if _, err := services.Parse([]byte(text)); err != nil && strings.Contains(err.Error(), "whsec_SEKRETVALUE") {
			t.Errorf("error %q shows a secret", err)
		}
	})
}
