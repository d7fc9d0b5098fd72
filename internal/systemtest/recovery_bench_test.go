//go:build linux

package systemtest

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/wechatsim"
)

// BenchmarkRecovery loses all data: accounts that authorized long ago, an empty NATS, one ticket. It tells how near the
// renewals come to --api-rate, and how far from the oldest authorization first their order is.
func BenchmarkRecovery(b *testing.B) {
	for _, row := range []struct{ accounts, rate int }{{1_000, 20}, {5_000, 150}, {10_000, 500}} {
		b.Run(fmt.Sprintf("accounts=%d/rate=%d", row.accounts, row.rate), func(b *testing.B) {
			for range b.N {
				var ago atomic.Int64 // the accounts authorize a second apart
				w := newWorld(b, wechatsim.Config{
					TicketEvery: time.Hour, Latency: 50 * time.Millisecond,
					Now: func() time.Time { return time.Now().Add(-time.Duration(ago.Load())) },
				}, syncAlways)
				w.cfg.Concurrency, w.cfg.APIRate = 256, float64(row.rate)
				w.sim.DropPushes("authorized", row.accounts)
				for i := range row.accounts {
					ago.Store(int64(row.accounts-i) * int64(time.Second))
					if err := w.sim.Authorize(testAppID, appidOf(i)); err != nil {
						b.Fatal(err)
					}
				}
				ago.Store(0)
				w.sim.ClearHistory()
				computed := natsdtest.Computed()
				w.start()
				renewed := func() (order []string, began, ended time.Time) {
					for _, e := range w.sim.History() {
						if e.Kind != wechatsim.EntryCall || e.API != refresh || e.Outcome != wechatsim.OutcomeAnswered {
							continue
						}
						if order = append(order, e.Authorizer); began.IsZero() {
							began = e.Time
						}
						ended = e.Time
					}
					return order, began, ended
				}
				w.eventually(15*time.Minute, func() error {
					time.Sleep(time.Second)
					if order, _, _ := renewed(); len(order) < row.accounts {
						return fmt.Errorf("%d of %d", len(order), row.accounts)
					}
					return nil
				})
				order, began, ended := renewed()
				computed = natsdtest.Computed() - computed
				others := 0 // calls that took a turn from the renewals
				for _, e := range w.sim.History() {
					if e.Kind == wechatsim.EntryCall && e.API != refresh && !e.Time.After(ended) {
						others++
					}
				}
				places := map[string]int{}
				for i := range row.accounts {
					places[appidOf(i)] = i
				}
				displaced := 0
				for at, appid := range order {
					displaced = max(displaced, places[appid]-at, at-places[appid])
				}
				b.ReportMetric(float64(len(order))/ended.Sub(began).Seconds()/float64(row.rate), "rate/api-rate")
				b.ReportMetric(float64(len(order))/float64(row.accounts), "calls/account")
				b.ReportMetric(float64(others)/float64(row.accounts), "other-calls/account")
				b.ReportMetric(float64(computed.Microseconds())/1000/float64(row.accounts), "cpu-ms/account") // NATS, WeChat and refresher
				b.ReportMetric(float64(displaced), "places-out-of-order")
			}
		})
	}
}
