package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wxtoken/client"
	"wxtoken/internal/logger"
	"wxtoken/internal/services"
)

const (
	// How long the parts of a call may take. A body has no bound but that it must go on: paceLimit
	// between two pieces.
	dialWithin   = 5 * time.Second
	answerWithin = 30 * time.Second // from the end of the request to the head of the answer
	paceLimit    = 15 * time.Second

	maxIdle    = 128              // connections to WeChat that are kept
	copyBuffer = 32 << 10         // bytes
	maxScrub   = 16 << 20         // bytes of an answer that is read whole
	idleFor    = 90 * time.Second // how long one is kept
)

// secretive are the calls whose answers hold refresh tokens. Those stay here: who gets one can
// become a second keeper.
var secretive = map[string]bool{
	"/cgi-bin/component/api_get_authorizer_info": true,
	"/cgi-bin/component/api_get_authorizer_list": true,
}

// keptRefreshToken stands where WeChat's refresh token stood. api_authorizer_token takes it, and
// any other.
const keptRefreshToken = "refreshtoken@@@kept-by-wxtoken"

// relay hands calls on to WeChat.
type relay struct {
	g        *Gateway
	proxy    *httputil.ReverseProxy
	base     *http.Transport
	breaker  breaker
	services slots
	accounts slots
	spools   slots
}

// passage is one call on its way through.
type passage struct {
	client  *wxtoken.Client
	service string      // "" for a stranger
	account wxtoken.Key // that it is for; the zero Key where only WeChat knows that
	key     wxtoken.Key // whose token is put in
	path    string      // as it was called

	untouched bool   // its token is a user's, and stays
	stranger  string // the address of a caller that has shown no key and no token of ours

	// The body did not come to its end. net/http may take that for a caller that has gone, and say
	// so sooner.
	broken atomic.Bool
}

// whose names the account that a call is for.
func (p *passage) whose() string {
	if p.untouched {
		return "users" // of which account, only WeChat knows
	}
	return p.account.String()
}

type passageKey struct{}

func newRelay(g *Gateway, target *url.URL) *relay {
	rl := &relay{g: g, services: slots{max: serviceCalls}, accounts: slots{max: accountCalls}, spools: slots{max: serviceSpools}}
	rl.base = &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialWithin}).DialContext,
		TLSHandshakeTimeout: dialWithin, ResponseHeaderTimeout: answerWithin, ExpectContinueTimeout: time.Second,
		MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleFor,
		DisableCompression: true, // so that what WeChat says of the token can be read, and bodies stay as they are
		ForceAttemptHTTP2:  true,
	}
	rl.proxy = &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.URL.RawQuery = p.In.URL.RawQuery // tokenIn has looked at it
			for _, name := range []string{"Authorization", "Cookie", "Accept-Encoding", "X-Real-Ip", "Via", "Expect"} {
				p.Out.Header.Del(name)
			}
		},
		Transport:      rl,
		ModifyResponse: rl.guard,
		ErrorHandler:   rl.failed,
		BufferPool:     &buffers{},
		ErrorLog:       logger.Std(g.d.Log),
	}
	return rl
}

func (rl *relay) close() { rl.base.CloseIdleConnections() }

// ServeHTTP hands a call on.
func (rl *relay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g := rl.g
	path := strings.TrimSuffix(r.URL.Path, "/")
	if ofUser(r.URL) {
		rl.serveUser(w, r, path)
		return
	}
	client, s, claims, ok := g.bearer(w, r)
	if !ok {
		return
	}
	own := claims.Key.Kind == wxtoken.KindComponent
	switch {
	case !slices.Contains(methods, r.Method):
		g.refuse(w, http.StatusOK, codePostWanted, "require POST method, or GET")
		return
	case !s.May(services.RightRelay):
		g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: this service has no right relay")
		return
	case !s.Calls(path):
		g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: this service may not call %s", path)
		return
	case answeredHere(path), own && strings.EqualFold(path, "/cgi-bin/clear_quota"):
		g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: not through the gateway, wxtoken does it: docs/gateway.md")
		return
	}
	rl.pass(w, r, &passage{client: client, service: s.Name, account: claims.Key, key: claims.Key, path: path})
}

// answeredHere reports whether a path is one of those that are answered here, in whatever case of letters: WeChat may not tell them apart.
func answeredHere(path string) bool { return compatible[strings.ToLower(path)] != nil }

