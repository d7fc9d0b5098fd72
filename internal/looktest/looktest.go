// Package looktest has a test look at what runs: again and again until something is so, and at its
// metrics.
package looktest

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// patience bounds each wait. It is long, because a machine may be slow, and some of what is waited
// for takes more than half a minute on any: a message comes again 30 s after its process was killed.
const patience = 2 * time.Minute

// Until looks every 10 ms whether it is so, and fails the test where it is not for two minutes.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// Sum returns the sum of a metric over its series that have all of the label values, and how many
// series these are. The value of a histogram is how often something was observed.
func Sum(t testing.TB, g prometheus.Gatherer, name string, labels ...string) (sum float64, series int) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			has := map[string]bool{}
			for _, label := range m.GetLabel() {
				has[label.GetValue()] = true
			}
			if family.GetName() == name && !slices.ContainsFunc(labels, func(value string) bool { return !has[value] }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
				series++
			}
		}
	}
	return sum, series
}
