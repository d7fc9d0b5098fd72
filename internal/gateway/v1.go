package gateway

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/services"
)

const (
	// maxWait bounds ?wait=; defaultAccounts and maxAccounts say how many accounts one answer holds.
	maxWait         = 60 * time.Second
	defaultAccounts = 100
	maxAccounts     = 1000
)

//go:embed openapi.json
var openAPI []byte

// problem answers with an error in the form of RFC 9457.
func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, status, struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
}

// handler answers a request to /v1 from a service with the right to it.
type handler func(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service, q url.Values)

// route is a path of /v1: the right that it takes, and its handler.
type route struct {
	right      services.Right
	answer     handler
	parameters []string // of the query; others are refused
}

func (g *Gateway) newV1() http.Handler {
	known, mux := http.NewServeMux(), http.NewServeMux()
	handle := func(pattern string, answer http.HandlerFunc) {
		known.HandleFunc(pattern, answer)
		mux.HandleFunc(pattern, answer)
	}
	for pattern, route := range map[string]route{
		"GET /v1/tokens/{key}":          {services.RightToken, g.token, []string{"wait"}},
		"POST /v1/tokens/{key}/refused": {services.RightToken, g.refusedToken, nil},
		"GET /v1/accounts":              {services.RightAccounts, g.accounts, []string{"ref", "q", "state", "component", "limit", "after"}},
		"GET /v1/accounts/{key}":        {services.RightAccounts, g.account, nil},
		"POST /v1/links":                {services.RightLinks, g.link, nil},
		"GET /v1/events":                {services.RightEvents, g.events, nil},
	} {
		handle(pattern, func(w http.ResponseWriter, r *http.Request) { g.serveRoute(w, r, route) })
	}
	handle("GET /v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write(openAPI)
	})
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		missing := &discarded{header: http.Header{}} // 404, or 405 with the methods that there are
		known.ServeHTTP(missing, r)
		if allow := missing.header.Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
		}
		problem(w, missing.status, "GET /v1/openapi.json lists what there is")
	})
	return mux
}

// discarded is an answer of which only header and status are of interest.
type discarded struct {
	header http.Header
	status int
}

// Header returns the header.
func (d *discarded) Header() http.Header { return d.header }

// WriteHeader notes the status.
func (d *discarded) WriteHeader(status int) { d.status = status }

// Write discards data.
func (d *discarded) Write(data []byte) (int, error) { return len(data), nil }

// bearerKey returns the key in the Authorization header, "" if there is none. Two headers count as none: a
// proxy may have checked the other one.
func bearerKey(r *http.Request) string {
	headers := r.Header["Authorization"]
	if len(headers) != 1 {
		return ""
	}
	scheme, key, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Bearer") { // in any case of letters, as RFC 9110 says
		return ""
	}
	return strings.TrimLeft(key, " ")
}

// authorize returns the service that makes a request, if it has the right. It answers itself and returns
// nil otherwise.
func (g *Gateway) authorize(w http.ResponseWriter, r *http.Request, right services.Right) *services.Service {
	key := bearerKey(r)
	if key == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		problem(w, http.StatusUnauthorized, "want the header Authorization: Bearer <the service's key>")
		return nil
	}
	s := g.serviceByKey(w, r, key, func(status int, why string) {
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		problem(w, status, why)
	})
	if s != nil && !s.May(right) {
		g.forbid(w, fmt.Sprintf("this service has no right %q", right))
		return nil
	}
	return s
}

// forbid answers a request for which a service lacks the right.
func (g *Gateway) forbid(w http.ResponseWriter, why string) {
	g.metrics.refused.WithLabelValues("right").Inc()
	problem(w, http.StatusForbidden, why)
}

// serveRoute answers a request to a route, after checking key, right and parameters.
func (g *Gateway) serveRoute(w http.ResponseWriter, r *http.Request, to route) {
	s := g.authorize(w, r, to.right)
	if s == nil {
		return
	}
	q, err := parseQuery(r.URL, to.parameters...)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	client := g.view.Load()
	if client == nil {
		problem(w, http.StatusServiceUnavailable, errAway.Error())
		return
	}
	to.answer(w, r, client, s, q)
}

