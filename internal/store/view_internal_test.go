package store

import (
	"fmt"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
)

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
