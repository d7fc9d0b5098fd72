package ingest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/client/document"
	"wxtoken/internal/counts"
	"wxtoken/internal/wechat"
)

// Bounds of one push.
const (
	maxBody    = 64 << 10 // bytes
	usualBody  = 4 << 10  // bytes; allocated at once if the Content-Length is no larger
	maxParsing = 64       // pushes parsed at once
	// Messages about which the services are being asked; a server has 512 connections.
	maxAsking   = 256
	readTime    = 2 * time.Second // for the body
	answerTime  = 4 * time.Second // until the answer; WeChat waits 5 ("message_push")
	maxAge      = 24 * time.Hour  // by CreateTime; older pushes are not stored
	maxSkew     = 5 * time.Minute // by CreateTime; a larger one is counted
	maxLogAgent = 128             // bytes of a User-Agent in the log
)

// Bodies of an answer. WeChat accepts only "success" ("component_verify_ticket").
const (
	bodySuccess   = "success"
	bodyForbidden = "forbidden" // the same for every fault from the signature on
	bodyRetry     = "retry"
)

// answer is the answer to one request, and what the log tells about it.
type answer struct {
	status int
	body   string
	format string // its Content-Type; plain text where it is empty
	result string
	reason wechat.Reason // of a refusal, of a stale push, and when NATS is unavailable
	kind   string
	id     string // of the events; empty if there are none
	bytes  int    // of the body, as far as it was read
	err    error  // from NATS
	detail string // of a refusal: what was wrong and where, quoting nothing of the request

	subject string            // of its first event
	odd     []document.Oddity // of a push that was stored all the same
}

// refusal returns the answer to a faulty request. The body says no more than the status.
func refusal(status int, reason wechat.Reason) answer {
	body := strings.ToLower(http.StatusText(status))
	if status == http.StatusServiceUnavailable {
		body = bodyRetry
	}
	return answer{status: status, body: body, result: resultRejected, reason: reason}
}

// withDetail adds the detail of wechat's refusal to an answer.
func (a answer) withDetail(err error) answer {
	if r, ok := errors.AsType[*wechat.Refusal](err); ok {
		a.detail = r.Detail
	}
	return a
}

// reasonOf returns the reason of wechat's refusal.
func reasonOf(err error) wechat.Reason {
	if r, ok := errors.AsType[*wechat.Refusal](err); ok {
		return r.Reason
	}
	return reasonUnlisted
}

// forbidden returns the answer to a faulty push whose envelope could be read: the same for all
// faults.
func forbidden(reason wechat.Reason) answer {
	return answer{status: http.StatusForbidden, body: bodyForbidden, result: resultRejected, reason: reason}
}

// target is what a path names.
type target struct {
	component string
	appid     string // {appid} of the message URL; empty on the authorization event URL
	crypter   *wechat.Crypter
	methods   []string
	kind      string // label of a push that can't be read
}

// find returns the target of a path. Only exact paths are found: http.ServeMux would redirect a
// path with "//", ".." or an escaped character.
func (i *Ingest) find(r *http.Request) (to target, found bool) {
	parts := strings.Split(r.URL.Path, "/")
	if strings.Contains(r.URL.RawPath, "%") || len(parts) < 4 || parts[0] != "" || parts[1] != "wechat" || !wxtoken.ValidAppID(parts[2]) {
		return target{}, false
	}
	to = target{component: parts[2], crypter: (*i.components.Load())[parts[2]]}
	switch {
	case to.crypter == nil:
		return target{component: to.component}, false // for the log
	case len(parts) == 4 && parts[3] == "auth":
		to.methods, to.kind = []string{http.MethodPost}, kindOther
	case len(parts) == 5 && parts[3] == "message" && !slices.Contains([]string{"", ".", ".."}, parts[4]):
		to.appid, to.methods, to.kind = parts[4], []string{http.MethodGet, http.MethodPost}, kindMessage
	default:
		return target{}, false
	}
	return to, true
}

func (i *Ingest) serve(w http.ResponseWriter, r *http.Request) {
	if len(r.TransferEncoding) > 0 {
		// A chunked request may have had a Content-Length too, which net/http drops. A proxy that
		// believed it would take the rest for a second request (request smuggling): so nothing may
		// follow on this connection.
		w.Header().Set("Connection", "close")
	}
	if isConnect(r.URL.Path) {
		i.connect(w, r)
		return
	}
	i.push(w, r)
}

// push answers a push, and every other request that is not for a page.
func (i *Ingest) push(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	// WeChat may hang up while its push is being stored. It is stored all the same: the repeat then
	// is a duplicate.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), answerTime)
	defer cancel()
	to, found := i.find(r)
	a := i.answer(ctx, w, r, to, found)
	if a.kind == "" {
		a.kind = kindLabel(to.kind)
	}
	if a.result == resultRejected && a.status < 500 && !i.failures.Count(r.RemoteAddr, start) {
		a.status, a.body = http.StatusTooManyRequests, "too many refused requests"
	}
	took := time.Since(start)
	i.record(r, to, a, took)
	if !isProbe(r, a) {
		i.countAnswer(a.result, took)
		i.addToJournal(r, to, a, took)
	}

	if a.status != http.StatusOK || a.body != bodySuccess {
		h := w.Header()
		h.Set("Content-Type", cmp.Or(a.format, "text/plain; charset=utf-8"))
		h.Set("X-Content-Type-Options", "nosniff") // an echostr is foreign text
		w.WriteHeader(a.status)
	} // otherwise net/http sets the same Content-Type by itself, which saves copying the headers
	_, _ = io.WriteString(w, a.body) // if it does not arrive, WeChat sends the push again
}