// pathKey reads the key in the path, which must be one of the service's. It answers itself and returns
// false otherwise.
func (g *Gateway) pathKey(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service) (wxtoken.Key, bool) {
	key, err := wxtoken.ParseKey(r.PathValue("key"))
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return key, false
	}
	if !g.knows(client, s, key) {
		problem(w, http.StatusNotFound, errUnknown.Error())
		return key, false
	}
	return key, true
}

// tokenKey is pathKey for a path whose answer is a token. A ticket goes to services with the right real
// alone: it is no token of a call, so that the gateway could put it in the place of one of its own.
func (g *Gateway) tokenKey(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service) (wxtoken.Key, bool) {
	key, ok := g.pathKey(w, r, client, s)
	if ok && account.Derived(key) && !s.May(services.RightReal) {
		g.forbid(w, fmt.Sprintf("a ticket is given to services with the right %q", services.RightReal))
		return key, false
	}
	return key, ok
}

// token answers GET /v1/tokens/{key}.
func (g *Gateway) token(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service, q url.Values) {
	key, ok := g.tokenKey(w, r, client, s)
	if !ok {
		return
	}
	wait, err := parseWait(q)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	token, err := client.Token(key)
	if known := knownTags(r); err != nil || known.has(token) {
		if wait > 0 {
			token, err = g.await(w, r, client, key, known, wait)
			if s = g.authorize(w, r, services.RightToken); s == nil { // it may have lost the key, the right or the account while it waited
				return
			}
			if key, ok = g.tokenKey(w, r, client, s); !ok {
				return
			}
		}
		if err == nil && known.has(token) {
			g.setTokenHeaders(w, token)
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	if err != nil {
		g.writeNoToken(w, client, key, err)
		return
	}
	g.writeToken(w, r, s, token)
}

// parseWait reads ?wait=: seconds, or a duration such as 30s.
func parseWait(q url.Values) (time.Duration, error) {
	text := q.Get("wait")
	if text == "" {
		return 0, nil
	}
	if seconds, err := strconv.Atoi(text); err == nil {
		text = strconv.Itoa(seconds) + "s"
	}
	wait, err := time.ParseDuration(text)
	if err != nil || wait < 0 || wait > maxWait {
		return 0, fmt.Errorf("wait: want seconds, 0 to %d", int(maxWait/time.Second))
	}
	return wait, nil
}

// parseQuery reads the parameters of a request. Unknown and repeated ones are errors.
func parseQuery(u *url.URL, names ...string) (url.Values, error) {
	if u.RawQuery == "" {
		return nil, nil
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("malformed query")
	}
next:
	for name, values := range q {
		for _, known := range names {
			if name == known && len(values) == 1 {
				continue next
			}
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("parameter %.64q: this path takes none", name)
		}
		return nil, fmt.Errorf("parameter %.64q: want each of %s once at most", name, strings.Join(names, ", "))
	}
	return q, nil
}

// await waits up to wait for a token that the caller does not know.
func (g *Gateway) await(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, key wxtoken.Key,
	known tags, wait time.Duration) (token wxtoken.Token, err error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Now().Add(wait + paceLimit))
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	defer context.AfterFunc(g.serving, cancel)()
	for token, err = range client.Updates(ctx, key) {
		if errors.Is(err, wxtoken.ErrRevoked) || err == nil && !known.has(token) {
			return token, err
		}
	}
	return client.Token(key)
}

// etag identifies a token without revealing anything of it.
func etag(token wxtoken.Token) string {
	if token.Revision == 0 {
		return ""
	}
	return `"` + strconv.FormatUint(token.Generation, 10) + "-" + strconv.FormatUint(token.Revision, 10) + `"`
}

// tags are the ETags that a caller has.
type tags []string

// knownTags returns the tags in If-None-Match. A proxy that compresses answers turns our tags into weak
// ones.
func knownTags(r *http.Request) (known tags) {
	for _, list := range r.Header["If-None-Match"] {
		for tag := range strings.SplitSeq(list, ",") {
			known = append(known, strings.TrimPrefix(strings.TrimSpace(tag), "W/"))
		}
	}
	return known
}

// has reports whether the caller has a token.
func (t tags) has(token wxtoken.Token) bool {
	tag := etag(token)
	return tag != "" && (slices.Contains(t, tag) || slices.Contains(t, "*"))
}

// setTokenHeaders sets the headers of an answer with a token, or of a 304 for a caller that has it.
func (g *Gateway) setTokenHeaders(w http.ResponseWriter, token wxtoken.Token) {
	now, h := g.d.Now(), w.Header() // the names are spelled as net/http has them
	h["Vary"], h["Etag"] = varies, []string{etag(token)}
	fresh := max(0, min(realTokenLife(token, now), token.RenewAt.Sub(now)))
	h["Cache-Control"] = []string{"private, max-age=" + strconv.Itoa(int(fresh/time.Second))}
}

// writeToken answers with a token.
func (g *Gateway) writeToken(w http.ResponseWriter, r *http.Request, s *services.Service, token wxtoken.Token) {
	now, ends := g.d.Now(), token.ExpiresAt
	real := s.May(services.RightReal)
	g.recordHandedOut(r, s, token.Key, "v1", real)
	// Encoded by hand: this is the most frequent answer, and encoding/json costs as much as all the
	// rest.
	out := append(make([]byte, 0, 512), `{"key":"`...)
	out = append(append(out, token.Key.String()...), `","access_token":`...) // a key has no character that JSON escapes
	if real {
		ends = now.Add(realTokenLife(token, now))
		out = append(out, mustJSON(token.Value.Reveal())...)
	} else {
		out = g.d.Signer.appendToken(append(out, '"'), Claims{Service: s.Name, Key: token.Key, Ends: ends, Generation: token.Generation})
		out = append(out, '"')
	}
	out = strconv.AppendInt(append(out, `,"expires_in":`...), int64(ends.Sub(now)/time.Second), 10)
	out = ends.UTC().AppendFormat(append(out, `,"expires_at":"`...), time.RFC3339)
	out = append(strconv.AppendUint(append(out, `","generation":`...), token.Generation, 10), '}')
	g.setTokenHeaders(w, token)
	w.Header()["Content-Type"] = jsonType
	_, _ = w.Write(out) // the client may have gone
}

// Headers that are the same in each answer.
var jsonType, varies = []string{"application/json; charset=utf-8"}, []string{"Authorization"}

// stamp writes a time for JSON.
func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// writeNoToken answers why there is no token.
func (g *Gateway) writeNoToken(w http.ResponseWriter, client *wxtoken.Client, key wxtoken.Key, err error) {
	switch {
	case !client.Live():
		problem(w, http.StatusServiceUnavailable, "cut off from NATS, and no valid token in memory")
	case errors.Is(err, wxtoken.ErrRevoked):
		problem(w, http.StatusNotFound, "the account has cancelled its authorization")
	case errors.Is(err, wxtoken.ErrNoToken):
		problem(w, http.StatusNotFound, "no token for this key")
	default:
		w.Header().Set("Retry-After", "5")
		problem(w, http.StatusServiceUnavailable, "the token has expired and was not renewed: GET /v1/accounts/"+accountOf(key).String()+" tells why")
	}
}

// refusedToken answers POST /v1/tokens/{key}/refused with the next token, or why there is none.
func (g *Gateway) refusedToken(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service, _ url.Values) {
	key, ok := g.tokenKey(w, r, client, s)
	if !ok {
		return
	}
	var question struct {
		Generation  uint64         `json:"generation"`
		AccessToken wxtoken.Secret `json:"access_token"`
	}
	if !g.readJSON(w, r, &question, "generation, access_token") {
		return
	}
	refused, err := g.reportedToken(client, key, question.Generation, question.AccessToken)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Now().Add(time.Minute))
	next, err := client.Replace(withReporter(r.Context(), s.Name), refused)
	switch {
	case err == nil:
		g.writeToken(w, r, s, next)
	case errors.Is(err, wxtoken.ErrTooSoon):
		problem(w, http.StatusConflict, "this token is younger than a tenth of its life, or was replaced very often today: read WeChat's errmsg, and check whether another system renews the tokens of this component")
	case errors.Is(err, wxtoken.ErrNotKept), errors.Is(err, wxtoken.ErrRevoked), errors.Is(err, wxtoken.ErrNoToken):
		problem(w, http.StatusNotFound, "no token for this key that could be renewed")
	case errors.Is(err, nats.ErrNoResponders):
		problem(w, http.StatusServiceUnavailable, "no refresher is listening")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		problem(w, http.StatusServiceUnavailable, "reported, but no other token came in time: GET /v1/accounts/"+accountOf(key).String()+" tells why")
	default:
		if said, ok := errors.AsType[*wxtoken.RequestError](err); ok && said.Code == "503" { // the wish is kept, and something holds renewals back
			problem(w, http.StatusServiceUnavailable, "reported: "+said.Message)
			return
		}
		g.d.Log.Warn().Err(err).Stringer("key", key).Msg("failed to replace token")
		problem(w, http.StatusServiceUnavailable, "the report could not be delivered")
	}
}

