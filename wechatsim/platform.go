package wechatsim

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// refreshTokenGrace is how long a rotated refresh token stays valid with RotateEach (five minutes
// according to a reply of WeChat's staff).
const refreshTokenGrace = 5 * time.Minute

// preAuthCodeLife is the shorter of the two lives in api_getpreauthcode.
const preAuthCodeLife = 600 * time.Second

// What an issued secret is.
const (
	whatTicket          = "ticket"
	whatComponentToken  = "component_access_token"
	whatAuthorizerToken = "authorizer_access_token"
	whatRefreshToken    = "refresh_token"
	whatAuthCode        = "auth_code"
	whatPreAuthCode     = "pre_auth_code"
	whatJSAPITicket     = "jsapi_ticket"
	whatWxCardTicket    = "wx_card_ticket"
)

// Platform is the fake WeChat platform. Its methods may be called from several goroutines.
type Platform struct {
	config  Config
	client  *http.Client
	running atomic.Bool
	apis    map[string]*api // by path
	closed  chan struct{}   // closed when Run ends, which ends all waits
	wake    chan struct{}   // tells Run that queue is not empty

	mu            sync.Mutex // guards what follows
	rng           *rand.Rand
	components    map[string]*component
	tokens        map[string]*token    // access tokens ever issued, by value
	tickets       map[string]*token    // tickets of getticket ever issued, by value
	codes         map[string]*authCode // by value
	quotas        map[string]*quota    // by appid; calls with an account's token count for the account
	limits        map[string]int       // daily, by API name
	media         map[string]*media    // uploaded files, by media_id
	kept          []*media             // those that have their bytes, oldest first
	logIns        map[string]bool      // codes of users' log-ins that were used
	users         map[string]*user     // by access token
	userRefreshes map[string]*user     // by refresh token
	templates     int                  // counts the template messages
	secrets       []string
	issued        int // counts the issued secrets
	history       []Entry
	seq           int
	faults        []*Fault
	down          bool
	queue         []*push
	pushes        int                        // counts the pushes
	lanes         map[string]<-chan struct{} // by account: closed when its latest push was tried once
	drops         map[string]int             // pushes still to be lost, by InfoType
	odd           map[string]int             // pushes still to be odd, by InfoType
	oddAs         Oddity                     // in which way; "" means each in turn
	oddTurn       int
}

type component struct {
	Component
	key    []byte // decoded EncodingAESKey
	secret string // AppSecret, until SetSecret

	tickets      map[string]time.Time // value to end of life
	ticket       string               // the newest
	ticketNumber int
	pushing      bool      // tickets are pushed
	stopped      bool      // StopTickets was called
	failingSince time.Time // when the first of the tickets that failed in a row was pushed
	answered     bool      // a ticket was answered with success once

	generation  int
	live        []*token // tokens not yet known to be dead, newest last
	authorizers map[string]*authorizer
	preAuth     map[string]*preAuthCode
}

type authorizer struct {
	appid      string
	authorized bool
	exchanged  bool // a code of this authorization was exchanged
	authTime   time.Time
	epoch      int // counts the authorizations

	refresh           string
	refreshGeneration int
	oldRefresh        map[string]oldRefresh // rotated, by value

	generation int
	live       []*token
	tickets    map[string]*token    // of getticket: the newest, by kind (what)
	menu       json.RawMessage      // its buttons; nil if it has none
	sent       chan<- customMessage // while a ReleaseCheck waits for the account's messages; else nil
}

type oldRefresh struct {
	generation int
	until      time.Time
}

// token is an access token, or a ticket of getticket, which expires in the same way.
type token struct {
	what       string
	value      string
	component  string
	authorizer string // empty for a component token
	generation int
	expires    time.Time // when it expires
	dies       time.Time // when it becomes invalid before that; zero if it does not
}

type authCode struct {
	component, authorizer string
	epoch                 int
	expires               time.Time
	used                  bool
}

type preAuthCode struct {
	expires time.Time
	used    bool
}

