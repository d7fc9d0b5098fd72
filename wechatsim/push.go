package wechatsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// pushDeadline is how long WeChat waits for the answer to a push (message_push).
	pushDeadline = 5 * time.Second

	maxPushAnswer = 64 << 10 // how much of an answer is read, in bytes

	// pauseAfter is how many ticket intervals tickets must fail in a row before Config.PausePushes
	// stops them.
	pauseAfter = 6

	// Accounts of Component.Authorizers authorize this long after the first answered ticket, one
	// after the other.
	firstAuthorization = 500 * time.Millisecond
	nextAuthorization  = 20 * time.Millisecond

	infoTicket = "component_verify_ticket"
	infoRaw    = "raw"

	defaultOpenID = "oSimUser"
)

// push is one document to be sent to a receiver, with all its tries.
type push struct {
	id         int
	component  *component
	authorizer string // the account that it is about
	message    bool   // goes to the MessageURL
	openID     string // of a message's sender
	infoType   string
	createTime int64
	document   string
	mode       Mode // of a message
	json       bool // the document is JSON
	odd        Oddity

	late    time.Duration
	dropped bool
	repeat  bool            // sent once more after success
	after   <-chan struct{} // closed when the account's previous push was tried once; nil if the order does not matter
	tried   chan struct{}   // closed when this one was tried once
	done    chan answer     // receives the last answer after the last try
}

// answer is what a receiver answered to a push.
type answer struct {
	status           int // HTTP
	outcome          string
	text             string // the passive reply, or why there is none
	msgType, content string // of a passive reply
}

// enqueue gives a push to Run. The caller holds p.mu.
func (p *Platform) enqueue(job push) *push {
	p.pushes++
	job.id, job.tried, job.done = p.pushes, make(chan struct{}), make(chan answer, 1)
	job.dropped = takeOne(p.drops, job.infoType)
	job.repeat = p.chance(p.config.RepeatPushRate)
	job.late = p.upTo(p.config.ShuffleWithin)
	if p.chance(p.config.LatePushRate) {
		job.late += p.upTo(p.config.TicketEvery / 10)
	}
	if p.config.ShuffleWithin == 0 {
		lane := job.component.AppID + "/" + job.authorizer
		job.after = p.lanes[lane]
		p.lanes[lane] = job.tried
	}
	p.makeOdd(&job)
	p.queue = append(p.queue, &job)
	select {
	case p.wake <- struct{}{}:
	default: // Run will look already
	}
	return &job
}

func (p *Platform) takeQueue() []*push {
	p.mu.Lock()
	defer p.mu.Unlock()
	queue := p.queue
	p.queue = nil
	return queue
}