// methods are those of WeChat's API, and of what it may have one day. TRACE would have the token come back.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// pass hands a call on that may be made, within the bounds for all of them.
func (rl *relay) pass(w http.ResponseWriter, r *http.Request, p *passage) {
	g := rl.g
	switch {
	case r.ContentLength > g.cfg.MaxBody:
		g.refuse(w, http.StatusRequestEntityTooLarge, codeTooLargeToPass, "the body is larger than %d bytes (--max-body)", g.cfg.MaxBody)
		return
	case !rl.services.take(p.service):
		g.refuse(w, http.StatusTooManyRequests, codeTooFast, "api minute-quota reach limit: %d calls of this service are under way", serviceCalls)
		return
	}
	defer rl.services.give(p.service)
	account := p.whose()
	if !rl.accounts.take(account) {
		g.refuse(w, http.StatusTooManyRequests, codeTooFast, "api minute-quota reach limit: %d calls for this account are under way", accountCalls)
		return
	}
	defer rl.accounts.give(account)
	r = r.WithContext(context.WithValue(reporting(r.Context(), p.service), passageKey{}, p))
	paced := newPaced(w, r.Body, p)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(w, paced, g.cfg.MaxBody)
	}
	if r.ContentLength < 0 {
		if !rl.spools.take(p.service) {
			g.refuse(w, http.StatusTooManyRequests, codeTooFast, "api minute-quota reach limit: %d calls of this service with a body without a length are under way", serviceSpools)
			return
		}
		defer rl.spools.give(p.service)
		kept, err := newSpool(r.Body, g.cfg.RetryBody, g.cfg.SpoolDir)
		if err != nil {
			rl.failed(w, r, err)
			return
		}
		defer kept.close()
		r.Body, _ = kept.open()
		r.ContentLength, r.GetBody = kept.length, kept.open
	}
	if !rl.breaker.allow(g.d.Now()) {
		g.metrics.unanswered.WithLabelValues(p.service).Inc()
		w.Header().Set("Retry-After", strconv.Itoa(int(openFor/time.Second)))
		g.refuse(w, http.StatusBadGateway, codeBusy, "system error: WeChat does not answer, it is tried again in a moment")
		return
	}
	rl.proxy.ServeHTTP(paced, r)
}

// RoundTrip makes a call to WeChat, with the current token.
func (rl *relay) RoundTrip(req *http.Request) (*http.Response, error) {
	p := req.Context().Value(passageKey{}).(*passage)
	if p.untouched {
		return rl.untouched(req, p)
	}
	t := wxtoken.Transport{
		Client: p.client, Key: p.key, Base: watched{rl}, RetryBody: rl.g.cfg.RetryBody,
		Answered: func(a wxtoken.Answer) { rl.answered(p, a) },
	}
	if t.RetryBody == 0 {
		t.RetryBody = -1
	}
	return t.RoundTrip(req)
}

// untouched makes a call as it is. Its token is a user's: where WeChat refuses that, no other is to
// be had here.
func (rl *relay) untouched(req *http.Request, p *passage) (*http.Response, error) {
	res, err := watched{rl}.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	answer, err := wxtoken.ReadAnswer(res)
	if err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	rl.answered(p, answer)
	return res, nil
}

// watched tells the breaker how calls end.
type watched struct{ rl *relay }

// RoundTrip makes one call.
func (w watched) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := w.rl.base.RoundTrip(req)
	var large *http.MaxBytesError
	switch {
	case err == nil:
		w.rl.breaker.note(w.rl.g.d.Now(), true)
	case req.Context().Err() == nil && !errors.As(err, &large) && !errors.Is(err, errBody):
		w.rl.breaker.note(w.rl.g.d.Now(), false)
	}
	return res, err
}

// answered counts what WeChat said, and logs what went wrong, with the id by which WeChat finds it
// again.
func (rl *relay) answered(p *passage, a wxtoken.Answer) {
	m := rl.g.metrics
	m.calls.WithLabelValues(p.service, m.api(p.path), strconv.Itoa(a.Errcode)).Inc()
	if a.Refused {
		outcome := "handed_on"
		if a.Again {
			outcome = "again"
		}
		m.replaced.WithLabelValues(p.service, outcome).Inc()
		rl.g.d.Log.Warn().Str("service", p.service).Str("key", p.whose()).Str("api", p.path).Bool("again", a.Again).
			AnErr("error", a.Err).Msg("token refused by WeChat")
	}
	if p.stranger != "" && slices.Contains(wrongUser, a.Errcode) {
		rl.g.users.Count(p.stranger, rl.g.d.Now())
	}
	if a.Errcode != 0 {
		rl.g.d.Log.Info().Str("service", p.service).Str("key", p.whose()).Str("api", p.path).Int("errcode", a.Errcode).Str("rid", a.RID).Msg("WeChat refused a call")
	}
}

// guard looks at an answer before it is handed on: no refresh token leaves, and no redirect that
// would carry the token.
func (rl *relay) guard(res *http.Response) error {
	p := res.Request.Context().Value(passageKey{}).(*passage)
	if location := res.Header.Get("Location"); location != "" {
		if token, err := p.client.Token(p.key); p.untouched || err != nil || strings.Contains(location, url.QueryEscape(token.Value.Reveal())) || strings.Contains(location, "access_token=") {
			return errRedirect
		}
	}
	if res.StatusCode < http.StatusOK {
		return errUnreadable // no other protocol is spoken there, and net/http can't write a status below 100
	}
	if secretive[strings.ToLower(p.path)] {
		return scrub(res)
	}
	return nil
}

