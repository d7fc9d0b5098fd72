package wxtoken_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"wxtoken/client"
	"wxtoken/internal/store"
)

// A time that JSON can hold: RFC 3339 has years of four digits.
var aTime = rapid.Custom(func(t *rapid.T) time.Time {
	at := time.Unix(rapid.Int64Range(0, 200e9).Draw(t, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanoseconds"))
	return at.In(time.FixedZone("", rapid.IntRange(-12, 14).Draw(t, "zone")*3600))
})

func TestTokenRecordRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		token := wxtoken.Token{
			Key: aGoodKey.Draw(t, "key"), Value: wxtoken.NewSecret(rapid.StringN(1, 512, -1).Draw(t, "value")),
			Generation: rapid.Uint64().Draw(t, "generation"),
			ObtainedAt: aTime.Draw(t, "obtained"), ExpiresAt: aTime.Draw(t, "expires"), RenewAt: aTime.Draw(t, "renew"),
		}
		if rapid.Bool().Draw(t, "previous") {
			token.Previous = &wxtoken.Previous{Value: wxtoken.NewSecret("p"), ValidUntil: aTime.Draw(t, "valid")}
		}
		record, err := store.TokenRecord(token)
		if err != nil {
			t.Fatal(err)
		}
		want := token
		want.ObtainedAt, want.ExpiresAt, want.RenewAt = want.ObtainedAt.UTC(), want.ExpiresAt.UTC(), want.RenewAt.UTC()
		if want.Previous != nil {
			want.Previous = &wxtoken.Previous{Value: want.Previous.Value, ValidUntil: want.Previous.ValidUntil.UTC()}
		}
		// With white space, and a field that is not known, as another program may write it.
		for _, text := range []string{string(record), "{ " + string(record[1:]), string(record[:len(record)-1]) + `,"more":{}}`} {
			var got wxtoken.Token
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%+v came back as %+v from %s", want, got, text)
			}
		}
	})
}

// The record is a contract: services in other languages read it.
func TestTokenRecord(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 18, 0, 0, 0, time.FixedZone("CST", 8*3600))
	token := wxtoken.Token{
		Key: wxtoken.AuthorizerKey("wxc", "wxa"), Value: wxtoken.NewSecret("new"), Generation: 4, Revision: 9,
		ObtainedAt: at, ExpiresAt: at.Add(2 * time.Hour), RenewAt: at.Add(80 * time.Minute),
	}
	const want = `{"key":"authorizer.wxc.wxa","value":"new","generation":4,` +
		`"obtained_at":"2026-11-22T10:00:00Z","expires_at":"2026-11-22T12:00:00Z","renew_at":"2026-11-22T11:20:00Z"`
	if got, err := store.TokenRecord(token); err != nil || string(got) != want+"}" {
		t.Errorf("TokenRecord = %s, %v", got, err)
	}
	token.Previous = &wxtoken.Previous{Value: wxtoken.NewSecret("old"), ValidUntil: at.Add(5 * time.Minute)}
	if got, err := store.TokenRecord(token); err != nil || string(got) != want+`,"previous":{"value":"old","valid_until":"2026-11-22T10:05:00Z"}}` {
		t.Errorf("TokenRecord = %s, %v", got, err)
	}
	if _, err := store.TokenRecord(wxtoken.Token{Value: token.Value}); !errors.Is(err, wxtoken.ErrBadKey) {
		t.Errorf("TokenRecord without a key: %v, want ErrBadKey", err)
	}
}

func TestTokenIgnoresUnknownFields(t *testing.T) {
	t.Parallel()
	var got wxtoken.Token
	err := json.Unmarshal([]byte(`{"later":{"a":1},"key":"component.wxc","value":"v","expires_at":"2026-11-22T12:00:00Z"}`), &got)
	if err != nil || got.Key != wxtoken.ComponentKey("wxc") || got.Value.Reveal() != "v" {
		t.Errorf("read as %v, %v", got, err)
	}
}

