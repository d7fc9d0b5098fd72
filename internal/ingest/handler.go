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
	usualBody  = 4 << 10  // bytes that are made room for when a request says that it has so many
	maxParsing = 64       // pushes parsed at once
	// Messages about which the services are asked at once; a server has 512 connections.
	maxAsking   = 256
	readTime    = 2 * time.Second // for the body
	answerTime  = 4 * time.Second // until the answer; WeChat waits 5 ("message_push")
	maxAge      = 24 * time.Hour  // by CreateTime; older pushes are not stored
	maxSkew     = 5 * time.Minute // by CreateTime; more is counted
	maxLogAgent = 128             // bytes of a User-Agent in the log
)

// Bodies of an answer. WeChat takes nothing but success for a yes ("component_verify_ticket").
const (
	bodySuccess   = "success"
	bodyForbidden = "forbidden" // the same for every fault behind the signature
	bodyRetry     = "retry"
)

// answer is what becomes of one request.
type answer struct {
	status int
	body   string
	format string // its Content-Type; plain text where it is empty
	result string
	reason wechat.Reason // of a refusal, of a stale push, and when NATS is unavailable
	kind   string
	id     string // of the events; empty for a request that becomes none
	bytes  int    // of the body, as far as it was read
	err    error  // what NATS said
	detail string // of a refusal: what was wrong and where, without a word of the request

	subject string            // of its first event
	odd     []document.Oddity // of a push that was stored all the same
}

// refuse returns the answer to a request that is at fault. The body says no more than the status
// does.
func refuse(status int, reason wechat.Reason) answer {
	body := strings.ToLower(http.StatusText(status))
	if status == http.StatusServiceUnavailable {
		body = bodyRetry
	}
	return answer{status: status, body: body, result: resultRejected, reason: reason}
}

// because adds to an answer what wechat found wrong.
func (a answer) because(err error) answer {
	if r, ok := errors.AsType[*wechat.Refusal](err); ok {
		a.detail = r.Detail
	}
	return a
}

// reasonOf returns why wechat refused a push.
func reasonOf(err error) wechat.Reason {
	if r, ok := errors.AsType[*wechat.Refusal](err); ok {
		return r.Reason
	}
	return reasonUnlisted
}

// forbid refuses a push whose envelope could be read: all of these look alike.
func forbid(reason wechat.Reason) answer {
	return answer{status: http.StatusForbidden, body: bodyForbidden, result: resultRejected, reason: reason}
}

// target is what a path names.
type target struct {
	component string
	appid     string // {appid} of the message URL; empty on the authorization event URL
	crypter   *wechat.Crypter
	methods   []string
	kind      string // of a push that can't be read
}

// find reads a path. It takes no detour: a path with "//", ".." or an escaped character in it is
// not found, where http.ServeMux would redirect.
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
		// Beside its chunks the request may have had a Content-Length, which net/http drops. A
		// proxy that went by it would see a second request in what follows: nothing may follow.
		w.Header().Set("Connection", "close")
	}
	if isConnect(r.URL.Path) {
		i.connect(w, r)
		return
	}
	i.push(w, r)
}

// push answers a push, and everything else that is no page.
func (i *Ingest) push(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	// WeChat may hang up while its push is being stored. The store goes on: the repeat then finds
	// it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), answerTime)
	defer cancel()
	to, found := i.find(r)
	a := i.answer(ctx, w, r, to, found)
	if a.kind == "" {
		a.kind = listed(to.kind)
	}
	if a.result == resultRejected && a.status < 500 && !i.failures.Count(r.RemoteAddr, start) {
		a.status, a.body = http.StatusTooManyRequests, "too many refused requests"
	}
	took := time.Since(start)
	i.record(r, to, a, took)
	if !isLook(r, a) {
		i.countAnswer(a.result, took)
		i.writeDown(r, to, a, took)
	}

	if a.status != http.StatusOK || a.body != bodySuccess {
		h := w.Header()
		h.Set("Content-Type", cmp.Or(a.format, "text/plain; charset=utf-8"))
		h.Set("X-Content-Type-Options", "nosniff") // an echostr is foreign text
		w.WriteHeader(a.status)
	} // net/http copies a header that is asked for, and gives a text the same Content-Type by itself
	_, _ = io.WriteString(w, a.body) // if it does not arrive, WeChat sends the push again
}

// answer finds out what to answer, from the cheapest check to the dearest.
func (i *Ingest) answer(ctx context.Context, w http.ResponseWriter, r *http.Request, to target, found bool) answer {
	methods := to.methods
	if !found {
		methods = []string{http.MethodGet, http.MethodPost}
	}
	switch {
	case !slices.Contains(methods, r.Method):
		w.Header().Set("Allow", strings.Join(methods, ", "))
		return refuse(http.StatusMethodNotAllowed, reasonMethod)
	case !strings.HasPrefix(r.RequestURI, "/"): // a request to a proxy: we are none
		return refuse(http.StatusBadRequest, reasonPath)
	case !found:
		return refuse(http.StatusNotFound, reasonPath)
	case len(to.methods) > 1 && !wxtoken.ValidAppID(to.appid):
		return refuse(http.StatusBadRequest, wechat.ReasonAppIDSyntax)
	}
	q, err := wechat.ParseQuery(r.URL.RawQuery)
	if r.Method == http.MethodGet {
		return echo(to, q, err)
	}
	for _, encoding := range r.Header.Values("Content-Encoding") {
		if !strings.EqualFold(encoding, "identity") {
			return refuse(http.StatusUnsupportedMediaType, reasonEncoding)
		}
	}
	if err != nil {
		return refuse(http.StatusBadRequest, reasonOf(err)).because(err)
	}
	body, err := readBody(w, r)
	if err != nil {
		a := refuse(http.StatusRequestTimeout, reasonBody)
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			a = refuse(http.StatusRequestEntityTooLarge, reasonTooLarge)
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
		i.noteOdd(to, p)
		a.odd = p.odd
	}
	if a.result == resultAccepted || a.result == resultDuplicate {
		// A repeat is asked about again: WeChat sends it because the reply before did not arrive.
		i.reply(ctx, p, &a)
	}
	a.bytes = len(body)
	return a
}

