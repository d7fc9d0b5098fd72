package login

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/language"

	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
)

//go:embed login.html
var loginText string

var loginTemplate = template.Must(template.New("login").Parse(loginText))

// loginView is the data of the template.
type loginView struct {
	Language, Title, Name, Password, Enter, Fault string
	Next, Field, Form                             string
	Again                                         bool // reload the same address at once
	Ask                                           bool // show the form
}

// Results of a login attempt.
const (
	resultDone    = "done"
	resultRefused = "refused"
	resultLimited = "limited"
)

// checkBasic is checkPassword for programs, which send name and password with each request: a right pair is
// checked and recorded once, and then remembered.
func (g *Guard) checkBasic(r *http.Request, name, password string) (*user, *refusal) {
	mac := hmac.New(sha256.New, g.salt)
	_, _ = fmt.Fprintf(mac, "%d %s %s", len(name), name, password) // it never fails
	pair := [sha256.Size]byte(mac.Sum(nil))
	if of, ok := g.users().byName(name); ok && g.remembers(pair, of.Password) {
		return of, nil
	}
	of, no := g.checkPassword(r, name, password)
	if no == nil {
		g.remember(pair, of.Password)
	}
	return of, no
}

// checkPassword checks a name and a password. The refusal does not tell which of the two is wrong.
func (g *Guard) checkPassword(r *http.Request, name, password string) (*user, *refusal) {
	of, _ := g.users().byName(name)
	from := g.client(r)
	if !g.tries.CountOf(from, g.deps.Now()) {
		g.logins.WithLabelValues(resultLimited).Inc()
		return nil, &refusal{status: http.StatusTooManyRequests, login: true, text: lang.T("too many attempts: wait some seconds", "尝试次数过多，请稍候再试")}
	}
	select {
	case g.hashSlots <- struct{}{}:
		defer func() { <-g.hashSlots }()
	case <-r.Context().Done():
		return nil, &refusal{status: http.StatusServiceUnavailable, text: lang.T("the server is busy: try again", "服务器繁忙，请重试")}
	}
	right := of.check(password)
	record := events.Audit{At: g.deps.Now(), Action: events.ActionLogin, By: events.ByConsole, From: from.String(), Outcome: events.OutcomeRefused}
	if of != nil { // not an unknown name: it may be a password typed into the wrong field
		record.Actor, record.Role = of.Name, string(of.Role)
	}
	if !right {
		g.logins.WithLabelValues(resultRefused).Inc()
		record.Status = http.StatusUnauthorized
		if g.records.AllowN(g.deps.Now(), 1) {
			g.record(r.Context(), record)
		}
		return nil, &refusal{status: http.StatusUnauthorized, login: true, text: lang.T("name or password is wrong", "用户名或密码错误")}
	}
	g.logins.WithLabelValues(resultDone).Inc()
	record.Outcome = events.OutcomeDone
	g.record(r.Context(), record)
	return of, nil
}

// maxRightPairs bounds the pairs that are remembered.
const maxRightPairs = 1024

func (g *Guard) remembers(pair [sha256.Size]byte, hash string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return hash != "" && g.rightPairs[pair] == hash
}

func (g *Guard) remember(pair [sha256.Size]byte, hash string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.rightPairs) >= maxRightPairs {
		clear(g.rightPairs)
	}
	g.rightPairs[pair] = hash
}

// record leaves an audit record of a login. If it can't be stored, the login goes on: this may be the
// person who repairs NATS.
func (g *Guard) record(ctx context.Context, a events.Audit) {
	log := g.deps.Log.With().Str("actor", a.Actor).Str("from", a.From).Str("outcome", a.Outcome).Logger()
	if err := bus.Record(ctx, g.js, a); err != nil {
		log.Warn().Err(err).Str("action", a.Action).Msg("failed to store audit record")
	}
	if a.Action == events.ActionLogout {
		log.Info().Msg("person logged out")
		return
	}
	log.Info().Msg("login attempted")
}