// New returns a platform whose API can be called. Tickets and events are pushed while Run runs. The
// error names all faults of the config.
func New(config Config) (*Platform, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("wechatsim: %w", err)
	}
	transport := config.Transport
	if transport == nil {
		transport = &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}
	}
	p := &Platform{
		config: config,
		client: &http.Client{
			Transport: transport,
			// Not followed: a redirect is an answer other than success.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		apis:          map[string]*api{},
		closed:        make(chan struct{}),
		wake:          make(chan struct{}, 1),
		rng:           rand.New(rand.NewPCG(config.Seed, 0)),
		components:    map[string]*component{},
		tokens:        map[string]*token{},
		tickets:       map[string]*token{},
		codes:         map[string]*authCode{},
		quotas:        map[string]*quota{},
		limits:        map[string]int{},
		media:         map[string]*media{},
		logIns:        map[string]bool{},
		users:         map[string]*user{},
		userRefreshes: map[string]*user{},
		lanes:         map[string]<-chan struct{}{},
		drops:         map[string]int{},
		odd:           map[string]int{},
	}
	for _, a := range apis {
		p.apis[a.path] = a
	}
	for name, limit := range config.DailyLimit {
		p.limits[findAPI(name).name] = limit
	}
	for _, c := range config.Components {
		key, err := aesKey(c.EncodingAESKey)
		if err != nil {
			return nil, fmt.Errorf("wechatsim: component %q: EncodingAESKey: %w", c.AppID, err)
		}
		p.components[c.AppID] = &component{
			Component: c, key: key, secret: c.AppSecret, pushing: c.AutoPush,
			tickets: map[string]time.Time{}, authorizers: map[string]*authorizer{},
			preAuth: map[string]*preAuthCode{},
		}
		p.secrets = append(p.secrets, c.AppSecret, c.Token, c.EncodingAESKey)
	}
	return p, nil
}

// Run pushes tickets and events until ctx ends. It returns when all its goroutines have ended,
// with nil, or at once with an error when it was called before.
func (p *Platform) Run(ctx context.Context) error {
	if !p.running.CompareAndSwap(false, true) {
		return errors.New("wechatsim: Run was called twice")
	}
	var wg sync.WaitGroup
	defer func() {
		close(p.closed)
		wg.Wait()
		if p.config.Transport == nil {
			p.client.CloseIdleConnections()
		}
	}()
	for _, c := range p.sortedComponents() {
		wg.Go(func() { p.pushTickets(ctx, c) })
	}
	for {
		for _, job := range p.takeQueue() {
			wg.Go(func() { p.deliver(ctx, job) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
	}
}

func (p *Platform) now() time.Time { return p.config.Now().UTC() }

func (p *Platform) sortedComponents() []*component {
	return slices.SortedFunc(maps.Values(p.components), func(a, b *component) int { return strings.Compare(a.AppID, b.AppID) })
}

// about adds the component and the account to a log line.
func about(line *zerolog.Event, component, authorizer string) *zerolog.Event {
	line.Str("component", component)
	if authorizer != "" {
		line.Str("authorizer", authorizer)
	}
	return line
}

// chance reports true with the given probability. The caller holds p.mu.
func (p *Platform) chance(rate float64) bool { return rate > 0 && p.rng.Float64() < rate }

// random returns n random bytes. The caller holds p.mu.
func (p *Platform) random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(p.rng.Uint32())
	}
	return b
}

// upTo returns a random time from 0 to d. The caller holds p.mu.
func (p *Platform) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(p.rng.Int64N(int64(d) + 1))
}

// wait waits for d, or until done is closed or the platform ends. It reports whether d has passed.
func (p *Platform) wait(done <-chan struct{}, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	case <-p.closed:
		return false
	}
}

// makeSecret returns a new secret in the form that WeChat gives them, marked SEKRET. The caller
// holds p.mu.
func (p *Platform) makeSecret(what string) string {
	p.issued++
	body := fmt.Sprintf("SEKRET-%d-%s", p.issued, hex.EncodeToString(p.random(16)))
	value := map[string]string{
		whatTicket:       "ticket@@@",
		whatRefreshToken: "refreshtoken@@@",
		whatAuthCode:     "queryauthcode@@@",
		whatPreAuthCode:  "preauthcode@@@",
	}[what] + body
	switch what {
	case whatComponentToken, whatAuthorizerToken:
		// Real ones are long: WeChat asks to reserve 512 bytes for them.
		value = fmt.Sprintf("%d_%s_%s", 10+p.rng.IntN(90), body, hex.EncodeToString(p.random(32)))
	case whatJSAPITicket, whatWxCardTicket:
		value = body + hex.EncodeToString(p.random(16)) // real ones have 86 characters and no mark
	}
	p.secrets = append(p.secrets, value)
	return value
}

