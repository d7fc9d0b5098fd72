package events_test

import (
	"strings"
	"testing"

	"wxtoken/client"
	"wxtoken/internal/events"
)

// FuzzSubjects brings foreign text into every subject that is made of it: no character of it means
// anything to NATS, and no subject has more or fewer tokens than it should.
func FuzzSubjects(f *testing.F) {
	for _, seed := range []string{"", "wx0123456789abcdef", "a.b", "*", ">", "a b", "\r\n", "订阅", "\x00", strings.Repeat("x", 500), "subscribe"} {
		f.Add(seed, seed, seed, seed)
	}
	f.Fuzz(func(t *testing.T, component, appid, msgType, event string) {
		want := func(subject, prefix string, tokens int) {
			t.Helper()
			tail, ok := strings.CutPrefix(subject, prefix)
			if !ok {
				t.Fatalf("%q does not begin with %q", subject, prefix)
			}
			parts := strings.Split(tail, ".")
			if len(parts) != tokens {
				t.Fatalf("%q has %d tokens after %q, want %d", subject, len(parts), prefix, tokens)
			}
			for _, part := range parts {
				if part == "" || len(part) > 64 || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
					t.Fatalf("%q has the token %q", subject, part)
				}
			}
		}
		want(events.AuthSubject(component, msgType), "wechat.auth.", 2)
		want(events.NoticeSubject(component, msgType), "wechat.notice.", 2)
		tokens := 4
		if event == "" {
			tokens = 3
		}
		want(events.MessageSubject(component, appid, msgType, event), "wechat.message.", tokens)
		want(events.ReconcileScheduleSubject(component), "renewal.scheduled.reconcile.", 1)
		want(events.ReconcileDueSubject(component), "renewal.due.reconcile.", 1)

		// Subjects of keys are made of keys, which let no such character in.
		key, err := wxtoken.ParseKey("authorizer." + component + "." + appid)
		if err != nil {
			return
		}
		for prefix, subject := range map[string]string{
			"$KV.tokens.": events.TokenSubject(key), "credential.": events.CredentialSubject(key),
			"renewal.scheduled.": events.ScheduleSubject(key), "renewal.due.": events.DueSubject(key),
		} {
			want(subject, prefix, 3)
		}
		if got, ok := events.TokenKey(events.TokenSubject(key)); !ok || got != key {
			t.Errorf("%s came back as %s", key, got)
		}
		if got, ok := events.CredentialKey(events.CredentialSubject(key)); !ok || got != key {
			t.Errorf("%s came back as %s", key, got)
		}
	})
}

func TestSubjectsOfOthers(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{"", "$KV.tokens.", "$KV.tokens.component", "$KV.tokens.component.a.b", "$KV.status.component.a", "credential.x.a"} {
		if key, ok := events.TokenKey(subject); ok {
			t.Errorf("%q is the token of %s", subject, key)
		}
		if key, ok := events.CredentialKey(subject); ok {
			t.Errorf("%q is the credential of %s", subject, key)
		}
	}
	if component, ok := events.ReconcileComponent("renewal.due.component.wxc"); ok {
		t.Errorf("a renewal is a reconcile of %s", component)
	}
}
