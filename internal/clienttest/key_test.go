package wxtoken_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"wxtoken/client"
)

var (
	kinds    = []wxtoken.Kind{wxtoken.KindComponent, wxtoken.KindAuthorizer, wxtoken.KindJSAPITicket, wxtoken.KindWxCardTicket}
	anAppID  = rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`)
	aGoodKey = rapid.Custom(func(t *rapid.T) wxtoken.Key {
		key := wxtoken.Key{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Component: anAppID.Draw(t, "component")}
		if key.Kind != wxtoken.KindComponent {
			key.Authorizer = anAppID.Draw(t, "authorizer")
		}
		return key
	})
)

func TestParseKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64)
	for _, test := range []struct {
		text string
		want wxtoken.Key // zero: not a key
	}{
		{"component.wxc", wxtoken.ComponentKey("wxc")},
		{"authorizer.wxc.wxa", wxtoken.AuthorizerKey("wxc", "wxa")},
		{"jsapi_ticket.wxc.wxa", wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: "wxc", Authorizer: "wxa"}},
		{"wx_card_ticket.wxc.wxa", wxtoken.Key{Kind: wxtoken.KindWxCardTicket, Component: "wxc", Authorizer: "wxa"}},
		{"component." + long, wxtoken.ComponentKey(long)},
		{text: "component." + long + "a"},
		{text: ""},
		{text: "component"},
		{text: "component."},
		{text: "component.wxc.wxa"},
		{text: "authorizer.wxc"},
		{text: "authorizer..wxa"},
		{text: "authorizer.wxc."},
		{text: "authorizer.wxc.wxa.more"},
		{text: "Component.wxc"},
		{text: "refresh_token.wxc.wxa"},
		{text: "component.*"},
		{text: "authorizer.wxc.>"},
		{text: "component.wx c"},
		{text: "component.wxc\n"},
		{text: "component.wx\x00c"},
		{text: "component.微信"},
		{text: "component." + strings.Repeat("x", 1<<20)},
	} {
		got, err := wxtoken.ParseKey(test.text)
		if test.want == (wxtoken.Key{}) {
			if got != test.want || !errors.Is(err, wxtoken.ErrBadKey) || len(err.Error()) > 500 {
				t.Errorf("ParseKey(%.80q) = %v, %.200v; want a short error that is ErrBadKey", test.text, got, err)
			}
			continue
		}
		if err != nil || got != test.want || got.String() != test.text {
			t.Errorf("ParseKey(%q) = %v, %v; want %v", test.text, got, err, test.want)
		}
	}
}

func TestKeyRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := aGoodKey.Draw(t, "key")
		if got, err := wxtoken.ParseKey(key.String()); err != nil || got != key {
			t.Fatalf("ParseKey(%q) = %v, %v", key, got, err)
		}
		text, err := json.Marshal(key)
		if err != nil {
			t.Fatal(err)
		}
		var got wxtoken.Key
		if err := json.Unmarshal(text, &got); err != nil || got != key {
			t.Fatalf("JSON of %v came back as %v, %v", key, got, err)
		}
	})
}

// A Key that can't be read back is not written either.
func TestKeyMarshalRefusesBadKeys(t *testing.T) {
	t.Parallel()
	for _, key := range []wxtoken.Key{
		{},
		{Kind: "refresh_token", Component: "wxc"},
		wxtoken.ComponentKey(""),
		wxtoken.ComponentKey("wxc.wxa"),
		wxtoken.AuthorizerKey("wxc", "*"),
		{Kind: wxtoken.KindComponent, Component: "wxc", Authorizer: "wxa"},
	} {
		if text, err := key.MarshalText(); !errors.Is(err, wxtoken.ErrBadKey) {
			t.Errorf("MarshalText of %#v = %q, %v; want ErrBadKey", key, text, err)
		}
	}
}

// FuzzKey checks that whatever is taken for a key can stand in a subject, and is written as it was read.
func FuzzKey(f *testing.F) {
	f.Add("component.wx0123456789abcdef")
	f.Add("authorizer.wx0123456789abcdef.wxfedcba9876543210")
	f.Add("jsapi_ticket.a.b")
	f.Add("authorizer.*.>")
	f.Add("component. ")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := wxtoken.ParseKey(text)
		if err != nil {
			if key != (wxtoken.Key{}) || !errors.Is(err, wxtoken.ErrBadKey) {
				t.Fatalf("ParseKey(%q) = %v, %v", text, key, err)
			}
			return
		}
		if key.String() != text {
			t.Fatalf("ParseKey(%q) is written %q", text, key)
		}
		for _, part := range []string{string(key.Kind), key.Component, key.Authorizer} {
			if strings.ContainsAny(part, ".*> \t\r\n\x00") {
				t.Fatalf("ParseKey(%q) has the part %q", text, part)
			}
		}
	})
}
