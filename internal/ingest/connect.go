package ingest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/wechat"
)

// An authorization by link takes a browser through three pages, in this order. ingest keeps no
// state between them: the refresher knows each link, and the browser brings back a cookie.
const (
	pageLanding  = "landing"  // GET /connect/{id}: leads to WeChat
	pageCallback = "callback" // GET /connect/{id}/callback?auth_code=…: WeChat sends the browser back
	pageResult   = "result"   // GET /connect/{id}/callback: how it ended
)

// Bounds for the pages of authorization links.
const (
	prefixConnect = "/connect/"
	minConnectID  = 16 // characters
	maxConnectID  = 64
	shownID       = 8 // characters of an id that the log shows
	maxAuthCode   = 512
	maxSession    = 512
	maxPages      = 128                    // pages being made at the same time; a server has 512 connections
	openTime      = 2 * time.Second        // for one request to the refresher
	pollPause     = 150 * time.Millisecond // between two requests how it ended
	retryAfter    = 2                      // seconds, in Retry-After and of a page that loads itself again
	slowAfter     = time.Minute            // since the browser came back: then the page reloads more slowly
	slowRefresh   = 30                     // seconds, after slowAfter
	busyRefresh   = 5                      // seconds, of a page that waits for another browser
	giveUpAfter   = time.Hour              // longer than any code lives
)

// sessionCookie holds ConnectOpened.Session.
const sessionCookie = "wxtoken_connect"

// isConnect reports whether a path belongs to authorization links.
func isConnect(path string) bool { return strings.HasPrefix(path, prefixConnect) }

// visit is one request for a page, and its result.
type visit struct {
	page string
	id   string // empty if the path has no valid one
	said string // what the answer says: one of connectResults
	err  error
}

// readVisit reads a path with the prefix /connect/. As for pushes, only exact paths are accepted.
func readVisit(r *http.Request) visit {
	id, rest, deeper := strings.Cut(strings.TrimPrefix(r.URL.Path, prefixConnect), "/")
	v := visit{page: pageLanding}
	if deeper && rest == pageCallback {
		v.page = pageResult
		if r.URL.RawQuery != "" {
			v.page = pageCallback
		}
	}
	if !strings.Contains(r.URL.RawPath, "%") && validConnectID(id) && (!deeper || rest == pageCallback) {
		v.id = id
	}
	return v
}

func validConnectID(id string) bool {
	// The characters are those of an appid.
	return len(id) >= minConnectID && len(id) <= maxConnectID && wxtoken.ValidAppID(id)
}

// path returns the path of the landing page.
func (v visit) path() string { return prefixConnect + v.id }

// connect answers a request for a page of an authorization by link.
func (i *Ingest) connect(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	v := readVisit(r)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if i.serveAsset(w, r) {
		return
	}
	if v.page == pageLanding {
		// WeChat checks the Referer of a browser that follows the link: it must name this host.
		h.Set("Referrer-Policy", "strict-origin-when-cross-origin")
	} else {
		h.Set("Referrer-Policy", "no-referrer")
	}
	var a pageAnswer
	if i.visits.Spent(r.RemoteAddr, start) { // a client that guesses ids must not cost the refresher more requests
		v.said = saidRejected
		a = notice(saidLimited)
	} else if a = i.visit(w, r, &v); a.refused && !i.visits.Count(r.RemoteAddr, start) {
		a = notice(saidLimited)
	}
	i.recordVisit(r, v, a.status, time.Since(start))
	a.write(w, r, i.looks.Load())
}

// visit returns the answer to a visit. The cheapest checks come first.
func (i *Ingest) visit(w http.ResponseWriter, r *http.Request, v *visit) pageAnswer {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		v.said = saidRejected
		return notice(saidMethod)
	case !strings.HasPrefix(r.RequestURI, "/"): // a request to a proxy, which this is not
		return v.respond(saidRejected)
	case v.id == "":
		return v.respond(saidUnknown)
	}
	select {
	case i.pages <- struct{}{}:
		defer func() { <-i.pages }()
	default:
		v.err = errors.New("too many pages at once")
		return v.respond(saidUnavailable)
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	switch v.page {
	case pageLanding:
		return i.landing(ctx, w, r, v)
	case pageCallback:
		return i.callback(ctx, r, v)
	default:
		return i.result(ctx, r, v)
	}
}

// respond ends a visit with the notice of that name.
func (v *visit) respond(said string) pageAnswer {
	v.said = said
	a := notice(said)
	a.id = v.id
	return a
}