// pushTickets pushes a ticket now and every TicketEvery until ctx ends.
func (p *Platform) pushTickets(ctx context.Context, c *component) {
	ticker := time.NewTicker(p.config.TicketEvery)
	defer ticker.Stop()
	for {
		p.mu.Lock()
		if c.pushing && !c.stopped {
			p.pushTicket(c)
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// pushTicket makes and pushes a ticket. The caller holds p.mu.
func (p *Platform) pushTicket(c *component) *push {
	p.issueTicket(c)
	return p.pushInfo(c, "", infoTicket, field{"ComponentVerifyTicket", c.ticket})
}

// pushInfo pushes an event to the AuthURL. The caller holds p.mu.
func (p *Platform) pushInfo(c *component, authorizer, infoType string, fields ...field) *push {
	created := p.now().Unix()
	document := append(object{{"AppId", c.AppID}, {"CreateTime", created}, {"InfoType", infoType}}, fields...)
	return p.enqueue(push{
		component: c, authorizer: authorizer, infoType: infoType, createTime: created,
		document: renderXML(document, p.vary()),
	})
}

// deliver sends a push until it is answered with success or its tries are used up.
func (p *Platform) deliver(ctx context.Context, job *push) {
	tried := sync.OnceFunc(func() { close(job.tried) })
	defer tried()
	if job.after != nil {
		select {
		case <-job.after:
		case <-ctx.Done():
			return
		}
	}
	if job.late > 0 {
		tried() // a late push may be overtaken by the next ones
		if !p.wait(ctx.Done(), job.late) {
			return
		}
	}
	if job.dropped {
		p.mu.Lock()
		p.record(job.entry(EntryPush, OutcomeDropped, 1))
		p.mu.Unlock()
		job.done <- answer{outcome: OutcomeDropped, text: "lost on its way"}
		return
	}
	attempt, success, last := 0, false, answer{}
	for attempt < p.config.PushRetry.Times && !success {
		if attempt > 0 && !p.wait(ctx.Done(), p.config.PushRetry.Every) {
			return
		}
		attempt++
		last = p.send(ctx, job, attempt)
		success = last.outcome == OutcomeSuccess
		tried()
	}
	if ctx.Err() != nil {
		return
	}
	job.done <- last
	if job.infoType == infoTicket && !job.message {
		p.ticketDone(ctx, job.component, success)
	}
	if success && job.repeat {
		p.mu.Lock()
		pause := p.upTo(p.config.TicketEvery / 10)
		p.mu.Unlock()
		if p.wait(ctx.Done(), pause) {
			p.send(ctx, job, attempt+1)
		}
	}
}

// ticketDone records whether a ticket was answered or failed, and lets the component's Authorizers
// authorize after the first answered one.
func (p *Platform) ticketDone(ctx context.Context, c *component, success bool) {
	p.mu.Lock()
	first := success && !c.answered
	now := p.now()
	switch {
	case success:
		c.answered, c.failingSince = true, time.Time{}
	case c.failingSince.IsZero():
		c.failingSince = now
	case p.config.PausePushes && c.pushing && now.Sub(c.failingSince) >= pauseAfter*p.config.TicketEvery:
		c.pushing = false
		p.record(Entry{Kind: EntryFault, Component: c.AppID, Text: "tickets paused until api_start_push_ticket"})
		p.config.Log.Warn().Str("component", c.AppID).Msg("ticket pushes paused")
	}
	p.mu.Unlock()
	if !first || !p.wait(ctx.Done(), firstAuthorization) {
		return
	}
	for _, appid := range c.Authorizers {
		p.mu.Lock()
		if a := c.authorizers[appid]; a == nil || !a.authorized {
			p.authorize(c, appid, "")
		}
		p.mu.Unlock()
		if !p.wait(ctx.Done(), nextAuthorization) {
			return
		}
	}
}

func (job *push) entry(kind EntryKind, outcome string, attempt int) Entry {
	return Entry{
		Kind: kind, Component: job.component.AppID, Authorizer: job.authorizer, InfoType: job.infoType,
		Outcome: outcome, Push: job.id, Attempt: attempt, CreateTime: job.createTime, Digest: Fingerprint(job.document),
	}
}

// send sends a push once, records the answer and returns it.
func (p *Platform) send(ctx context.Context, job *push, attempt int) answer {
	p.mu.Lock()
	target, body, err := p.seal(job)
	p.record(job.entry(EntryPush, OutcomeSent, attempt))
	p.mu.Unlock()

	a := answer{outcome: OutcomeFailed}
	if err == nil {
		a, err = p.post(ctx, job, target, body)
	}
	if err != nil {
		a.text = err.Error()
	}
	entry := job.entry(EntryPushAnswer, a.outcome, attempt)
	entry.Status, entry.Text = a.status, withoutSecret(a.text)
	entry.MsgType, entry.Content = withoutSecret(a.msgType), withoutSecret(a.content)
	p.mu.Lock()
	p.record(entry)
	p.mu.Unlock()

	if a.outcome == OutcomeSuccess {
		about(p.config.Log.Info(), job.component.AppID, job.authorizer).Str("info_type", job.infoType).
			Int("attempt", attempt).Msg("push answered")
		return a
	}
	about(p.config.Log.Warn(), job.component.AppID, job.authorizer).Str("info_type", job.infoType).
		Int("attempt", attempt).Int("status", a.status).Str("reason", entry.Text).Msg("push failed")
	return a
}

// stamp returns a new timestamp and nonce, and the query with their signature that every request to
// a push address has. The caller holds p.mu.
func (p *Platform) stamp(c *component) (timestamp, nonce, query string) {
	timestamp = strconv.FormatInt(p.now().Unix(), 10)
	nonce = strconv.Itoa(1 + p.rng.IntN(1<<31-1))
	return timestamp, nonce, "signature=" + sign(c.Token, timestamp, nonce) + "&timestamp=" + timestamp + "&nonce=" + nonce
}

// messageURL returns the MessageURL for an account.
func (c *component) messageURL(authorizer string) string {
	return strings.ReplaceAll(c.MessageURL, "$APPID$", authorizer)
}

// withQuery adds a query to an address, which may have one already.
func withQuery(target, query string) string {
	if strings.Contains(target, "?") {
		return target + "&" + query
	}
	return target + "?" + query
}

// seal encrypts a push, depending on its mode, and returns the address with its query, and the
// body. Nonce, timestamp and random bytes are new for each try; the document is the same. The
// caller holds p.mu.
func (p *Platform) seal(job *push) (target, body string, err error) {
	c := job.component
	timestamp, nonce, query := p.stamp(c)
	head := field{"AppId", c.AppID}
	target = c.AuthURL
	if job.message {
		query += "&openid=" + url.QueryEscape(job.openID)
		head = field{"ToUserName", OriginalID(job.authorizer)}
		target = c.messageURL(job.authorizer)
	}
	if job.mode == ModePlain {
		return withQuery(target, query), job.document, nil
	}
	encrypted, err := encrypt(c.key, [16]byte(p.random(16)), []byte(job.document), c.AppID)
	if err != nil {
		return "", "", err
	}
	query += "&encrypt_type=aes&msg_signature=" + sign(c.Token, timestamp, nonce, encrypted)
	switch envelope := (object{head, {"Encrypt", encrypted}}); {
	case job.odd == OddEncrypt || job.odd == OddClearField:
		body = job.odd.envelope(head, encrypted, job.json)
	case job.mode == ModeCompat && job.json:
		body = strings.TrimSuffix(job.document, "}") + `,"Encrypt":"` + encrypted + `"}`
	case job.mode == ModeCompat:
		body = strings.TrimSuffix(job.document, "</xml>") + "<Encrypt><![CDATA[" + encrypted + "]]></Encrypt></xml>"
	case job.json:
		body = renderJSON(envelope, p.vary())
	default:
		body = renderXML(envelope, p.vary())
	}
	return withQuery(target, query), body, nil
}

// post sends a body and judges the answer. The error says why there was none.
func (p *Platform) post(ctx context.Context, job *push, target, body string) (answer, error) {
	a := answer{outcome: OutcomeFailed}
	kind := "text/xml"
	if job.json {
		kind = "application/json"
	}
	text, err := p.exchange(ctx, http.MethodPost, target, kind, body, &a.status)
	if err != nil {
		return a, fmt.Errorf("push: %w", err)
	}
	a.outcome = OutcomeRefused
	switch {
	case a.status != http.StatusOK:
		a.text = "status is not 200"
	case string(text) == "success", len(text) == 0 && job.message:
		a.outcome = OutcomeSuccess
	case !job.message:
		a.text = "body is not exactly success"
	default:
		if a.text, a.msgType, a.content, err = job.openReply(text); err != nil {
			a.text = err.Error()
			break
		}
		a.outcome = OutcomeSuccess
	}
	return a, nil
}

// exchange sends a request to a push address, sets status, and returns the body of the answer.
func (p *Platform) exchange(ctx context.Context, method, target, kind, body string, status *int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, pushDeadline)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	if err != nil {
		return nil, errors.New("the address is not a URL")
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	request.Header.Set("User-Agent", "Mozilla/4.0")
	request.Close = method == http.MethodGet // VerifyURL works without Run, which closes idle connections at its end
	response, err := p.client.Do(request)
	if err != nil {
		if urlErr, ok := errors.AsType[*url.Error](err); ok {
			err = urlErr.Err // without the address, whose query is long and useless
		}
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	*status = response.StatusCode
	text, err := io.ReadAll(io.LimitReader(response.Body, maxPushAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return text, nil
}
