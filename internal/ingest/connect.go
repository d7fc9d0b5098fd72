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

// An authorization by link takes a browser through three pages, in this order. ingest remembers
// nothing between them: the refresher knows each link, and the browser brings back a cookie.
const (
	pageLanding  = "landing"  // GET /connect/{id}: leads to WeChat
	pageCallback = "callback" // GET /connect/{id}/callback?auth_code=…: WeChat sends the browser back
	pageResult   = "result"   // GET /connect/{id}/callback: how it ended
)

// Bounds of an authorization by link.
const (
	prefixConnect = "/connect/"
	minConnectID  = 16 // characters
	maxConnectID  = 64
	shownID       = 8 // characters of an id in the log
	maxAuthCode   = 512
	maxSession    = 512
	maxPages      = 128                    // pages that are being made at once; a server has 512 connections
	openTime      = 2 * time.Second        // for one question to the refresher
	pollPause     = 150 * time.Millisecond // between two questions how it ended
	retryAfter    = 2                      // seconds, in Retry-After and of a page that loads itself again
	slowAfter     = time.Minute            // since the browser came back: what takes so long takes longer
	slowRefresh   = 30                     // seconds, then
	busyRefresh   = 5                      // seconds, of a page that waits for another browser
	giveUpAfter   = time.Hour              // no code lives so long
)

// sessionCookie holds ConnectOpened.Session.
const sessionCookie = "wxtoken_connect"

// isConnect reports whether a path belongs to authorization links.
func isConnect(path string) bool { return strings.HasPrefix(path, prefixConnect) }

// visit is one request for a page, and what becomes of it.
type visit struct {
	page string
	id   string // empty when the path has none that could be one
	said string // what the answer says: one of connectResults
	err  error
}

// readVisit reads a path with the prefix /connect/. As for pushes there are no detours.
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
		// WeChat looks at the Referer of the browser that follows the link: it has to name this
		// host.
		h.Set("Referrer-Policy", "strict-origin-when-cross-origin")
	} else {
		h.Set("Referrer-Policy", "no-referrer")
	}
	var a pageAnswer
	if i.visits.Spent(r.RemoteAddr, start) { // a client that guesses ids costs the refresher no more requests
		v.said = saidRejected
		a = notice(saidLimited)
	} else if a = i.visit(w, r, &v); a.refused && !i.visits.Count(r.RemoteAddr, start) {
		a = notice(saidLimited)
	}
	i.recordVisit(r, v, a.status, time.Since(start))
	a.write(w, r, i.looks.Load())
}

// visit finds out what to answer, from the cheapest check to the dearest.
func (i *Ingest) visit(w http.ResponseWriter, r *http.Request, v *visit) pageAnswer {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		v.said = saidRejected
		return notice(saidMethod)
	case !strings.HasPrefix(r.RequestURI, "/"): // a request to a proxy: we are none
		return v.says(saidRejected)
	case v.id == "":
		return v.says(saidUnknown)
	}
	select {
	case i.pages <- struct{}{}:
		defer func() { <-i.pages }()
	default:
		v.err = errors.New("too many pages at once")
		return v.says(saidUnavailable)
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

// says ends a visit with the notice of that name.
func (v *visit) says(said string) pageAnswer {
	v.said = said
	a := notice(said)
	a.id = v.id
	return a
}

// landing shows the page that leads to WeChat.
func (i *Ingest) landing(ctx context.Context, w http.ResponseWriter, r *http.Request, v *visit) pageAnswer {
	opened, said, err := i.askRefresher(ctx, events.ConnectOpen{ID: v.id, Step: events.StepLanding, Over: true})
	if said == "" && opened.Over != "" {
		return v.over(opened, i.now())
	}
	if said == "" && (!isVisible(opened.Session, maxSession) || !isWebURL(opened.PCLink) || !isWebURL(opened.MobileLink)) {
		said, err = saidUnavailable, errors.New("the answer lacks the session or a link")
	}
	if said != "" {
		v.err = err
		return v.says(said)
	}
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: opened.Session, Path: v.path(),
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: strings.HasPrefix(opened.URL, "https://"),
	})
	v.said = saidShown
	return pageAnswer{status: http.StatusOK, id: v.id, component: opened.Component, opened: opened, userAgent: r.UserAgent()}
}

// over tells why a link leads to WeChat no more.
func (v *visit) over(opened events.ConnectOpened, now time.Time) pageAnswer {
	switch {
	case opened.Over == events.OverBusy:
		return v.waiting(saidBusy, opened, now, busyRefresh)
	case opened.Over != events.OverEnded:
		return v.ended(saidExpired, opened)
	case opened.State == events.ConnectConflict:
		return v.ended(saidConflict, opened)
	case opened.State != events.ConnectAuthorized:
		return v.ended(saidFailed, opened)
	case opened.Lapsed:
		return v.ended(saidCancelled, opened)
	}
	return v.ended(saidAlready, opened)
}

