package store

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
)

// FuzzLife reads records as a view does, and as readers do: what the scan takes is what the JSON says.
func FuzzLife(f *testing.F) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 123, time.UTC)
	t := wxtoken.Token{
		Key: wxtoken.AuthorizerKey("wxc", "wxa"), Value: wxtoken.NewSecret("value"), Generation: 7, ObtainedAt: at, ExpiresAt: at.Add(2 * time.Hour),
		RenewAt: at.Add(time.Hour).Truncate(time.Second),
	}
	for _, previous := range []*wxtoken.Previous{nil, {Value: wxtoken.NewSecret("before"), ValidUntil: at}} {
		t.Previous = previous
		record, err := TokenRecord(t)
		if err != nil {
			f.Fatal(err)
		}
		if l, ok := scanLife(record, 3); !ok || l != account.NewLife(3, 7, t.ObtainedAt, t.ExpiresAt, t.RenewAt) {
			f.Errorf("our own record is scanned as %+v, %t: %s", l, ok, record)
		}
		f.Add(string(record))
	}
	for _, odd := range []string{
		``, `{}`, `{"key":"authorizer.wxc.wxa","value":"v"}`, `{"value":"v","key":"authorizer.wxc.wxa","expires_at":"2026-11-28T12:00:00Z"}`,
		`{"key":"authorizer.wxc.wxa","value":"a\"b","generation":1,"obtained_at":"2026-11-28T12:00:00Z","expires_at":"2026-11-28T14:00:00+08:00","renew_at":"2026-11-28T13:00:00Z"}`,
		`{"key":"authorizer.wxc.wxa","value":"v","generation":18446744073709551616,"obtained_at":"","expires_at":"","renew_at":""}`,
		`{"key":"authorizer.wxc.wxa","value":"","generation":01,"obtained_at":"2026-11-28T12:00:00Z","expires_at":"0001-01-01T00:00:00Z","renew_at":"2026-11-28T13:00:00Z"}`,
	} {
		f.Add(odd)
	}
	f.Fuzz(func(t *testing.T, record string) {
		scanned, ok := scanLife([]byte(record), 3)
		read, err := readToken([]byte(record), 3)
		if ok && err == nil && scanned != account.LifeOf(read) {
			t.Errorf("scanned as %+v, read as %+v: %s", scanned, account.LifeOf(read), record)
		}
		if life, lifeErr := readLife([]byte(record), 3); !ok && (life != account.LifeOf(read) || (err == nil) != (lifeErr == nil)) {
			t.Errorf("read as %+v and %+v: %s", life, account.LifeOf(read), record)
		}
	})
}

// FuzzOutline reads credentials as a view does, and as all else does: what the scan takes is what the JSON says.
func FuzzOutline(f *testing.F) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 123, time.UTC)
	key := wxtoken.AuthorizerKey("wxc", "wxa")
	plain := account.Credential{
		Key: key, Generation: 7, RefreshToken: "refreshtoken@@@x", AuthorizedAt: at, CodeDigest: "digest", Ref: "tenant-1", Authorizations: 2, Anew: true,
		RevokedAt: at, Forced: 1, ForcedAt: at, Commit: "commit",
		History: []account.Past{
			{Generation: 6, At: at, Reason: "scheduled"},
			{Generation: 7, At: at, Reason: "refused", Late: time.Second, Took: 80 * time.Millisecond, By: "host-1", Reporter: "crm"},
		},
		Trouble: account.Trouble{Failures: 2, RetryAt: at, SoughtAt: at, AuthorizationNeeded: true, UnsureSince: at},
	}
	record, err := encodeCredential(plain)
	if err != nil {
		f.Fatal(err)
	}
	if c, ok := scanCredential(key, record); !ok || account.OutlineOf(c) != account.OutlineOf(plain) {
		f.Errorf("our own record is scanned as %+v, %t: %s", c, ok, record)
	}
	// What a healthy account has is scanned: a field more would make each start slower.
	rare := []string{"Version", "Ticket", "TicketCreatedAt", "TicketReceivedAt", "PushAskedAt", "Refused", "Claim", "Revision"} // Version is set by encodeCredential
	for _, field := range reflect.VisibleFields(reflect.TypeFor[account.Credential]()) {
		if !field.Anonymous && len(field.Index) == 1 && !slices.Contains(rare, field.Name) && reflect.ValueOf(plain).FieldByIndex(field.Index).IsZero() {
			f.Errorf("%s is not tried", field.Name)
		}
	}
	f.Add(string(record))
	plain.Claim = &account.Claim{Until: at}
	claimed, _ := json.Marshal(plain)
	f.Add(string(claimed))
	for _, odd := range []string{
		``, `{}`, `{"key":"authorizer.wxc.wxa","v":1}`, `{"key":"authorizer.wxc.wxa","v":2}`, `{"key":"authorizer.wxc.other","v":1}`, `{"v":1,"generation":1}`,
		`{"key":"authorizer.wxc.wxa","v":1,"generation":01}`, `{"key":"authorizer.wxc.wxa","v":1,"ref":"\u0041"}`, `{"key":"authorizer.wxc.wxa","v":1,"anew":false}`,
		`{"key":"authorizer.wxc.wxa","v":1,"generation":1,"generation":2}`, `{"key":"authorizer.wxc.wxa","v":1,"GENERATION":3}`, `{"key":"authorizer.wxc.wxa","v":1} `,
		`{"key":"authorizer.wxc.wxa","v":1,}`, `{"key":"authorizer.wxc.wxa","v":1,"history":[]}`, `{"key":"authorizer.wxc.wxa","v":1,"history":[{"g":1,"at":-1,"r":"x"}]}`,
		`{"key":"authorizer.wxc.wxa","v":1,"history":[{"g":1,"at":1,"r":"x","s":"crm","l":1},]}`, `{"key":"authorizer.wxc.wxa","v":1,"history":[{"g":1,"at":1,"r":"x"}`, `{"key":"authorizer.wxc.wxa","v":1,"retry_at":"2026-11-28T12:00:00+08:00"}`,
	} {
		f.Add(odd)
	}
	f.Fuzz(func(t *testing.T, record string) {
		scanned, ok := scanCredential(key, []byte(record))
		read, err := decodeCredential(key, []byte(record))
		if ok && (err != nil || account.OutlineOf(scanned) != account.OutlineOf(read)) {
			t.Errorf("scanned as %+v, read as %+v, %v: %s", scanned, read, err, record)
		}
	})
}
