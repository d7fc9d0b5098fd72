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
	"wxtoken/internal/services"
)

const (
	// maxWait bounds ?wait=, and defaultAccounts and maxAccounts how many accounts one answer has.
	maxWait         = 60 * time.Second
	defaultAccounts = 100
	maxAccounts     = 1000
)

//go:embed openapi.json
var openAPI []byte

// problem answers with a fault, as RFC 9457 says.
func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, status, struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
}

// asked is what a request to /v1 is answered with.
type asked func(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service, q url.Values)

// route is one thing that can be asked.
type route struct {
	right      services.Right
	answer     asked
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
		handle(pattern, func(w http.ResponseWriter, r *http.Request) { g.authorized(w, r, route) })
	}
	handle("GET /v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write(openAPI)
	})
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		missing := &kept{header: http.Header{}} // 404, or 405 with the methods that there are
		known.ServeHTTP(missing, r)
		if allow := missing.header.Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
		}
		problem(w, missing.status, "GET /v1/openapi.json lists what there is")
	})
	return mux
}

// kept is an answer that is kept here and not sent.
type kept struct {
	header http.Header
	status int
}

// Header returns its header.
func (k *kept) Header() http.Header { return k.header }

// WriteHeader keeps the status.
func (k *kept) WriteHeader(status int) { k.status = status }

// Write drops data.
func (k *kept) Write(data []byte) (int, error) { return len(data), nil }

// shown returns the key that a request shows, or "": also where there are two, of which a proxy may have looked at the other one.
func shown(r *http.Request) string {
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

// entitled returns the service that makes a request, if it has a right. It answers itself and
// returns nil otherwise.
func (g *Gateway) entitled(w http.ResponseWriter, r *http.Request, right services.Right) *services.Service {
	key := shown(r)
	if key == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		problem(w, http.StatusUnauthorized, "want the header Authorization: Bearer <the service's key>")
		return nil
	}
	s := g.service(w, r, key, func(status int, why string) {
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		problem(w, status, why)
	})
	if s != nil && !s.May(right) {
		g.metrics.refused.WithLabelValues("right").Inc()
		problem(w, http.StatusForbidden, fmt.Sprintf("this service has no right %q", right))
		return nil
	}
	return s
}