// FuzzTokenRecord checks that whatever is taken for a token comes back the same when it is written
// and read again, and that no error shows the record.
func FuzzTokenRecord(f *testing.F) {
	f.Add([]byte(`{"key":"component.wxc","value":"SEKRET","generation":1,"expires_at":"2026-11-22T12:00:00Z"}`))
	f.Add([]byte(`{"key":"authorizer.wxc.wxa","value":"SEKRET","obtained_at":"2026-11-22T10:00:00+08:00","expires_at":"2026-11-22T12:00:00Z",` +
		`"renew_at":"2026-11-22T11:20:00Z","previous":{"value":"SEKRET","valid_until":"2026-11-22T10:05:00Z"}}`))
	f.Add([]byte(`{"key":"component.SEKRET.","value":"SEKRET"}`))
	f.Add([]byte(`["SEKRET"`))
	f.Fuzz(func(t *testing.T, record []byte) {
		var token, again wxtoken.Token
		if err := token.UnmarshalJSON(record); err != nil {
			if !errors.Is(err, wxtoken.ErrBadToken) || strings.Contains(err.Error(), "SEKRET") {
				t.Fatalf("UnmarshalJSON: %v", err)
			}
			return
		}
		written, err := store.TokenRecord(token)
		if err != nil {
			t.Fatalf("read but not writable: %v", err)
		}
		if err := again.UnmarshalJSON(written); err != nil || !reflect.DeepEqual(again, token) {
			t.Fatalf("%+v came back as %+v, %v", token, again, err)
		}
	})
}

func TestSecret(t *testing.T) {
	t.Parallel()
	a, b := wxtoken.NewSecret("SEKRET"), wxtoken.NewSecret(strings.Clone("SEKRET"))
	if a != b || a == wxtoken.NewSecret("other") || a.Reveal() != "SEKRET" || a.IsZero() {
		t.Error("a Secret is not its value")
	}
	var zero wxtoken.Secret
	if zero != wxtoken.NewSecret("") || !zero.IsZero() || zero.Reveal() != "" {
		t.Error("the zero Secret is not the empty one")
	}
}

// However a secret is shown, and in whatever it lies, its value is not.
func TestSecretNeverPrints(t *testing.T) {
	t.Parallel()
	const value = "SEKRET"
	secret := wxtoken.NewSecret(value)
	token := wxtoken.Token{
		Key: wxtoken.ComponentKey("wxc"), Value: secret, ExpiresAt: time.Now(),
		Previous: &wxtoken.Previous{Value: secret, ValidUntil: time.Now()},
	}
	hidden := struct { // package fmt calls no method of what is not exported
		token  wxtoken.Token
		secret wxtoken.Secret
		all    []wxtoken.Secret
		byName map[string]wxtoken.Secret
	}{token, secret, []wxtoken.Secret{secret}, map[string]wxtoken.Secret{"a": secret}}
	for name, v := range map[string]any{
		"Secret": secret, "*Secret": &secret, "Token": token, "*Token": &token, "Previous": token.Previous,
		"unexported fields": hidden, "pointer to unexported fields": &hidden,
		"slice": []wxtoken.Secret{secret}, "map": map[string]wxtoken.Token{"a": token}, "error": fmt.Errorf("token %v", token),
	} {
		shown := map[string]string{}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%10.3s", "%w", "%!"} {
			shown["fmt "+verb] = fmt.Sprintf(verb, v)
		}
		shown["fmt.Sprint"] = fmt.Sprint(v)
		if text, err := json.Marshal(v); err == nil {
			shown["json"] = string(text)
		}
		var out bytes.Buffer
		log := zerolog.New(&out)
		log.Info().Interface("v", v).Any("any", v).Str("s", fmt.Sprint(v)).Msg("")
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		shown["logs"] = out.String()
		for how, text := range shown {
			for _, leak := range []string{value, fmt.Sprintf("%x", value), fmt.Sprintf("%X", value), fmt.Sprintf("% x", value)} {
				if strings.Contains(text, leak) {
					t.Errorf("%s by %s: %s", name, how, text)
				}
			}
		}
	}
	if got := fmt.Sprintf("%s|%v|%#v", secret, &secret, secret); got != "[redacted]|[redacted]|[redacted]" {
		t.Errorf("a Secret prints as %s", got)
	}
	if text, err := json.Marshal(secret); err != nil || string(text) != `"[redacted]"` {
		t.Errorf("the JSON of a Secret is %s, %v", text, err)
	}
	if secret.String() != "[redacted]" || secret.GoString() != "[redacted]" {
		t.Error("a Secret tells when asked")
	}
}
