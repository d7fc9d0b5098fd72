package webhooks

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client/document"
	"wxtoken/internal/events"
)

const (
	// postWithin bounds one delivery.
	postWithin = 10 * time.Second
	// replyWithin bounds one whose answer is the passive reply: ingest waits for 4 s.
	replyWithin = 3700 * time.Millisecond
	// maxAnswer is how much of an answer is read, in bytes: as much as a passive reply may have.
	maxAnswer = 64 << 10
	maxHeader = 64 << 10
	// maxHeaders is about how many headers a delivery has.
	maxHeaders = 16
	// maxRetryAfter is the longest wait that a receiver can ask for.
	maxRetryAfter = 10 * time.Minute
)

// backoff is how long a message waits after a try that failed, less up to a fifth by chance.
var backoff = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
}

// Outcomes of a delivery, as the metrics have them.
const (
	outcomeOK          = "ok"
	outcomeReplied     = "replied"     // with a passive reply
	outcomeGarbage     = "garbage"     // taken, but its answer is no passive reply
	outcomeRedirect    = "redirect"    // not followed
	outcomeRefused     = "refused"     // 4xx
	outcomeFailed      = "failed"      // 5xx, or no status of HTTP
	outcomeTimeout     = "timeout"     // no answer in time
	outcomeUnreachable = "unreachable" // no connection, or it broke
)

// delivery is one POST.
type delivery struct {
	id     string
	kind   events.Kind
	header nats.Header // of the message: ce-* and Content-Type are handed on
	body   []byte
	reply  bool // the answer is wanted as the passive reply
}

// result is what came of it.
type result struct {
	outcome string
	why     string        // for the log and DEAD: no address, nothing of the answer
	answer  []byte        // the passive reply
	after   time.Duration // how long the receiver wants to be left alone
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
	// Made without net/http's NewRequest and Client, which read the URL and copy the headers for each: no redirect is followed anyway.
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(d.body)), nil }
	body, _ := open()
	req := (&http.Request{
		Method: http.MethodPost, URL: t.url, Header: make(http.Header, maxHeaders), Body: body, GetBody: open, ContentLength: int64(len(d.body)),
	}).WithContext(ctx)
	if len(d.body) == 0 {
		req.Body, req.GetBody = http.NoBody, nil
	}
	d.sign(req.Header, t, strconv.FormatInt(now.Unix(), 10))
	res, err := w.http.Transport.RoundTrip(req)
	if err != nil {
		return unanswered(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode/100 == 2 && !d.reply {
		_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // so that the connection can be used again
		return result{outcome: outcomeOK}                // it says so, whatever becomes of the rest
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return unanswered(err)
	}
	return judge(res, answer)
}

// sign puts all that goes with the document into h. The names are spelled as net/http has them.
func (d delivery) sign(h http.Header, t *target, timestamp string) {
	for name, values := range d.header {
		switch {
		case name == "Content-Type":
			h[name] = values
		case strings.HasPrefix(name, "ce-"):
			h[http.CanonicalHeaderKey(name)] = values
		}
	}
	h["User-Agent"] = []string{"wxtoken"}
	h["Webhook-Id"] = []string{d.id}
	h["Webhook-Timestamp"] = []string{timestamp}
	h["Webhook-Signature"] = []string{t.sign(d.id, timestamp, d.body)}
	h["Wxtoken-Component"] = []string{d.kind.Component}
	h["Wxtoken-Msgtype"] = []string{d.kind.MsgType}
	if d.kind.AppID != "" {
		h["Wxtoken-Appid"] = []string{d.kind.AppID}
	}
	if d.kind.Event != "" {
		h["Wxtoken-Event"] = []string{d.kind.Event}
	}
	if d.reply {
		h["Wxtoken-Reply"] = []string{"wanted"}
	}
}

// judge tells what an answer means.
func judge(res *http.Response, body []byte) result {
	r := result{outcome: outcomeFailed, why: "status " + strconv.Itoa(res.StatusCode)}
	if seconds, err := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 32); err == nil {
		r.after = min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	switch said := bytes.TrimSpace(body); {
	case res.StatusCode/100 == 3:
		r.outcome = outcomeRedirect
	case res.StatusCode/100 == 4:
		r.outcome = outcomeRefused
	case res.StatusCode/100 != 2:
	case res.StatusCode != http.StatusOK || len(said) == 0 || string(said) == "success":
		return result{outcome: outcomeOK}
	case len(body) > maxAnswer || !isDocument(said):
		return result{outcome: outcomeGarbage, why: "an answer that is no passive reply"}
	default:
		return result{outcome: outcomeReplied, answer: said}
	}
	return r
}

// isDocument reports whether said may be a reply. ingest looks at it more closely.
func isDocument(said []byte) bool {
	d, err := document.Read(said, nil)
	return err == nil && d != nil && d.Field("MsgType") != ""
}

// unanswered says why there is no answer, without the address: a URL may have a secret in it.
func unanswered(err error) result {
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return result{outcome: outcomeTimeout, why: "no answer in time"}
	}
	return result{outcome: outcomeUnreachable, why: "no connection, or it broke"}
}

// sign returns the signature of a delivery ("Standard Webhooks", symmetric).
func (t *target) sign(id, timestamp string, body []byte) string {
	mac := t.macs.Get().(hash.Hash)
	defer t.macs.Put(mac)
	mac.Reset()
	head := append(append(append(append(make([]byte, 0, 128), id...), '.'), timestamp...), '.')
	_, _ = mac.Write(head)
	_, _ = mac.Write(body)
	return string(base64.StdEncoding.AppendEncode(append(head[:0], "v1,"...), mac.Sum(nil)))
}

// pause returns how long to wait after so many tries.
func pause(tries int, after time.Duration) time.Duration {
	d := max(backoff[min(tries, len(backoff))-1], after)
	return d - rand.N(d/5+1)
}
