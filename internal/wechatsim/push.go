package wechatsim

import (
	"cmp"
	"context"
	"encoding/xml"
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

	maxPushAnswer = 64 << 10 // bytes of an answer that are read

	// pauseAfter is how many ticket intervals tickets must fail in a row before Config.PausePushes stops them.
	pauseAfter = 6

	// Accounts of Component.Authorizers authorize this long after the first answered ticket, one after the other.
	firstAuthorization = 500 * time.Millisecond
	nextAuthorization  = 20 * time.Millisecond

	infoTicket = "component_verify_ticket"
)

// push is one document on its way to a receiver, with all its tries.
type push struct {
	id         int
	component  *component
	authorizer string // the account that it is about
	message    bool   // goes to the MessageURL
	openID     string // of a message's sender
	infoType   string
	createTime int64
	document   string

	late    time.Duration
	dropped bool
	repeat  bool            // sent once more after success
	after   <-chan struct{} // closed when the account's push before was tried once; nil if there is no order
	tried   chan struct{}   // closed when this one was
}

// enqueue gives a push to Run. The caller holds p.mu.
func (p *Platform) enqueue(job push) {
	p.pushes++
	job.id, job.tried = p.pushes, make(chan struct{})
	job.dropped = p.dropPush(job.infoType)
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
	p.queue = append(p.queue, &job)
	select {
	case p.wake <- struct{}{}:
	default: // Run is told already
	}
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
func (p *Platform) pushTicket(c *component) {
	p.issueTicket(c)
	p.pushInfo(c, "", infoTicket, field{"ComponentVerifyTicket", c.ticket})
}

// pushInfo pushes an event to the AuthURL. The caller holds p.mu.
func (p *Platform) pushInfo(c *component, authorizer, infoType string, fields ...field) {
	created := p.now().Unix()
	document := append(object{{"AppId", c.AppID}, {"CreateTime", created}, {"InfoType", infoType}}, fields...)
	p.enqueue(push{
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
		tried() // who is late is overtaken
		if !p.wait(ctx.Done(), job.late) {
			return
		}
	}
	if job.dropped {
		p.mu.Lock()
		p.record(job.entry(EntryPush, OutcomeDropped, 1))
		p.mu.Unlock()
		return
	}
	attempt, success := 0, false
	for attempt < p.config.PushRetry.Times && !success {
		if attempt > 0 && !p.wait(ctx.Done(), p.config.PushRetry.Every) {
			return
		}
		attempt++
		success = p.send(ctx, job, attempt)
		tried()
	}
	if ctx.Err() != nil {
		return
	}
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

// ticketDone keeps account of answered and failed tickets, and lets the component's own accounts
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

// send sends a push once and reports whether it was answered as WeChat wants it.
func (p *Platform) send(ctx context.Context, job *push, attempt int) bool {
	p.mu.Lock()
	target, body, err := p.seal(job)
	p.record(job.entry(EntryPush, OutcomeSent, attempt))
	p.mu.Unlock()

	answer := job.entry(EntryPushAnswer, OutcomeFailed, attempt)
	if err == nil {
		answer.Status, answer.Outcome, answer.Text, err = p.post(ctx, job, target, body)
	}
	if err != nil {
		answer.Text = err.Error()
	}
	p.mu.Lock()
	p.record(answer)
	p.mu.Unlock()

	if answer.Outcome == OutcomeSuccess {
		about(p.config.Log.Info(), job.component.AppID, job.authorizer).Str("info_type", job.infoType).
			Int("attempt", attempt).Msg("push answered")
		return true
	}
	about(p.config.Log.Warn(), job.component.AppID, job.authorizer).Str("info_type", job.infoType).
		Int("attempt", attempt).Int("status", answer.Status).Str("reason", answer.Text).Msg("push failed")
	return false
}

// seal encrypts a push and returns the address with its query, and the body. The nonce, the
// timestamp and the random bytes are new each time; the document is not. The caller holds p.mu.
func (p *Platform) seal(job *push) (target, body string, err error) {
	c := job.component
	encrypted, err := encrypt(c.key, [16]byte(p.random(16)), []byte(job.document), c.AppID)
	if err != nil {
		return "", "", err
	}
	timestamp := strconv.FormatInt(p.now().Unix(), 10)
	nonce := strconv.Itoa(1 + p.rng.IntN(1<<31-1))
	query := "signature=" + sign(c.Token, timestamp, nonce) + "&timestamp=" + timestamp + "&nonce=" + nonce
	head := field{"AppId", c.AppID}
	target = c.AuthURL
	if job.message {
		query += "&openid=" + url.QueryEscape(job.openID)
		head = field{"ToUserName", OriginalID(job.authorizer)}
		target = strings.ReplaceAll(c.MessageURL, "$APPID$", job.authorizer)
	}
	query += "&encrypt_type=aes&msg_signature=" + sign(c.Token, timestamp, nonce, encrypted)
	separator := "?"
	if strings.Contains(target, "?") {
		separator = "&"
	}
	return target + separator + query, renderXML(object{head, {"Encrypt", encrypted}}, p.vary()), nil
}

// post sends a body and judges the answer. The error says why there was none.
func (p *Platform) post(ctx context.Context, job *push, target, body string) (status int, outcome, text string, err error) {
	ctx, cancel := context.WithTimeout(ctx, pushDeadline)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(body))
	if err != nil {
		return 0, OutcomeFailed, "", errors.New("push: the address is not a URL")
	}
	request.Header.Set("Content-Type", "text/xml")
	request.Header.Set("User-Agent", "Mozilla/4.0")
	response, err := p.client.Do(request)
	if err != nil {
		var urlErr *url.Error
		if errors.As(err, &urlErr) {
			err = urlErr.Err // without the address: its query is long and says nothing
		}
		return 0, OutcomeFailed, "", fmt.Errorf("push: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxPushAnswer))
	if err != nil {
		return response.StatusCode, OutcomeFailed, "", fmt.Errorf("push: read the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return response.StatusCode, OutcomeRefused, "status is not 200", nil
	}
	switch text := string(answer); {
	case text == "success", text == "" && job.message:
		return response.StatusCode, OutcomeSuccess, "", nil
	case !job.message:
		return response.StatusCode, OutcomeRefused, "body is not exactly success", nil
	}
	reply, err := job.component.openReply(answer)
	if err != nil {
		return response.StatusCode, OutcomeRefused, err.Error(), nil
	}
	return response.StatusCode, OutcomeSuccess, withoutSecret(reply), nil
}

// openReply checks and decrypts a passive reply (message_push, "回包").
func (c *component) openReply(answer []byte) (string, error) {
	var reply struct {
		XMLName      xml.Name `xml:"xml"`
		Encrypt      string
		MsgSignature string
		TimeStamp    string
		Nonce        string
	}
	if err := xml.Unmarshal(answer, &reply); err != nil || reply.Encrypt == "" {
		return "", errors.New("reply: neither empty nor success nor an encrypted reply")
	}
	if !equal(reply.MsgSignature, sign(c.Token, reply.TimeStamp, reply.Nonce, reply.Encrypt)) {
		return "", errors.New("reply: wrong MsgSignature")
	}
	message, appid, err := decrypt(c.key, reply.Encrypt)
	if err != nil {
		return "", fmt.Errorf("reply: %w", err)
	}
	if appid != c.AppID {
		return "", errors.New("reply: the appid at its end is not the component's")
	}
	return string(message), nil
}

// Message is what a user sends to an account, or an event of the account.
type Message struct {
	OpenID  string // of the user; "" means oSimUser
	MsgType string // "" means text, or event if Event is set
	Event   string // of MsgType event
	Content string // of MsgType text
	MsgID   int64  // 0 means the next free one; events have none
}

// PushMessage pushes a message or an event for an account to the MessageURL.
func (p *Platform) PushMessage(componentAppID, authorizer string, m Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, a, err := p.account(componentAppID, authorizer)
	if err != nil {
		return fmt.Errorf("push message: %w", err)
	}
	if c.MessageURL == "" {
		return fmt.Errorf("push message: component %q has no MessageURL", c.AppID)
	}
	m.OpenID = cmp.Or(m.OpenID, "oSimUser")
	if m.MsgType == "" {
		m.MsgType = "text"
		if m.Event != "" {
			m.MsgType = "event"
		}
	}
	created, infoType := p.now().Unix(), m.MsgType
	document := object{
		{"ToUserName", OriginalID(a.appid)}, {"FromUserName", m.OpenID}, {"CreateTime", created}, {"MsgType", m.MsgType},
	}
	if m.MsgType == "event" {
		document = append(document, field{"Event", m.Event})
		infoType += "." + m.Event
	} else {
		id := cmp.Or(m.MsgID, 24_000_000_000_000_000+int64(p.pushes))
		document = append(document, field{"Content", m.Content}, field{"MsgId", id})
	}
	p.enqueue(push{
		component: c, authorizer: a.appid, message: true, openID: m.OpenID, infoType: infoType, createTime: created,
		document: renderXML(document, p.vary()),
	})
	return nil
}

// PushInfo pushes an event of any InfoType to the AuthURL, with more fields of this order: name, value, name, value.
func (p *Platform) PushInfo(componentAppID, infoType string, namesAndValues ...string) error {
	if infoType == "" || len(namesAndValues)%2 != 0 {
		return errors.New("push: want an InfoType, and a value for each name")
	}
	var fields object
	for i := 0; i < len(namesAndValues); i += 2 {
		if !elementName(namesAndValues[i]) {
			return fmt.Errorf("push: %q is not the name of an element", namesAndValues[i])
		}
		fields = append(fields, field{namesAndValues[i], namesAndValues[i+1]})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	p.pushInfo(c, "", infoType, fields...)
	return nil
}

// elementName reports whether s may be the name of an element: letters, digits and _.
func elementName(s string) bool {
	for i, r := range s {
		if !(r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || i > 0 && '0' <= r && r <= '9') {
			return false
		}
	}
	return s != ""
}

// PushRaw encrypts a document as it is and pushes it: to the AuthURL, or to the MessageURL of
// authorizer if that is not empty. The platform does not look into it: a replay, an old ticket or
// nonsense can be pushed.
func (p *Platform) PushRaw(componentAppID, authorizer, document string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	if authorizer != "" && c.MessageURL == "" {
		return fmt.Errorf("push: component %q has no MessageURL", c.AppID)
	}
	p.enqueue(push{
		component: c, authorizer: authorizer, message: authorizer != "", openID: "oSimUser",
		infoType: "raw", document: document, createTime: p.now().Unix(),
	})
	return nil
}
