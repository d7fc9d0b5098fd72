package refresher

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// renewRequest is a request without a connection.
type renewRequest struct{ micro.Request }

func (renewRequest) Subject() string        { return "wxtoken.renew" }
func (renewRequest) Reply() string          { return "_INBOX.1" }
func (renewRequest) Data() []byte           { return []byte("{}") }
func (renewRequest) Headers() micro.Headers { return nil }

// TestPanicOfAnAnswer has an answer panic: the log tells where, as the one who asked is told, and not what the panic was about.
func TestPanicOfAnAnswer(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	d := &door{log: zerolog.New(&log), metrics: &metrics{panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "panics"})}}
	_, err := d.guardedAnswer(t.Context(), renewRequest{}, func(context.Context, asked) (any, error) { panic("token of a merchant") })
	if err == nil {
		t.Error("no error")
	}
	for part, want := range map[string]bool{"handler panicked": true, "wxtoken.renew": true, "TestPanicOfAnAnswer": true, "token of a merchant": false} {
		if strings.Contains(log.String(), part) != want {
			t.Errorf("%q in the log: %t, want %t\n%s", part, !want, want, log.String())
		}
	}
}
