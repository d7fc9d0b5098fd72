package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
	"wxtoken/internal/account"
	"wxtoken/internal/logger"
	"wxtoken/internal/services"
)

const (
	// How long the parts of a call may take. A body may take as long as it keeps moving: paceLimit
	// bounds the time between two pieces.
	dialWithin   = 5 * time.Second
	answerWithin = 30 * time.Second // from the end of the request to the header of the answer
	paceLimit    = 15 * time.Second

	maxIdle    = 128              // connections to WeChat that are kept
	copyBuffer = 32 << 10         // bytes
	maxScrub   = 16 << 20         // bytes of an answer that is held in memory
	idleFor    = 90 * time.Second // how long a connection is kept
)

// holdRefreshTokens are the calls whose answers hold refresh tokens. These are blanked: a program with a
// refresh token could renew tokens beside wxtoken.
var holdRefreshTokens = map[string]bool{
	"/cgi-bin/component/api_get_authorizer_info": true,
	"/cgi-bin/component/api_get_authorizer_list": true,
}

// keptRefreshToken replaces WeChat's refresh tokens. The gateway's api_authorizer_token accepts it, as it
// accepts any.
const keptRefreshToken = "refreshtoken@@@kept-by-wxtoken"

// relay relays calls to WeChat.
type relay struct {
	g        *Gateway
	proxy    *httputil.ReverseProxy
	base     *http.Transport
	breaker  breaker
	services slots
	accounts slots
	spools   slots
}

// call is a call on its way through the relay.
type call struct {
	client  *wxtoken.Client
	service string      // "" for a stranger
	account wxtoken.Key // the call is for it; zero where only WeChat knows the account
	key     wxtoken.Key // whose token the call gets
	path    string      // of the request

	untouched bool   // its token is a user's, and is not replaced
	stranger  string // address of a caller without a key and without a gateway token

	// The body could not be read to its end. net/http may report that as a cancelled request instead.
	broken atomic.Bool
}

// accountName names the account that a call is for.
func (p *call) accountName() string {
	if p.untouched {
		return "users" // only WeChat knows of which account
	}
	return p.account.String()
}

type callKey struct{}

func newRelay(g *Gateway, target *url.URL) *relay {
	rl := &relay{g: g, services: slots{max: serviceCalls}, accounts: slots{max: accountCalls}, spools: slots{max: serviceSpools}}
	rl.base = &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialWithin}).DialContext,
		TLSHandshakeTimeout: dialWithin, ResponseHeaderTimeout: answerWithin, ExpectContinueTimeout: time.Second,
		MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleFor,
		DisableCompression: true, // so that WeChat's errcode can be read, and bodies stay unchanged
		ForceAttemptHTTP2:  true,
	}
	rl.proxy = &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.URL.RawQuery = p.In.URL.RawQuery // tokenIn has checked it
			for _, name := range []string{"Authorization", "Cookie", "Accept-Encoding", "X-Real-Ip", "Via", "Expect"} {
				p.Out.Header.Del(name)
			}
			maps.DeleteFunc(p.Out.Header, func(name string, _ []string) bool { return strings.HasPrefix(name, "X-Forwarded-") })
		},
		Transport:      rl,
		ModifyResponse: rl.checkAnswer,
		ErrorHandler:   rl.answerFailure,
		BufferPool:     &buffers{},
		ErrorLog:       logger.Std(g.d.Log),
	}
	return rl
}

func (rl *relay) close() { rl.base.CloseIdleConnections() }

// ServeHTTP relays a call with a gateway token, or with a user's token.
func (rl *relay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g := rl.g
	path := strings.TrimSuffix(r.URL.Path, "/")
	if hasUserToken(r.URL) {
		rl.serveUser(w, r, path)
		return
	}
	client, s, claims, ok := g.checkToken(w, r)
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
	case account.Derived(claims.Key): // no call takes a ticket as its token
		g.refuse(w, http.StatusOK, codeForged, "invalid credential, access_token is invalid or not latest: it stands for a ticket")
		return
	case !s.Calls(path):
		g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: this service may not call %s", path)
		return
	case answeredHere(path), own && strings.EqualFold(path, "/cgi-bin/clear_quota"):
		g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: not through the gateway, wxtoken does it (docs/gateway.md)")
		return
	}
	rl.pass(w, r, &call{client: client, service: s.Name, account: claims.Key, key: claims.Key, path: path})
}

// answeredHere reports whether the gateway answers a path itself, in upper or lower case: WeChat may not
// distinguish them.
func answeredHere(path string) bool { return compatible[strings.ToLower(path)] != nil }