// landing answers with the page that leads to WeChat.
func (i *Ingest) landing(ctx context.Context, w http.ResponseWriter, r *http.Request, v *visit) pageAnswer {
	opened, said, err := i.askRefresher(ctx, events.ConnectOpen{ID: v.id, Step: events.StepLanding, Over: true})
	if said == "" && opened.Over != "" {
		return v.respondOver(opened, i.now())
	}
	if said == "" && (!isVisible(opened.Session, maxSession) || !isWebURL(opened.PCLink) || !isWebURL(opened.MobileLink)) {
		said, err = saidUnavailable, errors.New("the answer lacks the session or a link")
	}
	if said != "" {
		v.err = err
		return v.respond(said)
	}
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: opened.Session, Path: v.path(),
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: strings.HasPrefix(opened.URL, "https://"),
	})
	v.said = saidShown
	return pageAnswer{status: http.StatusOK, id: v.id, component: opened.Component, opened: opened, userAgent: r.UserAgent()}
}

// respondOver answers with the notice why a link does not lead to WeChat any more.
func (v *visit) respondOver(opened events.ConnectOpened, now time.Time) pageAnswer {
	switch {
	case opened.Over == events.OverBusy:
		return v.respondWaiting(saidBusy, opened, now, busyRefresh)
	case opened.Over != events.OverEnded:
		return v.respondEnded(saidExpired, opened)
	case opened.State == events.ConnectConflict:
		return v.respondEnded(saidConflict, opened)
	case opened.State != events.ConnectAuthorized:
		return v.respondEnded(saidFailed, opened)
	case opened.Lapsed:
		return v.respondEnded(saidCancelled, opened)
	}
	return v.respondEnded(saidAlready, opened)
}

// callback takes the code that WeChat gave to the browser, and redirects to the same page without a
// query, so that the code stays neither in the address nor in a Referer.
func (i *Ingest) callback(ctx context.Context, r *http.Request, v *visit) pageAnswer {
	code, ok := authCode(r.URL.RawQuery)
	if !ok {
		return v.respond(saidRejected)
	}
	opened, said, err := i.askRefresher(ctx, events.ConnectOpen{
		ID: v.id, Step: events.StepCallback, Session: session(r), CodeSHA256: events.Digest(code), Over: true,
	})
	if said != "" {
		v.err = err
		return v.respond(said)
	}
	if opened.Over != "" {
		return v.respondCodeTooLate(opened, i.now())
	}
	switch opened.State {
	case events.ConnectAuthorized, events.ConnectConflict, events.ConnectFailed:
		// This code came before and was exchanged: the browser went back.
	default:
		// Stored even if the browser hangs up now: it brought the only copy of the code.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), answerTime)
		defer cancel()
		if err := i.publishCallback(ctx, opened.Component, v.id, code); err != nil {
			v.err = err
			return v.respond(saidUnavailable)
		}
	}
	v.said = saidAccepted
	return redirect(v.path() + "/" + pageCallback)
}

// respondCodeTooLate answers a browser that brings a code to a link that has taken another one. The
// authorization that this browser gave to WeChat stands, but not through this link, so the page
// must not say that it was taken.
func (v *visit) respondCodeTooLate(opened events.ConnectOpened, now time.Time) pageAnswer {
	a := v.respondOver(opened, now)
	if v.said == saidAlready || v.said == saidCancelled {
		a = v.respondEnded(saidUsed, opened)
	}
	return a
}

// publishCallback stores the event callback.
func (i *Ingest) publishCallback(ctx context.Context, component, id, code string) error {
	// No part contains a line end, so different lists of parts make different texts.
	sum := sha256.Sum256([]byte(strings.Join([]string{pageCallback, component, id, code}, "\n")))
	at := i.now().UTC()
	e, err := events.Auth{
		Kind: events.KindCallback, Component: component, CreateTime: at, ReceivedAt: at, Code: code, Connect: id,
	}.Event(hex.EncodeToString(sum[:]), strings.TrimSuffix(prefixConnect, "/")) // the id is in the event, not in its headers
	if err != nil {
		return err
	}
	_, err = i.publish(ctx, []events.Event{e})
	return err
}

// result waits until the authorization ends, or ctx, and answers with how it ended.
func (i *Ingest) result(ctx context.Context, r *http.Request, v *visit) pageAnswer {
	question := events.ConnectOpen{ID: v.id, Step: events.StepResult, Session: session(r), Over: true}
	var before events.ConnectOpened
	for waited := false; ; waited = true {
		opened, said, err := i.askRefresher(ctx, question)
		if said != "" {
			if waited && ctx.Err() != nil {
				return i.respondUnfinished(v, before)
			}
			v.err = err
			return v.respond(said)
		}
		before = opened
		if opened.Over != "" {
			return v.respondOver(opened, i.now())
		}
		switch opened.State {
		case events.ConnectAuthorized:
			if opened.Lapsed {
				return v.respondEnded(saidCancelled, opened)
			}
			if isWebURL(opened.ReturnTo) {
				v.said = saidAuthorized
				return redirect(opened.ReturnTo)
			}
			return v.respondEnded(saidAuthorized, opened)
		case events.ConnectConflict:
			return v.respondEnded(saidConflict, opened)
		case events.ConnectFailed:
			return v.respondEnded(saidFailed, opened)
		}
		select {
		case <-ctx.Done():
			return i.respondUnfinished(v, opened)
		case <-time.After(pollPause):
		}
	}
}

