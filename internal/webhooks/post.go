package webhooks

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client/document"
	"wxtoken/internal/events"
	"wxtoken/internal/hook"
	"wxtoken/internal/lang"
)

const (
	// postWithin bounds one delivery.
	postWithin = 10 * time.Second
	// replyWithin bounds a delivery whose answer is the passive reply: ingest waits 4 s for it.
	replyWithin = 3700 * time.Millisecond
	// maxAnswer is how much of an answer is read, in bytes: the largest passive reply.
	maxAnswer = 64 << 10
	// headerCount is how many headers a delivery has: a map made for more takes twice the memory.
	headerCount = 14
)

// Outcomes of a delivery, as in the metrics.
const (
	outcomeOK          = "ok"
	outcomeReplied     = "replied"     // with a passive reply
	outcomeGarbage     = "garbage"     // taken, but the answer is not a passive reply
	outcomeRedirect    = "redirect"    // not followed
	outcomeRefused     = "refused"     // 4xx
	outcomeFailed      = "failed"      // 5xx, or not a valid HTTP status
	outcomeTimeout     = "timeout"     // no answer in time
	outcomeUnreachable = "unreachable" // no connection, or it broke
)

// delivery is one POST.
type delivery struct {
	id     string
	kind   events.Kind
	header nats.Header // of the message: ce-* and Content-Type are forwarded
	body   []byte
	reply  bool // the answer is used as the passive reply
}

// result is the result of a delivery.
type result struct {
	outcome string
	why     lang.Text     // for the log and DEAD: without the address and the answer's content
	answer  []byte        // the passive reply
	after   time.Duration // the receiver's Retry-After; 0 if none
}

// taken reports whether the receiver has the message.
func (r result) taken() bool {
	return r.outcome == outcomeOK || r.outcome == outcomeReplied || r.outcome == outcomeGarbage
}

// post makes one delivery.
func (w *Webhooks) post(ctx context.Context, t *target, d delivery, now time.Time) result {
	within := postWithin
	if d.reply {
		within = replyWithin
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	// Made without net/http's NewRequest and Client, which parse the URL and copy the headers for
	// each request. They aren't needed: no redirect is followed.
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(d.body)), nil }
	body, _ := open()
	req := t.request.WithContext(ctx)
	req.Header, req.Body, req.GetBody, req.ContentLength = make(http.Header, headerCount), body, open, int64(len(d.body))
	if len(d.body) == 0 {
		req.Body, req.GetBody = http.NoBody, nil
	}
	d.setHeaders(req.Header, t.signer, now)
	res, err := w.http.Transport.RoundTrip(req)
	if err != nil {
		return noAnswer(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode/100 == 2 && !d.reply {
		if res.Body != http.NoBody {
			_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // so that the connection can be reused
		}
		return result{outcome: outcomeOK} // the status says so, even if the body breaks off
	}
	var answer []byte
	if res.StatusCode != http.StatusSwitchingProtocols { // its body is the connection, which ctx does not end
		answer, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	}
	return judge(res, answer, err == nil)
}

// attributes are the headers of a message that are forwarded, with net/http's spelling. Any other
// header that begins with ce- is forwarded too.
var attributes = map[string]string{
	"Content-Type": "Content-Type", "ce-id": "Ce-Id", "ce-source": "Ce-Source", "ce-specversion": "Ce-Specversion", "ce-subject": "Ce-Subject",
	"ce-time": "Ce-Time", "ce-type": "Ce-Type",
}

// setHeaders sets the headers of a delivery, signature included.
func (d delivery) setHeaders(h http.Header, signer *hook.Signer, now time.Time) {
	for name, values := range d.header {
		if spelled, ok := attributes[name]; ok {
			h[spelled] = values
		} else if isForwarded(name) {
			h[http.CanonicalHeaderKey(name)] = values
		}
	}
	signer.Sign(h, d.id, now, d.body)
	values := [...]string{d.kind.Component, d.kind.MsgType, d.kind.AppID, d.kind.Event, ""}
	if d.reply {
		values[4] = "wanted"
	}
	for i, name := range [...]string{"Wxtoken-Component", "Wxtoken-Msgtype", "Wxtoken-Appid", "Wxtoken-Event", "Wxtoken-Reply"} {
		if values[i] != "" {
			h[name] = values[i : i+1 : i+1]
		}
	}
}

// judge returns the result that an answer means. The status alone says whether the receiver has the
// message, also where the body broke off and is not whole.
func judge(res *http.Response, body []byte, whole bool) result {
	r := result{outcome: outcomeFailed, why: lang.T("status %d", "状态码 %d", res.StatusCode), after: hook.RetryAfter(res.Header)}
	switch said := bytes.TrimSpace(body); {
	case res.StatusCode/100 == 3:
		r.outcome = outcomeRedirect
	case res.StatusCode/100 == 4:
		r.outcome = outcomeRefused
	case res.StatusCode/100 != 2:
	case res.StatusCode != http.StatusOK || len(said) == 0 || string(said) == "success":
		return result{outcome: outcomeOK}
	case !whole || len(body) > maxAnswer || !isReply(said):
		return result{outcome: outcomeGarbage, why: lang.T("the answer is not a passive reply", "应答不是被动回复")}
	default:
		return result{outcome: outcomeReplied, answer: said}
	}
	return r
}

// isReply reports whether said may be a passive reply. ingest checks it more closely.
func isReply(said []byte) bool {
	d, err := document.Read(said, nil)
	return err == nil && d != nil && d.Field("MsgType") != ""
}

// noAnswer returns the result of a delivery that got no answer.
func noAnswer(err error) result {
	timeout, why := hook.Unanswered(err)
	if timeout {
		return result{outcome: outcomeTimeout, why: why}
	}
	return result{outcome: outcomeUnreachable, why: why}
}
