package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
)

// TestHalfRead has the stream end, or pause, between a credential and its token, which were stored at once: the account is not there until both
// are read. Without that a sweep in between tells of a dead token. An account that lost its token is there.
func TestHalfRead(t *testing.T) {
	now := time.Now()
	key := func(name string) wxtoken.Key { return wxtoken.AuthorizerKey("wx0123456789abcdef", name) }
	credential := func(key wxtoken.Key, sequence uint64, c account.Credential) news {
		c.Key, c.Revision, c.RefreshToken = key, sequence, "r"
		o := account.OutlineOf(c)
		return news{sequence: sequence, key: key, outline: &o}
	}
	token := func(key wxtoken.Key, sequence uint64) news {
		l := account.NewLife(sequence, 1, now, now.Add(2*time.Hour), now.Add(time.Hour))
		return news{sequence: sequence, key: key, life: &l}
	}
	v := newView()
	there := func() (names []string) {
		v.Each(func(key wxtoken.Key, e *Entry) bool {
			names = append(names, fmt.Sprintf("%s %t", key.Authorizer, e.Token.Exists()))
			return false
		}, nil)
		return names
	}
	for _, step := range []struct {
		read news
		want []string
	}{
		{credential(key("a"), 1, account.Credential{Generation: 1}), nil},
		{token(key("a"), 2), []string{"a true"}},
		{credential(key("b"), 4, account.Credential{Generation: 1}), []string{"a true"}},
		{credential(key("c"), 7, account.Credential{Generation: 1, Trouble: account.Trouble{Failures: 1}}), []string{"a true", "b false", "c false"}},
		{credential(key("d"), 8, account.Credential{Generation: 1, Trouble: account.Trouble{AuthorizationNeeded: true}}), []string{"a true", "b false", "c false", "d false"}},
		{credential(key("e"), 9, account.Credential{Generation: 2}), []string{"a true", "b false", "c false", "d false", "e false"}},
		{credential(key("a"), 10, account.Credential{Generation: 1}), []string{"a true", "b false", "c false", "d false", "e false"}},
	} {
		v.apply([]news{step.read})
		if got := there(); !slices.Equal(got, step.want) {
			t.Errorf("after %d: %q, want %q", step.read.sequence, got, step.want)
		}
	}
}

// BenchmarkEach looks at all keys, as a sweep and a scrape do.
func BenchmarkEach(b *testing.B) {
	const accounts = 1_000_000
	now, v := time.Now(), newView()
	for i := range accounts {
		e := v.entry(wxtoken.AuthorizerKey("wx0123456789abcdef", fmt.Sprintf("wxa%015d", i)))
		e.Credential = account.OutlineOf(account.Credential{Revision: 1, Generation: 1, RefreshToken: "r"})
		e.Token = account.NewLife(2, 1, now, now.Add(2*time.Hour), now.Add(time.Hour))
	}
	b.ResetTimer()
	for b.Loop() {
		active := 0
		v.Each(func(_ wxtoken.Key, e *Entry) bool {
			if e.Token.Lives(now) && !e.Credential.Overdue(e.Token, now, time.Minute) {
				active++
			}
			return false
		}, nil)
		if active != 0 && active != accounts {
			b.Fatal(active)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/accounts, "ns/key")
}