// withReporter makes reports of refused tokens carry the name of the service.
func withReporter(ctx context.Context, service string) context.Context {
	return wxtoken.WithName(ctx, "gateway/"+service)
}

// reportedToken returns the token that a service reports, by its generation or its value.
func (g *Gateway) reportedToken(client *wxtoken.Client, key wxtoken.Key, generation uint64, value wxtoken.Secret) (wxtoken.Token, error) {
	if (generation == 0) == value.IsZero() {
		return wxtoken.Token{}, errors.New("want one of generation and access_token")
	}
	current, err := client.Token(key)
	if IsOurs(value.Reveal()) {
		claims, openErr := g.d.Signer.Open(value.Reveal(), g.d.Now())
		if openErr != nil && !errors.Is(openErr, ErrExpired) || claims.Key != key {
			return wxtoken.Token{}, errors.New("access_token: not a token of this key")
		}
		generation = claims.Generation
	} else if !value.IsZero() {
		if err == nil && current.Value == value {
			return current, nil
		}
		// An older one: the refreshers recognize it by its digest.
		return wxtoken.Token{Key: key, Value: value}, nil
	}
	switch {
	case err != nil:
		return wxtoken.Token{Key: key, Generation: generation, Value: wxtoken.NewSecret("unknown")}, nil
	case generation > current.Generation:
		return wxtoken.Token{}, fmt.Errorf("generation: the newest is %d", current.Generation)
	case generation < current.Generation: // there is a newer one already, which Replace returns
		return wxtoken.Token{Key: key, Generation: generation, Revision: 1, Value: wxtoken.NewSecret("replaced")}, nil
	}
	return current, nil
}

