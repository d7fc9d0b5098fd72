package refresher

import (
	"errors"
	"strings"
	"testing"
)

func TestDeriveSettings(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		cfg  Config
		want []string // what stands in each fault
	}{
		{"nothing", Config{}, nil},
		{"all of them", Config{Derive: []string{"jsapi", "wx_card"}, DeriveFor: []string{"wx1234567890abcdef", "wx2"}}, nil},
		{"several faults", Config{Derive: []string{"jsapi", "card", "jsapi"}, DeriveFor: []string{"wx.1"}}, []string{
			`--derive (WXTOKEN_DERIVE): "card" is nothing that can be derived: want jsapi, wx_card, or both`,
			"--derive (WXTOKEN_DERIVE): jsapi stands there twice",
			`--derive-for (WXTOKEN_DERIVE_FOR): "wx.1" is not an appid`,
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			faults := row.cfg.deriveFaults()
			if len(faults) != len(row.want) {
				t.Fatalf("%d faults, want %d: %v", len(faults), len(row.want), errors.Join(faults...))
			}
			for i, err := range faults {
				if !strings.Contains(err.Error(), row.want[i]) {
					t.Errorf("%v, want %q in it", err, row.want[i])
				}
			}
		})
	}
}