// Secrets returns every secret ever configured or issued, so that a test can check that they don't
// appear where they must not.
func (p *Platform) Secrets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.secrets)
}

// component returns a component by its appid; "" names the only one. The caller holds p.mu.
func (p *Platform) component(appid string) (*component, error) {
	if appid == "" && len(p.components) == 1 {
		for _, c := range p.components {
			return c, nil
		}
	}
	c := p.components[appid]
	if c == nil {
		return nil, fmt.Errorf("unknown component %q", appid)
	}
	return c, nil
}

// account returns a component and an account that authorizes it now. The caller holds p.mu.
func (p *Platform) account(componentAppID, appid string) (*component, *authorizer, error) {
	c, err := p.component(componentAppID)
	if err != nil {
		return nil, nil, err
	}
	a := c.authorizers[appid]
	if a == nil || !a.authorized {
		return nil, nil, fmt.Errorf("account %q does not authorize component %q now", appid, c.AppID)
	}
	return c, a, nil
}

// issueTicket makes a ticket. The caller holds p.mu.
func (p *Platform) issueTicket(c *component) {
	now := p.now()
	for value, end := range c.tickets {
		switch {
		case p.config.OldTicketDies:
			delete(c.tickets, value)
			p.record(Entry{Kind: EntryInvalidate, Component: c.AppID, What: whatTicket, Secret: Fingerprint(value), ValidUntil: now})
		case now.Sub(end) > p.config.TicketLife:
			delete(c.tickets, value) // expired long ago: from now on "invalid" instead of "expired"
		}
	}
	c.ticket = p.makeSecret(whatTicket)
	c.ticketNumber++
	c.tickets[c.ticket] = now.Add(p.config.TicketLife)
	p.record(Entry{
		Kind: EntryIssue, Component: c.AppID, What: whatTicket, Secret: Fingerprint(c.ticket),
		Generation: c.ticketNumber, ValidUntil: c.tickets[c.ticket],
	})
}

// issueToken issues an access token for the component (if a is nil) or for one of its accounts. The
// previous one stays valid for Overlap. The caller holds p.mu.
func (p *Platform) issueToken(c *component, a *authorizer) *token {
	live, generation, t := &c.live, &c.generation, &token{what: whatComponentToken, component: c.AppID}
	if a != nil {
		live, generation, t.what, t.authorizer = &a.live, &a.generation, whatAuthorizerToken, a.appid
	}
	p.retire(live, p.config.Overlap)
	*generation++
	t.generation = *generation
	p.issue(t, p.config.TokenLife)
	*live = append(*live, t)
	p.tokens[t.value] = t
	return t
}

// issue gives a token its value and its life. The caller holds p.mu.
func (p *Platform) issue(t *token, life time.Duration) {
	t.value, t.expires = p.makeSecret(t.what), p.now().Add(life)
	p.record(Entry{
		Kind: EntryIssue, Component: t.component, Authorizer: t.authorizer, What: t.what, Secret: Fingerprint(t.value),
		Generation: t.generation, ValidUntil: t.expires,
	})
}

// accountTicket returns the valid ticket of an account, or issues a new one if there is none. The
// caller holds p.mu.
func (p *Platform) accountTicket(c *component, a *authorizer, what string) *token {
	old := a.tickets[what]
	if old.refusal(p.now()) == codeOK {
		return old
	}
	t := &token{what: what, component: c.AppID, authorizer: a.appid, generation: 1}
	if old != nil {
		t.generation = old.generation + 1
	}
	p.issue(t, p.config.AccountTicketLife)
	a.tickets[what], p.tickets[t.value] = t, t
	return t
}

// retire makes the tokens invalid after overlap, unless they expire earlier. The caller holds p.mu.
func (p *Platform) retire(live *[]*token, overlap time.Duration) {
	now := p.now()
	for _, t := range *live {
		dies := now.Add(overlap)
		if t.refusal(now) != 0 || !t.validUntil().After(dies) {
			continue
		}
		t.dies = dies
		p.record(Entry{
			Kind: EntryInvalidate, Component: t.component, Authorizer: t.authorizer, What: t.what,
			Secret: Fingerprint(t.value), Generation: t.generation, ValidUntil: dies,
		})
	}
	*live = slices.DeleteFunc(*live, func(t *token) bool { return t.refusal(now) != 0 })
}