// scrub puts a stand-in where refresh tokens are. An answer that can't be read does not leave.
func scrub(res *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(res.Body, maxScrub+1))
	_ = res.Body.Close()
	if err != nil || len(text) > maxScrub {
		return errUnreadable
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var answer any
	if decoder.Decode(&answer) != nil {
		return errUnreadable
	}
	out := mustJSON(blank(answer))
	res.Body = io.NopCloser(bytes.NewReader(out))
	res.ContentLength = int64(len(out))
	res.Header.Set("Content-Length", strconv.Itoa(len(out)))
	return nil
}

// blank puts the stand-in where a refresh token is, at any depth.
func blank(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			if text, is := inner.(string); is && strings.Contains(name, "refresh_token") && text != "" {
				v[name] = keptRefreshToken
				continue
			}
			v[name] = blank(inner)
		}
	case []any:
		for i := range v {
			v[i] = blank(v[i])
		}
	}
	return value
}

// Why a call failed here.
var (
	errRedirect   = errors.New("WeChat redirected the call")
	errUnreadable = errors.New("WeChat's answer can't be read")
	errBody       = errors.New("the body did not come to its end")
)

// failed answers for a call that WeChat did not.
func (rl *relay) failed(w http.ResponseWriter, r *http.Request, err error) {
	p := r.Context().Value(passageKey{}).(*passage)
	g := rl.g
	g.metrics.unanswered.WithLabelValues(p.service).Inc()
	var (
		large   *http.MaxBytesError
		network net.Error
	)
	status, why := http.StatusBadGateway, "WeChat does not answer"
	switch {
	case errors.As(err, &large):
		g.refuse(w, http.StatusRequestEntityTooLarge, codeTooLargeToPass, "the body is larger than %d bytes (--max-body)", g.cfg.MaxBody)
		return
	case errors.Is(err, errSpool):
		g.d.Log.Error().Err(err).Str("service", p.service).Str("api", p.path).Str("hint", "--spool-dir").Msg("failed to keep a body")
		g.refuse(w, http.StatusServiceUnavailable, codeBusy, "system error: %v", errSpool)
		return
	case errors.Is(err, errBody), errors.Is(err, context.Canceled) && p.broken.Load():
		g.refuse(w, http.StatusBadRequest, codeBadBody, "data format error: %v", errBody)
		return
	case errors.Is(err, wxtoken.ErrRevoked):
		g.refuse(w, http.StatusOK, codeForged, "invalid credential: the account has cancelled its authorization")
		return
	case errors.Is(err, wxtoken.ErrNoToken), errors.Is(err, wxtoken.ErrExpired), errors.Is(err, wxtoken.ErrClosed):
		status, why = http.StatusServiceUnavailable, "there is no valid token of this account: the operator's page tells why"
	case errors.Is(err, context.Canceled): // the caller has gone
		status, why = 499, "cancelled"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		status, why = http.StatusGatewayTimeout, "WeChat does not answer in time"
	case errors.Is(err, errRedirect), errors.Is(err, errUnreadable):
		why = err.Error()
	}
	g.d.Log.Warn().Str("service", p.service).Str("key", p.whose()).Str("api", p.path).Str("error", plainError(err)).Msg("failed to answer call")
	g.refuse(w, status, codeBusy, "system error: %s", why)
}

// plainError is the text of an error without a query, in which a token could be.
func plainError(err error) string {
	text := err.Error()
	if i := strings.IndexByte(text, '?'); i >= 0 {
		text = text[:i] + "?..."
	}
	return text
}

// shortPath is a path for the log.
func shortPath(r *http.Request) string { return fmt.Sprintf("%.64s", r.URL.Path) }

// paced is a request's body and the answer to it, of which each piece has to come, and to go,
// within paceLimit.
type paced struct {
	http.ResponseWriter
	body    io.ReadCloser
	control *http.ResponseController
	of      *passage
}

func newPaced(w http.ResponseWriter, body io.ReadCloser, of *passage) *paced {
	p := &paced{ResponseWriter: w, body: body, control: http.NewResponseController(w), of: of}
	// A server without deadlines has none to move.
	_ = p.control.SetWriteDeadline(time.Now().Add(dialWithin + 2*answerWithin + paceLimit))
	if body == nil || body == http.NoBody {
		p.read()
	}
	return p
}

// read notes that the body has come. A deadline for reading that is still set would end the call:
// net/http takes it for a caller that has gone.
func (p *paced) read() { _ = p.control.SetReadDeadline(time.Time{}) }

// Unwrap lets http.ResponseController through.
func (p *paced) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// Write writes a piece of the answer.
func (p *paced) Write(data []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(paceLimit))
	return p.ResponseWriter.Write(data)
}

// Read reads a piece of the body.
func (p *paced) Read(into []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(paceLimit))
	n, err := p.body.Read(into)
	switch {
	case errors.Is(err, io.EOF):
		p.read()
	case err != nil:
		p.of.broken.Store(true)
		err = errBody
	}
	return n, err
}

// Close closes the body.
func (p *paced) Close() error { return p.body.Close() }

// buffers are those through which answers are copied.
type buffers struct{ pool sync.Pool }

// Get returns a buffer.
func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, copyBuffer)
}

// Put takes one back.
func (b *buffers) Put(buffer []byte) { b.pool.Put(&buffer) }