// methods are the methods that WeChat's API has or may have one day. TRACE would send the token back.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// pass relays an admitted call, within the bounds of limits.go.
func (rl *relay) pass(w http.ResponseWriter, r *http.Request, p *call) {
	g := rl.g
	switch {
	case r.ContentLength > g.cfg.MaxBody:
		g.refuse(w, http.StatusRequestEntityTooLarge, codeTooLargeToPass, "the body is larger than %d bytes (--max-body)", g.cfg.MaxBody)
		return
	case !rl.services.acquire(p.service):
		g.refuse(w, http.StatusTooManyRequests, codeTooFast, "api minute-quota reach limit: %d calls of this service are under way", serviceCalls)
		return
	}
	defer rl.services.release(p.service)
	account := p.accountName()
	if !rl.accounts.acquire(account) {
		g.refuse(w, http.StatusTooManyRequests, codeTooFast, "api minute-quota reach limit: %d calls for this account are under way", accountCalls)
		return
	}
	defer rl.accounts.release(account)
	r = r.WithContext(context.WithValue(withReporter(r.Context(), p.service), callKey{}, p))
	paced := newPaced(w, r.Body, p)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(w, paced, g.cfg.MaxBody)
	}
	if r.ContentLength < 0 {
		if !rl.spools.acquire(p.service) {
			g.refuse(w, http.StatusTooManyRequests, codeTooFast, "api minute-quota reach limit: %d calls of this service with a body without a length are under way", serviceSpools)
			return
		}
		defer rl.spools.release(p.service)
		kept, err := newSpool(r.Body, g.cfg.RetryBody, g.cfg.SpoolDir)
		if err != nil {
			rl.answerFailure(w, r, err)
			return
		}
		defer kept.close()
		r.Body, _ = kept.open()
		r.ContentLength, r.GetBody = kept.length, kept.open
	}
	if !rl.breaker.allow(g.d.Now()) {
		g.metrics.unanswered.WithLabelValues(p.service).Inc()
		w.Header().Set("Retry-After", strconv.Itoa(int(openFor/time.Second)))
		g.refuse(w, http.StatusBadGateway, codeBusy, "system error: WeChat does not answer, try again in a moment")
		return
	}
	rl.proxy.ServeHTTP(paced, r)
}

// RoundTrip makes a call to WeChat, with the current token.
func (rl *relay) RoundTrip(req *http.Request) (*http.Response, error) {
	p := req.Context().Value(callKey{}).(*call)
	if p.untouched {
		return rl.roundTripAsIs(req, p)
	}
	t := wxtoken.Transport{
		Client: p.client, Key: p.key, Base: breakerTransport{rl}, RetryBody: rl.g.cfg.RetryBody,
		Answered: func(a wxtoken.Answer) { rl.countAnswer(p, a) },
	}
	if t.RetryBody == 0 {
		t.RetryBody = -1
	}
	return t.RoundTrip(req)
}

// roundTripAsIs makes a call with a user's token: where WeChat refuses that, the gateway has no other.
func (rl *relay) roundTripAsIs(req *http.Request, p *call) (*http.Response, error) {
	res, err := breakerTransport{rl}.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	answer, err := wxtoken.ReadAnswer(res)
	if err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	rl.countAnswer(p, answer)
	return res, nil
}

// breakerTransport tells the breaker how calls ended.
type breakerTransport struct{ rl *relay }

// RoundTrip makes one call.
func (w breakerTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := roundTrip(w.rl.base, req)
	var large *http.MaxBytesError
	switch {
	case err == nil:
		w.rl.breaker.note(w.rl.g.d.Now(), true)
	case req.Context().Err() == nil && !errors.As(err, &large) && !errors.Is(err, errBody):
		w.rl.breaker.note(w.rl.g.d.Now(), false)
	}
	return res, err
}

// countAnswer counts WeChat's answer, and logs a refusal with its rid, by which WeChat's support finds it.
func (rl *relay) countAnswer(p *call, a wxtoken.Answer) {
	m := rl.g.metrics
	m.calls.WithLabelValues(p.service, m.api(p.path), strconv.Itoa(a.Errcode)).Inc()
	if a.Refused {
		outcome := "handed_on"
		if a.Again {
			outcome = "again"
		}
		m.replaced.WithLabelValues(p.service, outcome).Inc()
		rl.g.d.Log.Warn().Str("service", p.service).Str("key", p.accountName()).Str("api", p.path).Bool("again", a.Again).
			AnErr("error", a.Err).Msg("token refused by WeChat")
	}
	if p.stranger != "" && slices.Contains(wrongUserToken, a.Errcode) {
		rl.g.users.Count(p.stranger, rl.g.d.Now())
	}
	if a.Errcode != 0 {
		rl.g.d.Log.Info().Str("service", p.service).Str("key", p.accountName()).Str("api", p.path).
			Int("errcode", a.Errcode).Str("rid", a.RID).Msg("call refused by WeChat")
	}
}