// answer returns the answer to a request. The cheapest checks come first.
func (i *Ingest) answer(ctx context.Context, w http.ResponseWriter, r *http.Request, to target, found bool) answer {
	methods := to.methods
	if !found {
		methods = []string{http.MethodGet, http.MethodPost}
	}
	switch {
	case !slices.Contains(methods, r.Method):
		w.Header().Set("Allow", strings.Join(methods, ", "))
		return refusal(http.StatusMethodNotAllowed, reasonMethod)
	case !strings.HasPrefix(r.RequestURI, "/"): // a request to a proxy, which this is not
		return refusal(http.StatusBadRequest, reasonPath)
	case !found:
		return refusal(http.StatusNotFound, reasonPath)
	case len(to.methods) > 1 && !wxtoken.ValidAppID(to.appid):
		return refusal(http.StatusBadRequest, wechat.ReasonAppIDSyntax)
	}
	q, err := wechat.ParseQuery(r.URL.RawQuery)
	if r.Method == http.MethodGet {
		return echo(to, q, err)
	}
	for _, encoding := range r.Header.Values("Content-Encoding") {
		if !strings.EqualFold(encoding, "identity") {
			return refusal(http.StatusUnsupportedMediaType, reasonEncoding)
		}
	}
	if err != nil {
		return refusal(http.StatusBadRequest, reasonOf(err)).withDetail(err)
	}
	body, err := readBody(w, r)
	if err != nil {
		a := refusal(http.StatusRequestTimeout, reasonBody)
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			a = refusal(http.StatusRequestEntityTooLarge, reasonTooLarge)
		}
		a.bytes = len(body)
		return a
	}
	p, a, ok := i.parse(r.URL.Path, to, q, body)
	if ok {
		a = i.store(ctx, p)
		a.subject = p.events[0].Subject
	}
	if a.result == resultAccepted {
		i.recordOdd(to, p)
		a.odd = p.odd
	}
	if a.result == resultAccepted || a.result == resultDuplicate {
		// A repeat gets a reply too: WeChat sends it because the first reply did not arrive.
		i.reply(ctx, p, &a)
	}
	a.bytes = len(body)
	return a
}

// echo answers the GET with which WeChat checks a URL ("message-push"). Its signature covers only
// timestamp and nonce.
func echo(to target, q wechat.Query, err error) answer {
	var a answer
	switch {
	case err != nil:
		a = refusal(http.StatusBadRequest, reasonOf(err)).withDetail(err)
	case q.EchoStr == "":
		a = refusal(http.StatusBadRequest, wechat.ReasonQuery)
	case !to.crypter.CheckSignature(q):
		a = forbidden(wechat.ReasonSignature)
	default:
		a = answer{status: http.StatusOK, body: q.EchoStr, result: resultAccepted}
	}
	a.kind = kindEchoStr
	return a
}

// readBody reads the body within readTime. The error is an *http.MaxBytesError if the body is too
// large.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	conn := http.NewResponseController(w)
	// Fails for a connection without deadlines of its own; then the server's timeout applies.
	_ = conn.SetReadDeadline(time.Now().Add(readTime))
	// The deadline is not reset: if storing the push takes longer than that, the connection ends
	// after its answer.
	body := bytes.NewBuffer(make([]byte, 0, min(max(r.ContentLength, 0), usualBody)+bytes.MinRead))
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
	return body.Bytes(), err
}

// parse turns the body into events. If the last result is false, the answer is the refusal.
func (i *Ingest) parse(path string, to target, q wechat.Query, body []byte) (pushed, answer, bool) {
	select {
	case i.parsing <- struct{}{}:
		defer func() { <-i.parsing }()
	default:
		return pushed{}, refusal(http.StatusServiceUnavailable, reasonBusy), false
	}
	text, wrapper, a, ok := i.open(to, q, body)
	if !ok {
		return pushed{}, a, false
	}
	var p pushed
	var err error
	if to.appid == "" {
		p, err = i.fromPush(path, to.component, text)
	} else {
		p, err = i.fromMessage(path, to.component, to.appid, text, wrapper.crypter == nil)
	}
	if err != nil {
		return pushed{}, forbidden(reasonOf(err)).withDetail(err), false
	}
	p.reply.wrapper = wrapper
	return p, answer{}, true
}