// login shows the form, and handles it when it is sent.
func (g *Guard) login(w http.ResponseWriter, r *http.Request, form string) {
	if !g.users().passwords() {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	if form == "" {
		form = rand.Text()
		setCookie(w, formCookie, form, g.secure(r), sessionLife)
	}
	switch {
	case safe(r):
		g.show(w, r, form, http.StatusOK, r.URL.Query().Get("next"), lang.Text{})
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, HEAD, POST")
		writeRefusal(w, r, refusal{status: http.StatusMethodNotAllowed, text: lang.T("want GET or POST", "应为 GET 或 POST")})
		return
	}
	next := r.PostFormValue("next")
	if !g.formValid(r, cookie(r, formCookie)) {
		g.show(w, r, form, badForm.status, next, badForm.text)
		return
	}
	of, no := g.checkPassword(r, r.PostFormValue("name"), r.PostFormValue("password"))
	if no != nil {
		g.show(w, r, form, no.status, next, no.text)
		return
	}
	setCookie(w, sessionCookie, g.users().issue(of, g.deps.Now()), g.secure(r), sessionLife)
	setCookie(w, formCookie, rand.Text(), g.secure(r), sessionLife)
	http.Redirect(w, r, LocalPath(next), http.StatusSeeOther)
}

// logout deletes the session cookie.
func (g *Guard) logout(w http.ResponseWriter, r *http.Request, form string) {
	p, known, no := g.identify(r)
	if r.Method != http.MethodPost || no != nil || known != bySession {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	if !g.formValid(r, form) {
		g.refuse(w, r, badForm)
		return
	}
	setCookie(w, sessionCookie, "", g.secure(r), 0)
	g.record(r.Context(), events.Audit{
		At: g.deps.Now(), Action: events.ActionLogout, Actor: p.Name, Role: string(p.Role), By: events.ByConsole, From: g.client(r).String(), Outcome: events.OutcomeDone,
	})
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// LocalPath returns an address if it is a path of this host, and not the form to log in; else "/".
func LocalPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || u.Path == "/login" ||
		!strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.Contains(next, `\`) {
		return "/"
	}
	return u.String()
}

// refuse answers a request that gets no page. A browser that can log in is redirected to the form.
func (g *Guard) refuse(w http.ResponseWriter, r *http.Request, no refusal) {
	if !no.login || !safe(r) || !isBrowser(r) || no.status != http.StatusUnauthorized {
		writeRefusal(w, r, no)
		return
	}
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" && cookie(r, sessionCookie) == "" {
		// A link on another site led here, so the browser did not send the session cookie (SameSite).
		// After a reload from this page it does.
		writeView(w, r, http.StatusOK, loginView{Again: true})
		return
	}
	http.Redirect(w, r, "/login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
}

func (g *Guard) show(w http.ResponseWriter, r *http.Request, form string, status int, next string, fault lang.Text) {
	// Of the cookies as the form will bring them back: this answer may set a new one.
	v := loginView{Ask: true, Next: LocalPath(next), Field: FormField, Form: formToken(r, form), Fault: fault.In(Preferred(r))}
	writeView(w, r, status, v)
}

func writeRefusal(w http.ResponseWriter, r *http.Request, no refusal) {
	if isBrowser(r) {
		writeView(w, r, no.status, loginView{Fault: no.text.In(Preferred(r))})
		return
	}
	setRetry(w, no.status)
	http.Error(w, no.text.In(Preferred(r)), no.status)
}

func setRetry(w http.ResponseWriter, status int) {
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(int(triesEvery/time.Second)))
	}
}

func writeView(w http.ResponseWriter, r *http.Request, status int, v loginView) {
	l := Preferred(r)
	v.Language = map[lang.Language]string{lang.English: "en", lang.Chinese: "zh-CN"}[l]
	v.Title = lang.T("Log in to wxtoken", "登录 wxtoken").In(l)
	if !v.Ask {
		v.Title = "wxtoken"
	}
	v.Name, v.Password, v.Enter = lang.T("Name", "用户名").In(l), lang.T("Password", "密码").In(l), lang.T("Log in", "登录").In(l)
	var out bytes.Buffer
	if err := loginTemplate.Execute(&out, v); err != nil {
		panic(fmt.Errorf("make the login page: %w", err)) // our own template and fields
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	setRetry(w, status)
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // the client may have gone
}

// matcher chooses among the languages of the page; the first is the default.
var matcher = language.NewMatcher([]language.Tag{language.English, language.Chinese, language.TraditionalChinese})

// LanguageCookie is the cookie with the language that was chosen on the page.
const LanguageCookie = "wxtoken_lang"

// Preferred returns the language of a request: the one that was chosen on the page, else the one that the browser
// prefers.
func Preferred(r *http.Request) lang.Language {
	if l := lang.Language(cookie(r, LanguageCookie)); l == lang.English || l == lang.Chinese {
		return l
	}
	tag, _ := language.MatchStrings(matcher, r.Header.Get("Accept-Language"))
	base, _ := tag.Base()
	return lang.Language(base.String())
}