// checkAnswer checks an answer before it is passed on: no refresh token leaves, and no redirect that would
// carry the token.
func (rl *relay) checkAnswer(res *http.Response) error {
	p := res.Request.Context().Value(callKey{}).(*call)
	if location := res.Header.Get("Location"); location != "" {
		token, err := p.client.Token(p.key)
		if p.untouched || err != nil || strings.Contains(location, url.QueryEscape(token.Value.Reveal())) ||
			strings.Contains(location, "access_token=") {
			return errRedirect
		}
	}
	if res.StatusCode < http.StatusOK {
		return errUnreadable // another protocol, or a status below 100, which net/http can't write
	}
	if holdRefreshTokens[strings.ToLower(p.path)] {
		return scrub(res)
	}
	return nil
}

// scrub replaces the refresh tokens in an answer. An answer that can't be parsed is not passed on.
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

// blank replaces refresh tokens at any depth.
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
	errBody       = errors.New("incomplete body")
)

// answerFailure answers a call that WeChat did not answer.
func (rl *relay) answerFailure(w http.ResponseWriter, r *http.Request, err error) {
	p := r.Context().Value(callKey{}).(*call)
	g := rl.g
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
		g.d.Log.Error().Err(err).Str("service", p.service).Str("api", p.path).Str("hint", "--spool-dir").Msg("failed to spool body")
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
	case errors.Is(err, context.Canceled): // the caller has hung up
		status, why = 499, "cancelled"
	case errors.Is(err, errStalled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		status, why = http.StatusGatewayTimeout, "WeChat does not answer in time"
	case errors.Is(err, errRedirect), errors.Is(err, errUnreadable):
		why = err.Error()
	}
	if status == http.StatusBadGateway || status == http.StatusGatewayTimeout {
		g.metrics.unanswered.WithLabelValues(p.service).Inc()
	}
	g.d.Log.Warn().Str("service", p.service).Str("key", p.accountName()).Str("api", p.path).
		Str("error", plainError(err)).Msg("failed to answer call")
	g.refuse(w, status, codeBusy, "system error: %s", why)
}

// plainError is the text of an error without the query of a URL, which may hold a token.
func plainError(err error) string {
	text := err.Error()
	if i := strings.IndexByte(text, '?'); i >= 0 {
		text = text[:i] + "?..."
	}
	return text
}

// shortPath is the path of a request, cut for the log.
func shortPath(r *http.Request) string { return fmt.Sprintf("%.64s", r.URL.Path) }

// paced wraps a request's body and its answer: each piece has paceLimit to arrive, or to be sent.
type paced struct {
	http.ResponseWriter
	body    io.ReadCloser
	control *http.ResponseController
	call    *call
}

func newPaced(w http.ResponseWriter, body io.ReadCloser, c *call) *paced {
	p := &paced{ResponseWriter: w, body: body, control: http.NewResponseController(w), call: c}
	// The error says that the server has no deadlines.
	_ = p.control.SetWriteDeadline(time.Now().Add(dialWithin + 2*answerWithin + paceLimit))
	if body == nil || body == http.NoBody {
		p.clearReadDeadline()
	}
	return p
}

// clearReadDeadline is called when the whole body has come. A read deadline that stays set would end the
// call: net/http would take it for a caller that has hung up.
func (p *paced) clearReadDeadline() { _ = p.control.SetReadDeadline(time.Time{}) }

// Unwrap is for http.ResponseController.
func (p *paced) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// Write sends a piece of the answer.
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
		p.clearReadDeadline()
	case err != nil:
		p.call.broken.Store(true)
		err = errBody
	}
	return n, err
}

// Close closes the body.
func (p *paced) Close() error { return p.body.Close() }

// buffers are the buffers with which answers are copied.
type buffers struct{ pool sync.Pool }

// Get returns a buffer.
func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, copyBuffer)
}

// Put takes a buffer back.
func (b *buffers) Put(buffer []byte) { b.pool.Put(&buffer) }
