//go:build unix

package systemtest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client/message"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// messages is what an account's users wrote around a backup of MESSAGES.
type messages struct{ *book }

// write has a user write, and returns when the message is on MESSAGES.
func (b messages) write(content string) {
	b.Helper()
	b.tell("/push", "authorizer="+b.keys()[1].Authorizer+"&content="+content)
	poll(b.T, func() error { return b.reads(b.js, content) })
}

// reads returns nil if a message with a content lies on the stream MESSAGES that js sees.
func (b messages) reads(js jetstream.JetStream, content string) error {
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Second)
	defer cancel()
	cons, err := js.CreateConsumer(ctx, events.StreamMessages, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, FilterSubject: "wechat.message.>", InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return err
	}
	batch, err := cons.FetchNoWait(100)
	if err != nil {
		return err
	}
	var seen []string
	for m := range batch.Messages() {
		if parsed, err := message.Parse(m.Data()); err == nil {
			seen = append(seen, parsed.Content)
		}
	}
	if !strings.Contains(strings.Join(seen, " ")+" ", content+" ") {
		return fmt.Errorf("%q is not among the messages %q", content, seen)
	}
	return nil
}

// shell runs commands that the runbook says in words.
func (b messages) shell(commands string) {
	b.Helper()
	if _, err := b.try(&block{commands: commands}); err != nil {
		b.Fatal(err)
	}
}

// backUp copies MESSAGES, as the runbook does it with the buckets.
func (b messages) backUp() {
	b.Helper()
	b.shell(`nats --context backup backup stream MESSAGES "$BACKUP/MESSAGES" --no-consumers --no-progress`)
}

// restore puts MESSAGES back; the user repair is there.
func (b messages) restore() {
	b.Helper()
	b.shell(`nats --context repair stream rm MESSAGES --force
nats --context repair backup restore stream "$BACKUP/MESSAGES" --no-progress`)
}

// followed wants services to read what is written after the restore: not before the copy, which is newer than its stream, was made anew.
func (b messages) followed() {
	b.Helper()
	js := natsdtest.JetStream(b, b.connect("service"))
	b.write("after-restore")
	if err := b.reads(js, "after-restore"); err == nil {
		b.Error("the services' copy took a message of a stream that is older than itself: the runbook says otherwise")
	}
	b.on("Services read old values")
	b.run("Do", 0, "")
	poll(b.T, func() error { return b.reads(js, "after-restore") })
	poll(b.T, func() error { return b.reads(js, "before-backup") })
}