// echo answers the GET with which WeChat tries a URL ("message-push"). Its signature covers
// timestamp and nonce alone.
func echo(to target, q wechat.Query, err error) answer {
	var a answer
	switch {
	case err != nil:
		a = refuse(http.StatusBadRequest, reasonOf(err)).because(err)
	case q.EchoStr == "":
		a = refuse(http.StatusBadRequest, wechat.ReasonQuery)
	case !to.crypter.CheckSignature(q):
		a = forbid(wechat.ReasonSignature)
	default:
		a = answer{status: http.StatusOK, body: q.EchoStr, result: resultAccepted}
	}
	a.kind = kindEchoStr
	return a
}

// readBody reads the body in readTime. The error is an *http.MaxBytesError when there is too much
// of it.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	conn := http.NewResponseController(w)
	// Where a connection has no deadline of its own the server's holds.
	_ = conn.SetReadDeadline(time.Now().Add(readTime))
	// It stays behind the body: where a push takes longer to be stored, the connection ends with
	// its answer.
	body := bytes.NewBuffer(make([]byte, 0, min(max(r.ContentLength, 0), usualBody)+bytes.MinRead))
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
	return body.Bytes(), err
}

// parse turns the body into events, or into a refusal.
func (i *Ingest) parse(path string, to target, q wechat.Query, body []byte) (pushed, answer, bool) {
	select {
	case i.parsing <- struct{}{}:
		defer func() { <-i.parsing }()
	default:
		return pushed{}, refuse(http.StatusServiceUnavailable, reasonBusy), false
	}
	text, way, a, ok := i.open(to, q, body)
	if !ok {
		return pushed{}, a, false
	}
	var p pushed
	var err error
	if to.appid == "" {
		p, err = i.fromPush(path, to.component, text)
	} else {
		p, err = i.fromMessage(path, to.component, to.appid, text, way.crypter == nil)
	}
	if err != nil {
		return pushed{}, forbid(reasonOf(err)).because(err), false
	}
	p.reply.way = way
	return p, answer{}, true
}

// open returns the document that a body carries, and the way back.
func (i *Ingest) open(to target, q wechat.Query, body []byte) ([]byte, wayBack, answer, bool) {
	envelope, err := wechat.ParseEnvelope(body)
	if i.plainMessages && to.appid != "" && reasonOf(err) == wechat.ReasonNoEncrypt {
		if !to.crypter.CheckSignature(q) {
			return nil, wayBack{}, forbid(wechat.ReasonSignature), false
		}
		return body, wayBack{}, answer{}, true
	}
	if err != nil {
		return nil, wayBack{}, refuse(http.StatusBadRequest, reasonOf(err)).because(err), false
	}
	if q.MsgSignature == "" {
		return nil, wayBack{}, refuse(http.StatusBadRequest, wechat.ReasonSignatureSyntax), false
	}
	opened, err := to.crypter.Open(q, envelope.Encrypt)
	if err != nil {
		return nil, wayBack{}, forbid(reasonOf(err)).because(err), false
	}
	i.metrics.keys.WithLabelValues(keyLabel(opened.Key)).Inc()
	return opened.Text, wayBack{crypter: to.crypter, opened: opened, nonce: q.Nonce, json: envelope.JSON}, answer{}, true
}

// store publishes what the push becomes, unless it is too old.
func (i *Ingest) store(ctx context.Context, p pushed) answer {
	a := answer{kind: listed(p.kind), id: p.events[0].ID, status: http.StatusOK, body: bodySuccess, result: resultAccepted}
	if !p.created.IsZero() {
		skew := i.now().Sub(p.created)
		i.metrics.skew.WithLabelValues(a.kind).Observe(skew.Seconds())
		if skew > maxAge {
			// Not refused: if it is our clock that is wrong, a refusal would make WeChat stop
			// sending.
			a.result, a.reason = resultStale, reasonStale
			return a
		}
		if skew > maxSkew || skew < -maxSkew {
			i.metrics.skewed.Inc()
			log := i.lines.about(reasonSkewed)
			log.Warn().Str("info_type", a.kind).Str("event_id", a.id).Dur("skew", skew).Msg("push skewed")
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

// noteOdd counts what is odd about a push that was stored, and logs it.
func (i *Ingest) noteOdd(to target, p pushed) {
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
		Str("info_type", listed(p.kind)).Msg("odd push stored")
}

// agent returns as much of the User-Agent as goes into the log.
func agent(r *http.Request) string {
	text := r.UserAgent()
	return text[:min(len(text), maxLogAgent)]
}

// isLook reports whether a request is no push, but a look whether the URL is there: a browser's, or
// the one that --check takes. The metrics and the log have it.
func isLook(r *http.Request, a answer) bool {
	return a.reason == reasonMethod && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}

// countAnswer counts for the operator's page.
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

// record counts the answer and logs it. Nothing of query or body goes into a line.
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
