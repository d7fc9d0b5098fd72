package streams

import (
	"errors"
	"testing"
)

func TestCheckServer(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		version string
		ok, old bool
	}{
		{"2.15.0", true, false},
		{"2.15.2", true, false},
		{"2.16.0-RC.1", true, false},
		{"3.0.0", true, false},
		{"2.14.9", false, true},
		{"1.99.0", false, true},
		{"", false, false},
		{"unknown", false, false},
	} {
		err := CheckServer(row.version)
		if (err == nil) != row.ok || errors.Is(err, ErrServerTooOld) != row.old {
			t.Errorf("%q: %v", row.version, err)
		}
	}
}