// open decrypts a body. It returns the document, and the wrapper for a reply.
func (i *Ingest) open(to target, q wechat.Query, body []byte) ([]byte, replyWrapper, answer, bool) {
	envelope, err := wechat.ParseEnvelope(body)
	if i.plainMessages && to.appid != "" && reasonOf(err) == wechat.ReasonNoEncrypt {
		if !to.crypter.CheckSignature(q) {
			return nil, replyWrapper{}, forbidden(wechat.ReasonSignature), false
		}
		return body, replyWrapper{}, answer{}, true
	}
	if err != nil {
		return nil, replyWrapper{}, refusal(http.StatusBadRequest, reasonOf(err)).withDetail(err), false
	}
	if q.MsgSignature == "" {
		return nil, replyWrapper{}, refusal(http.StatusBadRequest, wechat.ReasonSignatureSyntax), false
	}
	opened, err := to.crypter.Open(q, envelope.Encrypt)
	if err != nil {
		return nil, replyWrapper{}, forbidden(reasonOf(err)).withDetail(err), false
	}
	i.metrics.keys.WithLabelValues(keyLabel(opened.Key)).Inc()
	return opened.Text, replyWrapper{crypter: to.crypter, opened: opened, nonce: q.Nonce, json: envelope.JSON}, answer{}, true
}

// store publishes the events of a push, unless it is too old.
func (i *Ingest) store(ctx context.Context, p pushed) answer {
	a := answer{kind: kindLabel(p.kind), id: p.events[0].ID, status: http.StatusOK, body: bodySuccess, result: resultAccepted}
	if !p.created.IsZero() {
		skew := i.now().Sub(p.created)
		i.metrics.skew.WithLabelValues(a.kind).Observe(skew.Seconds())
		if skew > maxAge {
			// Not refused: if our own clock is wrong, refusals would make WeChat stop sending.
			a.result, a.reason = resultStale, reasonStale
			return a
		}
		if skew > maxSkew || skew < -maxSkew {
			i.metrics.skewed.Inc()
			log := i.lines.about(reasonSkewed)
			log.Warn().Str("info_type", a.kind).Str("event_id", a.id).Dur("skew", skew).Msg("push with skewed CreateTime received")
		}
	}
	duplicate, err := i.publish(ctx, p.events)
	switch {
	case err != nil:
		a.status, a.body = http.StatusServiceUnavailable, bodyRetry
		a.result, a.reason, a.err = resultNATSUnavailable, reasonNATS, err
	case duplicate:
		a.result = resultDuplicate
	}
	return a
}

// recordOdd counts and logs the oddities of a push that was stored.
func (i *Ingest) recordOdd(to target, p pushed) {
	if len(p.odd) == 0 {
		return
	}
	kinds, details := make([]string, len(p.odd)), make([]string, len(p.odd))
	for n, odd := range p.odd {
		i.metrics.odd.WithLabelValues(string(odd.Kind)).Inc()
		kinds[n], details[n] = string(odd.Kind), odd.Detail
	}
	log := i.lines.about(reasonOdd)
	log.Warn().Strs("oddities", kinds).Strs("detail", details).Str("event_id", p.events[0].ID).Str("component", to.component).
		Str("info_type", kindLabel(p.kind)).Msg("odd push stored")
}

// agent returns the beginning of the User-Agent, for the log.
func agent(r *http.Request) string {
	text := r.UserAgent()
	return text[:min(len(text), maxLogAgent)]
}

// isProbe reports whether a request is not a push but a check whether the URL exists, by a browser
// or by --check. Probes are in the metrics and the log, but not on the operator's page.
func isProbe(r *http.Request, a answer) bool {
	return a.reason == reasonMethod && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}

// countAnswer counts an answer for the operator's page.
func (i *Ingest) countAnswer(result string, took time.Duration) {
	if result == resultRejected || result == resultNATSUnavailable {
		i.counts.Add(counts.Refused, 1)
		return
	}
	i.counts.Add(counts.Pushes, 1)
	i.counts.Add(counts.Within(took), 1)
	if result == resultDuplicate {
		i.counts.Add(counts.Repeated, 1)
	}
}

// record counts the answer and logs it. Log lines contain nothing of query or body.
func (i *Ingest) record(r *http.Request, to target, a answer, took time.Duration) {
	i.metrics.pushes.WithLabelValues(a.kind, a.result).Inc()
	i.metrics.duration.WithLabelValues(a.result).Observe(took.Seconds())
	if a.result == resultAccepted || a.result == resultDuplicate {
		i.lines.log.Debug().Str("component", to.component).Str("info_type", a.kind).Str("event_id", a.id).
			Str("result", a.result).Dur("duration", took).Msg("push answered")
		return
	}
	msg := "push refused"
	switch a.result {
	case resultRejected:
		i.metrics.rejected.WithLabelValues(string(a.reason)).Inc()
	case resultStale:
		msg = "push too old, not stored"
	case resultNATSUnavailable:
		msg = "push not stored"
	}
	log := i.lines.about(a.reason)
	log.Warn().Err(a.err).Str("event_id", a.id).Str("component", to.component).Str("info_type", a.kind).Int("status", a.status).
		Str("detail", a.detail).Int("bytes", a.bytes).Str("remote", r.RemoteAddr).Str("user_agent", agent(r)).Dur("duration", took).Msg(msg)
}