// callback takes the code that WeChat gave to the browser. It sends the browser on to the same page
// without a query, so that the code stays neither in the address nor in a Referer.
func (i *Ingest) callback(ctx context.Context, r *http.Request, v *visit) pageAnswer {
	code, ok := authCode(r.URL.RawQuery)
	if !ok {
		return v.says(saidRejected)
	}
	opened, said, err := i.askRefresher(ctx, events.ConnectOpen{
		ID: v.id, Step: events.StepCallback, Session: session(r), CodeSHA256: events.Digest(code), Over: true,
	})
	if said != "" {
		v.err = err
		return v.says(said)
	}
	if opened.Over != "" {
		return v.overAgain(opened, i.now())
	}
	switch opened.State {
	case events.ConnectAuthorized, events.ConnectConflict, events.ConnectFailed:
		// This very code came before and is done with: the browser went back.
	default:
		// A browser that hangs up now has brought the only copy of the code.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), answerTime)
		defer cancel()
		if err := i.publishCallback(ctx, opened.Component, v.id, code); err != nil {
			v.err = err
			return v.says(saidUnavailable)
		}
	}
	v.said = saidAccepted
	return redirect(v.path() + "/" + pageCallback)
}

// overAgain answers a browser that comes back with a code to a link that has taken another one.
// What WeChat was told by this browser stands, without the link; it is not said to have been taken.
func (v *visit) overAgain(opened events.ConnectOpened, now time.Time) pageAnswer {
	a := v.over(opened, now)
	if v.said == saidAlready || v.said == saidCancelled {
		a = v.ended(saidUsed, opened)
	}
	return a
}

// publishCallback stores the event callback.
func (i *Ingest) publishCallback(ctx context.Context, component, id, code string) error {
	// No part has a line end in it, so no two lists of parts make the same text.
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

// result tells how the authorization ended, and waits for that until ctx ends.
func (i *Ingest) result(ctx context.Context, r *http.Request, v *visit) pageAnswer {
	question := events.ConnectOpen{ID: v.id, Step: events.StepResult, Session: session(r), Over: true}
	var before events.ConnectOpened
	for waited := false; ; waited = true {
		opened, said, err := i.askRefresher(ctx, question)
		if said != "" {
			if waited && ctx.Err() != nil {
				return i.unfinished(v, before)
			}
			v.err = err
			return v.says(said)
		}
		before = opened
		if opened.Over != "" {
			return v.over(opened, i.now())
		}
		switch opened.State {
		case events.ConnectAuthorized:
			if opened.Lapsed {
				return v.ended(saidCancelled, opened)
			}
			if isWebURL(opened.ReturnTo) {
				v.said = saidAuthorized
				return redirect(opened.ReturnTo)
			}
			return v.ended(saidAuthorized, opened)
		case events.ConnectConflict:
			return v.ended(saidConflict, opened)
		case events.ConnectFailed:
			return v.ended(saidFailed, opened)
		}
		select {
		case <-ctx.Done():
			return i.unfinished(v, opened)
		case <-time.After(pollPause):
		}
	}
}

// unfinished answers while it is not known how an authorization ends. No page loads itself again
// for ever.
func (i *Ingest) unfinished(v *visit, opened events.ConnectOpened) pageAnswer {
	if opened.State == events.ConnectPending { // no code came
		v.said = saidWaiting
		return redirect(v.path())
	}
	return v.waiting(saidWaiting, opened, i.now(), retryAfter)
}

// waiting is a page that loads itself again after so many seconds, later more slowly.
func (v *visit) waiting(said string, opened events.ConnectOpened, now time.Time, seconds int) pageAnswer {
	waited := now.Sub(opened.CodeAt)
	if waited > giveUpAfter {
		v.err = errors.New("the code was not exchanged")
		return v.says(saidUnavailable)
	}
	a := v.ended(said, opened)
	if a.refresh = seconds; waited > slowAfter {
		a.refresh = slowRefresh
	}
	return a
}

// ended is the notice for how an authorization ended.
func (v *visit) ended(said string, opened events.ConnectOpened) pageAnswer {
	a := v.says(said)
	a.component, a.opened = opened.Component, opened
	if said == saidFailed {
		// A word of the refresher's.
		v.err = fmt.Errorf("the authorization came to nothing: %s", opened.Reason)
	}
	return a
}

// askRefresher asks the refresher about a link. Unless said is empty, it is what to say instead.
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
		return opened, saidUnavailable, errors.New("the refresher's answer can't be read")
	}
	return opened, "", nil
}

// session returns what the landing page gave to the browser; empty when it brings nothing that
// could be it.
func session(r *http.Request) string {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil || !isVisible(cookie.Value, maxSession) {
		return ""
	}
	return cookie.Value
}

// authCode returns the one auth_code of a query.
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

// isWebURL reports whether s is an address that a browser may be sent to. The refresher has looked
// at it; a second look costs nothing, and an open redirect would.
func isWebURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && !strings.Contains(s, `\`)
}

// connectReasons are the reasons for which there is a line in the log.
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

// recordVisit counts a visit and logs it: the beginning of the id, and no query, cookie or link.
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
