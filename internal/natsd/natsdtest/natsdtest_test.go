package natsdtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/natsd/natsdtest"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 0) }

// TestTimersFireInABubble shows that the server itself lives on virtual time: a message scheduled
// for two hours later arrives two hours later, and so it does when the server was away meanwhile.
func TestTimersFireInABubble(t *testing.T) {
	natsdtest.Bubble(t, func(t *testing.T) {
		s := natsdtest.Start(t, natsdtest.InBubble)
		js := natsdtest.JetStream(t, s.Connect())
		st, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "T", Subjects: []string{"timer.*", "due.*"}, AllowMsgSchedules: true})
		if err != nil {
			t.Fatal(err)
		}
		cons, err := st.CreateOrUpdateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c", FilterSubject: "due.*"})
		if err != nil {
			t.Fatal(err)
		}
		due := func(target string, after, away time.Duration) {
			t.Helper()
			began := time.Now()
			at := began.Add(after)
			if _, err := js.Publish(t.Context(), "timer.1", []byte("wake up"),
				jetstream.WithScheduleAt(at), jetstream.WithScheduleTarget(target)); err != nil {
				t.Fatal(err)
			}
			if away > 0 {
				s.Stop()
				time.Sleep(away)
				s.Restart()
			}
			for {
				msg, err := cons.Next(jetstream.FetchContext(fetch(t)))
				if err != nil {
					if time.Since(began) > 24*time.Hour {
						t.Fatalf("nothing came within a day: %v", err)
					}
					continue
				}
				want := max(after, away)
				if late := time.Since(began) - want; string(msg.Data()) != "wake up" || msg.Subject() != target || late < -time.Second || late > 10*time.Second {
					t.Fatalf("got %q on %s, %v after the time", msg.Data(), msg.Subject(), late)
				}
				if err := msg.DoubleAck(t.Context()); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
		due("due.1", 2*time.Hour, 0)
		due("due.2", 2*time.Hour, 12*time.Hour)
	})
}

// fetch bounds one look for messages.
func fetch(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