// respondUnfinished answers while it is not known yet how an authorization ends. No page reloads
// for ever.
func (i *Ingest) respondUnfinished(v *visit, opened events.ConnectOpened) pageAnswer {
	if opened.State == events.ConnectPending { // no code has come
		v.said = saidWaiting
		return redirect(v.path())
	}
	return v.respondWaiting(saidWaiting, opened, i.now(), retryAfter)
}

// respondWaiting answers with a page that reloads after that many seconds, later more slowly.
func (v *visit) respondWaiting(said string, opened events.ConnectOpened, now time.Time, seconds int) pageAnswer {
	waited := now.Sub(opened.CodeAt)
	if waited > giveUpAfter {
		v.err = errors.New("the code was not exchanged")
		return v.respond(saidUnavailable)
	}
	a := v.respondEnded(said, opened)
	if a.refresh = seconds; waited > slowAfter {
		a.refresh = slowRefresh
	}
	return a
}

// respondEnded answers with the notice how an authorization ended.
func (v *visit) respondEnded(said string, opened events.ConnectOpened) pageAnswer {
	a := v.respond(said)
	a.component, a.opened = opened.Component, opened
	if said == saidFailed {
		// The reason is a constant of the refresher's.
		v.err = fmt.Errorf("failed authorization: %s", opened.Reason)
	}
	return a
}

// askRefresher asks the refresher about a link. If said is not empty, the page says that instead.
func (i *Ingest) askRefresher(ctx context.Context, question events.ConnectOpen) (opened events.ConnectOpened, said string, err error) {
	data, err := json.Marshal(question)
	if err != nil {
		return opened, saidUnavailable, err
	}
	nc := i.js.Conn()
	if !nc.IsConnected() {
		return opened, saidUnavailable, nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	msg, err := nc.RequestWithContext(ctx, events.SubjectConnectOpen, data)
	if err != nil {
		return opened, saidUnavailable, err
	}
	if text := cmp.Or(msg.Header.Get(micro.ErrorCodeHeader), msg.Header.Get(micro.ErrorHeader)); text != "" {
		code, _ := strconv.Atoi(text)
		switch code {
		case http.StatusNotFound:
			return opened, saidUnknown, nil
		case http.StatusGone:
			return opened, saidGone, nil
		case http.StatusForbidden:
			return opened, saidForbidden, nil
		}
		return opened, saidUnavailable, fmt.Errorf("the refresher answered %d", code)
	}
	if err := json.Unmarshal(msg.Data, &opened); err != nil || !wxtoken.ValidAppID(opened.Component) {
		return opened, saidUnavailable, errors.New("unreadable answer from the refresher")
	}
	return opened, "", nil
}

// session returns the session that the landing page gave to the browser; empty if it brings none,
// or none that could be valid.
func session(r *http.Request) string {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil || !isVisible(cookie.Value, maxSession) {
		return ""
	}
	return cookie.Value
}

// authCode returns the auth_code of a query, which must have exactly one.
func authCode(raw string) (string, bool) {
	query, err := url.ParseQuery(raw)
	codes := query["auth_code"]
	if err != nil || len(codes) != 1 || !isVisible(codes[0], maxAuthCode) {
		return "", false
	}
	return codes[0], true
}

// isVisible reports whether s is 1 to limit bytes of visible ASCII.
func isVisible(s string, limit int) bool {
	return s != "" && len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// isWebURL reports whether a browser may be redirected to s. The refresher has checked it already;
// a second check costs nothing, and an open redirect would be bad.
func isWebURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && !strings.Contains(s, `\`)
}

// connectReasons returns the reasons for which visits are logged.
func connectReasons() []wechat.Reason {
	var all []wechat.Reason
	for _, said := range connectResults {
		if isTrouble(said) {
			all = append(all, connectReason(said))
		}
	}
	return all
}

func connectReason(said string) wechat.Reason { return wechat.Reason("connect_" + said) }

// recordVisit counts a visit and logs it: only the beginning of the id, and no query, cookie or
// link.
func (i *Ingest) recordVisit(r *http.Request, v visit, status int, took time.Duration) {
	i.metrics.connects.WithLabelValues(v.page, v.said).Inc()
	id := v.id[:min(len(v.id), shownID)]
	if isTrouble(v.said) {
		log := i.lines.about(connectReason(v.said))
		log.Warn().Err(v.err).Str("page", v.page).Str("connect", id).Int("status", status).
			Str("remote", r.RemoteAddr).Str("user_agent", agent(r)).Dur("duration", took).Msg("connect page refused")
		return
	}
	i.lines.log.Debug().Str("page", v.page).Str("connect", id).Str("result", v.said).Int("status", status).
		Dur("duration", took).Msg("connect page answered")
}
