package refresher

import (
	"testing"
	"time"

	"wxtoken/internal/streams"
)

// TestMirrorsWrong: copies that lag are one trouble, since the first of them did, and none once they don't.
func TestMirrorsWrong(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 8, 0, 0, 0, time.UTC)
	began := at
	m := &mirrors{now: func() time.Time { return at }}
	tokens, status := streams.MirrorOf{Account: "SERVICES", Stream: "KV_tokens"}, streams.MirrorOf{Account: "SERVICES", Stream: "KV_status"}
	m.note(tokens, false)
	if wrong := m.wrong(); wrong != nil {
		t.Errorf("at first: %+v", wrong)
	}
	m.note(tokens, true)
	at = at.Add(time.Minute)
	m.note(tokens, true)
	m.note(status, true)
	if wrong := m.wrong(); len(wrong) != 1 || wrong[0].Count != 2 || wrong[0].Names[0] != "SERVICES/KV_status" || !wrong[0].Since.Equal(began) {
		t.Errorf("two lag: %+v", wrong)
	}
	m.note(tokens, false)
	m.note(status, false)
	if wrong := m.wrong(); wrong != nil {
		t.Errorf("at the end: %+v", wrong)
	}
}