// validUntil returns when the token stops or stopped being valid.
func (t *token) validUntil() time.Time {
	if !t.dies.IsZero() && t.dies.Before(t.expires) {
		return t.dies
	}
	return t.expires
}

// refusal returns the errcode with which the token is refused now, 0 if it is accepted. t may be
// nil: an unknown token.
func (t *token) refusal(now time.Time) int {
	switch {
	case t == nil:
		return codeInvalidCredential
	case now.Before(t.validUntil()):
		return 0
	case t.dies.IsZero():
		return codeTokenExpired
	default:
		return codeInvalidCredential
	}
}

// issueRefresh issues a new refresh token for the account. The previous one stays valid for grace.
// The caller holds p.mu.
func (p *Platform) issueRefresh(c *component, a *authorizer, grace time.Duration) {
	now := p.now()
	maps.DeleteFunc(a.oldRefresh, func(_ string, old oldRefresh) bool { return !now.Before(old.until) })
	if a.refresh != "" {
		if grace > 0 {
			a.oldRefresh[a.refresh] = oldRefresh{a.refreshGeneration, now.Add(grace)}
		}
		p.record(Entry{
			Kind: EntryInvalidate, Component: c.AppID, Authorizer: a.appid, What: whatRefreshToken,
			Secret: Fingerprint(a.refresh), Generation: a.refreshGeneration, ValidUntil: now.Add(grace),
		})
	}
	a.refresh = p.makeSecret(whatRefreshToken)
	a.refreshGeneration++
	p.record(Entry{
		Kind: EntryIssue, Component: c.AppID, Authorizer: a.appid, What: whatRefreshToken,
		Secret: Fingerprint(a.refresh), Generation: a.refreshGeneration,
	})
}

// killRefresh makes the refresh tokens of an account invalid. The caller holds p.mu.
func (p *Platform) killRefresh(c *component, a *authorizer) {
	clear(a.oldRefresh)
	if a.refresh == "" {
		return
	}
	p.record(Entry{
		Kind: EntryInvalidate, Component: c.AppID, Authorizer: a.appid, What: whatRefreshToken,
		Secret: Fingerprint(a.refresh), Generation: a.refreshGeneration, ValidUntil: p.now(),
	})
	a.refresh = ""
}

// refreshGenerationOf returns the generation of the account's refresh token with that value, 0 if
// it is not accepted. The caller holds p.mu.
func (p *Platform) refreshGenerationOf(a *authorizer, value string) int {
	if !a.authorized || value == "" {
		return 0
	}
	if equal(value, a.refresh) {
		return a.refreshGeneration
	}
	if old, ok := a.oldRefresh[value]; ok && p.now().Before(old.until) {
		return old.generation
	}
	return 0
}

// issueCode makes an authorization code. The caller holds p.mu.
func (p *Platform) issueCode(c *component, a *authorizer) string {
	value := p.makeSecret(whatAuthCode)
	code := &authCode{component: c.AppID, authorizer: a.appid, epoch: a.epoch, expires: p.now().Add(p.config.CodeLife)}
	p.codes[value] = code
	p.record(Entry{
		Kind: EntryIssue, Component: c.AppID, Authorizer: a.appid, What: whatAuthCode,
		Secret: Fingerprint(value), Generation: a.epoch, ValidUntil: code.expires,
	})
	return value
}

// issuePreAuth makes a pre-auth code. The caller holds p.mu.
func (p *Platform) issuePreAuth(c *component) string {
	now := p.now()
	maps.DeleteFunc(c.preAuth, func(_ string, code *preAuthCode) bool { return !now.Before(code.expires) })
	value := p.makeSecret(whatPreAuthCode)
	c.preAuth[value] = &preAuthCode{expires: now.Add(preAuthCodeLife)}
	p.record(Entry{Kind: EntryIssue, Component: c.AppID, What: whatPreAuthCode, Secret: Fingerprint(value), ValidUntil: now.Add(preAuthCodeLife)})
	return value
}