// readJSON reads the JSON body of a request. It answers itself and returns false where that can't be read,
// or has an unknown field; names are the known ones.
func (g *Gateway) readJSON(w http.ResponseWriter, r *http.Request, into any, names string) bool {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuestion))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "the body is too large or incomplete")
		return false
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		detail := "want a JSON object with " + names
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			detail = fmt.Sprintf("unknown field %.64s: want %s", name, names)
		} else if wrong := events.WrongType(err); !wrong.IsZero() {
			detail = wrong.EN
		}
		problem(w, http.StatusUnprocessableEntity, detail)
		return false
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		problem(w, http.StatusUnprocessableEntity, "something follows the JSON object")
		return false
	}
	return true
}

// link answers POST /v1/links.
func (g *Gateway) link(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service, _ url.Values) {
	var request wxtoken.LinkRequest
	if !g.readJSON(w, r, &request, "component, ref, return, auth_type, biz_appid, category_id_list, expires_in, move") {
		return
	}
	if !s.MayLink(request) {
		g.forbid(w, "this service may make links for its own components, refs (without move) and accounts (as biz_appid) alone")
		return
	}
	link, err := client.CreateLink(r.Context(), request)
	if refused, ok := errors.AsType[*wxtoken.RequestError](err); ok {
		status, convErr := strconv.Atoi(refused.Code)
		switch {
		case convErr != nil || status < 400 || status > 599:
			status = http.StatusBadGateway
		case status == http.StatusBadRequest:
			status = http.StatusUnprocessableEntity
		}
		problem(w, status, refused.Message)
		return
	}
	if err != nil {
		g.d.Log.Warn().Err(err).Str("service", s.Name).Msg("failed to make link")
		problem(w, http.StatusServiceUnavailable, "the refreshers did not answer")
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusCreated, link)
}
