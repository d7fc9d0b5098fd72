package ingest

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client/document"
	"wxtoken/internal/wechat"
)

// maxReply bounds a service's answer, in bytes.
const maxReply = 64 << 10

// reply says how a push is answered once its events are stored. The zero reply is "success".
type reply struct {
	subject  string // where the services are asked; empty for a push that gets no reply
	document []byte // the reply, if the services need not be asked
	silent   bool   // the body of the answer is empty
	wrapper  replyWrapper
}

// replyWrapper encrypts and signs a reply with the key and the token of its message. The zero
// replyWrapper is for plain mode.
type replyWrapper struct {
	crypter *wechat.Crypter
	opened  wechat.Opened
	nonce   string
	json    bool // the envelope is JSON
}

// reply puts the passive reply to a stored push into a. Without a reply a stays "success": any
// other answer would make WeChat tell the user that the service is out of order.
func (i *Ingest) reply(ctx context.Context, p pushed, a *answer) {
	if p.reply.silent {
		a.body = ""
		return
	}
	document, asked := p.reply.document, time.Duration(0)
	switch {
	case document != nil || p.reply.subject == "":
	case !i.listeners.mayListen(p.reply.subject):
		i.noReply(p, replyNone, "", nil)
	default:
		began := time.Now()
		document = i.ask(ctx, p)
		asked = time.Since(began)
	}
	if document == nil {
		return
	}
	body, format, err := p.reply.wrapper.wrap(document, i.now())
	if err != nil {
		i.noReply(p, replyRefused, reasonReplySeal, err)
		return
	}
	a.body, a.format = body, format
	if p.reply.document == nil {
		i.metrics.replies.WithLabelValues(replyAnswered).Inc()
		i.metrics.replyDuration.Observe(asked.Seconds())
	}
}

// ask asks the services for the reply to a message. It returns nil if there is none, after counting
// why.
func (i *Ingest) ask(ctx context.Context, p pushed) []byte {
	select {
	case i.asking <- struct{}{}:
		defer func() { <-i.asking }()
	default:
		// Slow services must not take up the connections that tickets need.
		i.noReply(p, replyLate, reasonReplyBusy, nil)
		return nil
	}
	e := p.events[0]
	question := nats.NewMsg(p.reply.subject)
	question.Data = e.Data
	question.Header.Set("Content-Type", e.ContentType)
	question.Header.Set("ce-id", e.ID)
	nc := i.js.Conn()
	if !nc.IsConnected() {
		i.noReply(p, replyLate, reasonReplyLate, nats.ErrDisconnected)
		return nil
	}
	msg, err := nc.RequestMsgWithContext(ctx, question)
	i.listeners.record(p.reply.subject, !errors.Is(err, nats.ErrNoResponders))
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		i.noReply(p, replyNone, "", nil)
		return nil
	case err != nil:
		i.noReply(p, replyLate, reasonReplyLate, err)
		return nil
	case msg.Header.Get(micro.ErrorHeader) != "" || msg.Header.Get(micro.ErrorCodeHeader) != "":
		i.noReply(p, replyRefused, reasonReplyError, nil)
		return nil
	case len(msg.Data) > maxReply:
		i.noReply(p, replyRefused, reasonReplyTooLarge, nil)
		return nil
	}
	switch said := bytes.TrimSpace(msg.Data); {
	case len(said) == 0 || string(said) == bodySuccess:
		i.noReply(p, replyNone, "", nil)
		return nil
	case !isReply(said):
		i.noReply(p, replyRefused, reasonReplySyntax, nil)
		return nil
	default:
		return said
	}
}

// isReply reports whether WeChat could read said: one document without oddities.
func isReply(said []byte) bool {
	d, err := document.Read(said, nil)
	return err == nil && d != nil && d.Whole && !d.Is(document.Structure) && !d.Outside && !d.Is(document.Markup) && !d.Is(document.Characters) && !d.Is(document.Beside) &&
		!(d.JSON && d.Is(document.Twice))
}

// noReply counts why a message gets no reply, and logs reasons that an operator should look into.
func (i *Ingest) noReply(p pushed, result string, reason wechat.Reason, err error) {
	i.metrics.replies.WithLabelValues(result).Inc()
	if reason == "" {
		return
	}
	log := i.lines.about(reason)
	log.Warn().Err(err).Str("subject", p.reply.subject).Str("event_id", p.events[0].ID).Msg("failed to reply to message")
}

// wrap returns the body of an answer with document as the reply, and its Content-Type.
func (w replyWrapper) wrap(document []byte, now time.Time) (body, format string, err error) {
	if w.crypter == nil {
		return string(document), contentType(document), nil
	}
	sealed, err := w.crypter.Answer(w.opened, strconv.FormatInt(now.Unix(), 10), w.nonce, document)
	if err != nil {
		return "", "", err
	}
	if w.json {
		return string(sealed.JSON()), "application/json", nil
	}
	return string(sealed.XML()), "application/xml", nil
}