// authorized answers a request of a service that has the right to make it.
func (g *Gateway) authorized(w http.ResponseWriter, r *http.Request, to route) {
	s := g.entitled(w, r, to.right)
	if s == nil {
		return
	}
	q, err := query(r.URL, to.parameters...)
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

// named reads the key in the path, which has to be one of the service's. It answers itself and
// returns false otherwise.
func (g *Gateway) named(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service) (wxtoken.Key, bool) {
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

// token answers GET /v1/tokens/{key}.
func (g *Gateway) token(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service, q url.Values) {
	key, ok := g.named(w, r, client, s)
	if !ok {
		return
	}
	wait, err := waiting(q)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	token, err := client.Token(key)
	if known := knownTags(r); err != nil || known.has(token) {
		if wait > 0 {
			token, err = g.await(w, r, client, key, known, wait)
			if s = g.entitled(w, r, services.RightToken); s == nil { // it may have lost the key, the right or the account meanwhile
				return
			}
			if key, ok = g.named(w, r, client, s); !ok {
				return
			}
		}
		if err == nil && known.has(token) {
			g.head(w, token)
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	if err != nil {
		g.noToken(w, client, key, err)
		return
	}
	g.give(w, r, s, token)
}

// waiting reads ?wait=: seconds, or a duration such as 30s.
func waiting(q url.Values) (time.Duration, error) {
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

// query reads the parameters of a request, each of which has a name that is known and stands there
// once.
func query(u *url.URL, names ...string) (url.Values, error) {
	if u.RawQuery == "" {
		return nil, nil
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("the query can't be read")
	}
next:
	for name, values := range q {
		for _, known := range names {
			if name == known && len(values) == 1 {
				continue next
			}
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("parameter %.64q: there are none here", name)
		}
		return nil, fmt.Errorf("parameter %.64q: want each of %s once at most", name, strings.Join(names, ", "))
	}
	return q, nil
}

// await waits until there is a token that the caller does not know.
func (g *Gateway) await(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, key wxtoken.Key, known tags, wait time.Duration) (token wxtoken.Token, err error) {
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

// etag names a token without saying anything of it.
func etag(token wxtoken.Token) string {
	if token.Revision == 0 {
		return ""
	}
	return `"` + strconv.FormatUint(token.Generation, 10) + "-" + strconv.FormatUint(token.Revision, 10) + `"`
}

// tags are the ETags that a caller knows.
type tags []string

// knownTags returns what a request's If-None-Match names. A proxy that compresses answers makes weak tags of ours.
func knownTags(r *http.Request) (known tags) {
	for _, list := range r.Header["If-None-Match"] {
		for tag := range strings.SplitSeq(list, ",") {
			known = append(known, strings.TrimPrefix(strings.TrimSpace(tag), "W/"))
		}
	}
	return known
}

// has reports whether a token is one that the caller knows.
func (t tags) has(token wxtoken.Token) bool {
	tag := etag(token)
	return tag != "" && (slices.Contains(t, tag) || slices.Contains(t, "*"))
}

// head sets the headers of an answer with a token, or without because the caller has it.
func (g *Gateway) head(w http.ResponseWriter, token wxtoken.Token) {
	now, h := g.d.Now(), w.Header() // the names are spelled as net/http has them
	h["Vary"], h["Etag"] = varies, []string{etag(token)}
	h["Cache-Control"] = []string{"private, max-age=" + strconv.Itoa(max(0, int(min(realLife(token, now), token.RenewAt.Sub(now))/time.Second)))}
}

// give answers with a token.
func (g *Gateway) give(w http.ResponseWriter, r *http.Request, s *services.Service, token wxtoken.Token) {
	now := g.d.Now()
	real := s.May(services.RightReal)
	g.audit(r, s, token.Key, "v1", real)
	// Written by hand: services ask for this again and again, and encoding/json costs as much as
	// all the rest.
	out := append(make([]byte, 0, 512), `{"key":"`...)
	out = append(append(out, token.Key.String()...), `","access_token":`...) // a key has no character that JSON escapes
	if real {
		out = append(out, mustJSON(token.Value.Reveal())...)
	} else {
		out = g.d.Signer.appendToken(append(out, '"'), Claims{Service: s.Name, Key: token.Key, Ends: token.ExpiresAt, Generation: token.Generation})
		out = append(out, '"')
	}
	out = strconv.AppendInt(append(out, `,"expires_in":`...), int64(token.ExpiresAt.Sub(now)/time.Second), 10)
	out = token.ExpiresAt.UTC().AppendFormat(append(out, `,"expires_at":"`...), time.RFC3339)
	out = append(strconv.AppendUint(append(out, `","generation":`...), token.Generation, 10), '}')
	g.head(w, token)
	w.Header()["Content-Type"] = jsonType
	_, _ = w.Write(out) // a client that has gone is no concern of ours
}

// Headers that are always the same.
var jsonType, varies = []string{"application/json; charset=utf-8"}, []string{"Authorization"}

// stamp writes a time as JSON has it.
func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// noToken says why there is no token.
func (g *Gateway) noToken(w http.ResponseWriter, client *wxtoken.Client, key wxtoken.Key, err error) {
	switch {
	case !client.Live():
		problem(w, http.StatusServiceUnavailable, "cut off from NATS, and no token in memory that is still good")
	case errors.Is(err, wxtoken.ErrRevoked):
		problem(w, http.StatusNotFound, "the account has cancelled its authorization")
	case errors.Is(err, wxtoken.ErrNoToken):
		problem(w, http.StatusNotFound, "no token is kept under this key")
	default:
		w.Header().Set("Retry-After", "5")
		problem(w, http.StatusServiceUnavailable, "the token has expired and was not renewed: GET /v1/accounts/"+accountOf(key).String()+" tells why")
	}
}

// refusedToken answers POST /v1/tokens/{key}/refused: the next token, or why there is none.
func (g *Gateway) refusedToken(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service, _ url.Values) {
	key, ok := g.named(w, r, client, s)
	if !ok {
		return
	}
	var question struct {
		Generation  uint64         `json:"generation"`
		AccessToken wxtoken.Secret `json:"access_token"`
	}
	if !g.read(w, r, &question, "generation, access_token") {
		return
	}
	refused, err := g.reported(client, key, question.Generation, question.AccessToken)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Now().Add(time.Minute))
	next, err := client.Replace(reporting(r.Context(), s.Name), refused)
	switch {
	case err == nil:
		g.give(w, r, s, next)
	case errors.Is(err, wxtoken.ErrTooSoon):
		problem(w, http.StatusConflict, "this token is younger than a tenth of its life, or was replaced very often today: look at WeChat's errmsg, and whether another system renews the tokens of this component")
	case errors.Is(err, wxtoken.ErrNotKept), errors.Is(err, wxtoken.ErrRevoked), errors.Is(err, wxtoken.ErrNoToken):
		problem(w, http.StatusNotFound, "there is no token under this key that could be renewed")
	case errors.Is(err, nats.ErrNoResponders):
		problem(w, http.StatusServiceUnavailable, "no refresher is listening")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		problem(w, http.StatusServiceUnavailable, "reported, but no other token came in time: GET /v1/accounts/"+accountOf(key).String()+" tells why")
	default:
		g.d.Log.Warn().Err(err).Stringer("key", key).Msg("failed to have a token replaced")
		problem(w, http.StatusServiceUnavailable, "the report was not heard")
	}
}

// reporting has tokens that WeChat refuses reported in the name of a service.
func reporting(ctx context.Context, service string) context.Context {
	return wxtoken.WithName(ctx, "gateway/"+service)
}

// reported returns the token that a service means.
func (g *Gateway) reported(client *wxtoken.Client, key wxtoken.Key, generation uint64, value wxtoken.Secret) (wxtoken.Token, error) {
	if (generation == 0) == value.IsZero() {
		return wxtoken.Token{}, errors.New("want one of generation and access_token")
	}
	current, err := client.Token(key)
	if IsOurs(value.Reveal()) {
		claims, openErr := g.d.Signer.Open(value.Reveal(), g.d.Now())
		if openErr != nil && !errors.Is(openErr, ErrExpired) || claims.Key != key {
			return wxtoken.Token{}, errors.New("access_token: no token of this key")
		}
		generation = claims.Generation
	} else if !value.IsZero() {
		if err == nil && current.Value == value {
			return current, nil
		}
		// One from before: the refreshers know by its digest.
		return wxtoken.Token{Key: key, Value: value}, nil
	}
	switch {
	case err != nil:
		return wxtoken.Token{Key: key, Generation: generation, Value: wxtoken.NewSecret("unknown")}, nil
	case generation > current.Generation:
		return wxtoken.Token{}, fmt.Errorf("generation: there is none beyond %d", current.Generation)
	case generation < current.Generation: // there is a newer one already: Replace returns that
		return wxtoken.Token{Key: key, Generation: generation, Revision: 1, Value: wxtoken.NewSecret("replaced")}, nil
	}
	return current, nil
}

// read reads the JSON of a request. A field that the request does not have is refused.
func (g *Gateway) read(w http.ResponseWriter, r *http.Request, into any, names string) bool {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuestion))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "the body is too large, or did not come to its end")
		return false
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		detail := "want a JSON object with " + names
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			detail = fmt.Sprintf("unknown field %.64s: want %s", name, names)
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
	if !g.read(w, r, &request, "component, ref, return, auth_type, biz_appid, category_id_list, expires_in, move") {
		return
	}
	if !s.MayLink(request) {
		problem(w, http.StatusForbidden, "this service may make links for its own components, refs (without move) and accounts (as biz_appid) alone")
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
		g.d.Log.Warn().Err(err).Str("service", s.Name).Msg("failed to make a link")
		problem(w, http.StatusServiceUnavailable, "the refreshers did not answer")
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusCreated, link)
}
