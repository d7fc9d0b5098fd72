package console

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/login"
	"wxtoken/internal/qrcode"
)

// Each button sends a request on NATS in the name of the person who pressed it: the refreshers check
// the role again, do it, and leave the record.

const (
	// actWithin bounds one request: the refreshers answer within 8 s.
	actWithin = 9 * time.Second
	// resultCookie carries the result to the page that is shown next.
	resultCookie = "wxtoken_said"
	resultLife   = time.Minute
)

// action is what a button does, and the role that it takes. do returns the result; the text of an
// *events.RequestError is shown, that of any other error is not.
type action struct {
	role login.Role
	do   func(c *Console, r *http.Request) (Result, error)
}

var actions = map[string]action{
	events.ActionRenew:     {login.Operator, ofKey(renew)},
	events.ActionReconcile: {login.Operator, ofKey(reconcile)},
	events.ActionClear:     {login.Operator, ofKey(clearQuota)},
	actionLimits:           {login.Operator, ofKey(askLimits)},
	events.ActionLink:      {login.Operator, ofKey(makeLink)},
	actionDead:             {login.Operator, handleDead},
}

// actionLimits asks WeChat for its limits. It changes nothing, so it leaves no record.
const actionLimits = "limits"

// actionDead replays or discards a dead letter, as the form says.
const actionDead = "dead"

// Person is the person who sends the request.
func (r *Request) Person() login.Person { return login.PersonOf(r.Context()) }

// Operates reports whether the person may use the buttons.
func (r *Request) Operates() bool { return r.Person().Role.May(login.Operator) }

// Reveals reports whether the person may see tokens.
func (r *Request) Reveals() bool { return r.Person().Role.May(login.Admin) }

// RoleWord is the person's role in words.
func (r *Request) RoleWord() string { return r.Say(roleWord(r.Person().Role)) }

func roleWord(role login.Role) lang.Text {
	switch role {
	case login.Reader:
		return lang.T("reader", "只读")
	case login.Operator:
		return lang.T("operator", "运维")
	case login.Admin:
		return lang.T("admin", "管理员")
	}
	return lang.Same(string(role))
}

// askAs asks the refreshers in the name of the person who sends r.
func (c *Console) askAs(r *http.Request, subject string, question, answer any) error {
	data, err := json.Marshal(question)
	if err != nil {
		return err
	}
	p := login.PersonOf(r.Context())
	m := nats.NewMsg(events.ConsoleSubject(subject))
	m.Data = data
	m.Header.Set(events.HeaderActor, p.Name)
	m.Header.Set(events.HeaderRole, string(p.Role))
	ctx, cancel := context.WithTimeout(r.Context(), actWithin)
	defer cancel()
	err = c.request(ctx, m, answer)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return events.Refused(http.StatusServiceUnavailable, lang.T("%v; whether it was done all the same, the audit tells", "%v；是否已经执行，见操作记录", err))
	}
	return err
}

// formKey reads the key of a form.
func formKey(r *http.Request) (wxtoken.Key, error) {
	key, err := wxtoken.ParseKey(r.PostFormValue("key"))
	if err != nil {
		return key, events.BadRequest(lang.T("key: want component.<appid>, or authorizer.<component_appid>.<authorizer_appid>", "key：应为 component.<appid> 或 authorizer.<component_appid>.<authorizer_appid>"))
	}
	return key, nil
}

// ofKey is what is done with the key of a form.
func ofKey(do func(*Console, *http.Request, wxtoken.Key) (Result, error)) func(*Console, *http.Request) (Result, error) {
	return func(c *Console, r *http.Request) (Result, error) {
		key, err := formKey(r)
		if err != nil {
			return Result{}, err
		}
		return do(c, r, key)
	}
}

func renew(c *Console, r *http.Request, key wxtoken.Key) (s Result, err error) {
	var v events.Verdict
	err = c.askAs(r, events.SubjectRenew, events.Renew{Key: key}, &v)
	return Result{Outcome: string(v.Outcome)}, err
}

// reconcile has WeChat asked about an account, or about all accounts of a component.
func reconcile(c *Console, r *http.Request, key wxtoken.Key) (s Result, err error) {
	var answer events.Reconciling
	err = c.askAs(r, events.SubjectReconcile, events.ReconcileRequest{Component: key.Component, Authorizer: key.Authorizer}, &answer)
	return Result{Outcome: answer.Outcome}, err
}

func clearQuota(c *Console, r *http.Request, key wxtoken.Key) (s Result, err error) {
	var answer events.QuotaAnswer
	question := events.QuotaRequest{Component: key.Component, Clear: true, Confirm: strings.TrimSpace(r.PostFormValue("confirm"))}
	err = c.askAs(r, events.SubjectQuota, question, &answer)
	return Result{Outcome: events.OutcomeDone}, err
}

// askLimits has WeChat asked how often each call may be made a day.
func askLimits(c *Console, r *http.Request, key wxtoken.Key) (s Result, err error) {
	var answer events.QuotaAnswer
	if err := c.askAs(r, events.SubjectQuota, events.QuotaRequest{Component: key.Component}, &answer); err != nil {
		return s, err
	}
	c.calls.forget(key.Component)
	if i := slices.IndexFunc(answer.APIs, func(api events.APIQuota) bool { return api.QuotaLeft == nil }); i >= 0 {
		one := answer.APIs[i]
		return s, events.Refused(http.StatusServiceUnavailable, lang.T("%s: %s", "%s：%s", one.API, one.Why()))
	}
	return Result{Outcome: events.OutcomeDone}, nil
}

func makeLink(c *Console, r *http.Request, key wxtoken.Key) (s Result, err error) {
	life, err := strconv.Atoi(r.PostFormValue("expires_in"))
	if err != nil {
		return s, events.BadRequest(lang.T("expires_in: want seconds", "expires_in：应为秒数"))
	}
	var answer events.ConnectCreated
	question := events.ConnectCreate{
		Component: key.Component, BizAppID: key.Authorizer, Ref: strings.TrimSpace(r.PostFormValue("ref")),
		Return: strings.TrimSpace(r.PostFormValue("return")), ExpiresIn: life,
	}
	err = c.askAs(r, events.SubjectConnectCreate, question, &answer)
	return Result{Outcome: events.OutcomeDone, Link: answer.URL, Until: answer.ExpiresAt}, err
}

func handleDead(c *Console, r *http.Request) (s Result, err error) {
	sequence, err := strconv.ParseUint(r.PostFormValue("sequence"), 10, 64)
	if err != nil {
		return s, events.BadRequest(lang.T("sequence: want that of a message on DEAD", "sequence：应为 DEAD 中某条消息的序号"))
	}
	var answer events.DeadAnswer
	err = c.askAs(r, events.SubjectDead, events.DeadRequest{Sequence: sequence, Do: r.PostFormValue("do")}, &answer)
	return Result{Outcome: answer.Outcome}, err
}

// act answers POST /act/{action}: it does what the button says, and redirects to the page, which
// shows the result.
func (c *Console) act(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("action")
	a, ok := actions[name]
	q := c.formRequest(r)
	switch {
	case !ok:
		c.refuse(w, Page{}, q, &Fault{http.StatusNotFound, lang.T("there is no such action", "没有这个操作")})
		return
	case !q.Person().Role.May(a.role):
		c.refuse(w, Page{}, q, forbidden(q, a.role))
		return
	}
	s, err := a.do(c, r)
	s.Action = name
	if err != nil {
		s = c.failure(name, err)
	}
	if q.format == "json" {
		c.answerResult(w, q, s)
		return
	}
	s.setCookie(w, r)
	http.Redirect(w, r, returnPath(r), http.StatusSeeOther)
}

// failure returns the result of an action that was not done.
func (c *Console) failure(name string, err error) Result {
	s := Result{Action: name, Outcome: events.OutcomeRefused, Status: http.StatusInternalServerError, Detail: lang.T("internal error, see the log", "内部错误，见日志")}
	if known, ok := errors.AsType[*events.RequestError](err); ok {
		s.Status, s.Detail = known.Code, printableText(known.Text())
		return s
	}
	c.cfg.Log.Error().Err(err).Str("action", name).Msg("failed to request action")
	return s
}

func forbidden(q *Request, wanted login.Role) *Fault {
	return &Fault{http.StatusForbidden, lang.T("your role (%s) may not do that: the role %s is needed", "您的角色（%s）没有权限，需要%s角色", roleWord(q.Person().Role), roleWord(wanted))}
}

// formRequest returns the Request of a form.
func (c *Console) formRequest(r *http.Request) *Request {
	q := &Request{Request: r, Now: c.now().UTC(), Language: login.Preferred(r), Query: url.Values{}, format: "json"}
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		q.format = "html"
	}
	return q
}

// answerResult answers a program with the result.
func (c *Console) answerResult(w http.ResponseWriter, q *Request, s Result) {
	status := http.StatusOK
	if s.Status != 0 {
		status = s.Status
	}
	text, err := json.Marshal(struct {
		Result
		Detail string `json:"detail,omitempty"`
	}{s, q.Say(s.Detail)})
	if err != nil {
		status, text = http.StatusInternalServerError, nil
	}
	c.write(w, q, status, text)
}

// returnPath returns the page that the form was on; "/" where the form names no path of ours.
func returnPath(r *http.Request) string {
	back := login.LocalPath(r.PostFormValue("back"))
	if r.PathValue("action") == actionDead && strings.HasPrefix(back, "/pushes/dead/") {
		return "/pushes?show=dead" // its page is gone
	}
	return back
}

// revealed is what the page with a token shows: the only page that holds one.
type revealed struct{ events.Revealed }

// Title is the key of the token.
func (r revealed) Title() string { return r.Key.String() }

// reveal answers POST /reveal with a page that holds the token. It does not redirect, so that no
// address, no cookie and no history has the token.
func (c *Console) reveal(w http.ResponseWriter, r *http.Request) {
	q := c.formRequest(r)
	if !q.Reveals() {
		c.refuse(w, Page{}, q, forbidden(q, login.Admin))
		return
	}
	key, err := formKey(r)
	var answer events.Revealed
	if err == nil {
		err = c.askAs(r, events.SubjectReveal, events.RevealRequest{Key: key}, &answer)
	}
	if err != nil {
		s := c.failure(events.ActionReveal, err)
		c.refuse(w, Page{}, q, &Fault{s.Status, lang.T("Not revealed: %s", "未显示：%s", s.Detail)})
		return
	}
	c.answer(w, Page{Name: "revealed", Under: "/accounts"}, q, c.index.currentMark(), revealed{answer})
}

// Result is the result of an action.
type Result struct {
	Action  string    `json:"action"`
	Outcome string    `json:"outcome"`
	Status  int       `json:"status,omitempty"` // of a refusal
	Detail  lang.Text `json:"detail,omitzero"`  // why it was refused
	Link    string    `json:"link,omitempty"`
	Until   time.Time `json:"until,omitzero"`
}

// Bad reports whether the action was not done.
func (s Result) Bad() bool { return s.Outcome == events.OutcomeRefused }

// QR is the QR code of the link.
func (s Result) QR() qrcode.Code { return qrcode.New(s.Link) }

// Text says the result in a sentence.
func (s Result) Text() lang.Text {
	if s.Bad() {
		return lang.T("Not done: %s", "未执行：%s", s.Detail)
	}
	if text, ok := outcomes[s.Outcome]; ok {
		return text
	}
	switch s.Action {
	case events.ActionClear:
		return lang.T("The quota is cleared. WeChat allows ten clearings a month.", "额度已清零。微信每月允许清零十次。")
	case actionLimits:
		return lang.T("WeChat returned its limits: they stand beside the calls of today.", "微信已返回每日上限，显示在今天的调用次数旁。")
	case events.ActionLink:
		return lang.T("The link is ready. Anyone who has it can authorize with it.", "链接已生成。拿到链接的人都可以用它授权。")
	}
	return lang.T("Done: %s", "已执行：%s", printable(s.Outcome))
}

// outcomes are the outcomes of the refreshers, in sentences.
var outcomes = map[string]lang.Text{
	string(wxtoken.OutcomeRenewing):       lang.T("The token is being renewed.", "正在续期。"),
	string(wxtoken.OutcomeAlreadyRenewed): lang.T("It was renewed just now.", "刚刚已经续期。"),
	string(wxtoken.OutcomeTooSoon): lang.T("Not renewed: the token is younger than a tenth of its life, or was renewed on demand 24 times today.",
		"未续期：令牌的已用时间不到有效期的十分之一，或今天已按需续期 24 次。"),
	string(wxtoken.OutcomeUnknownKey): lang.T("Not renewed: there is no credential for this key.", "未续期：没有这个 key 的凭据。"),
	events.ReconcileListed:            lang.T("WeChat's list is being read.", "正在读取微信的授权方列表。"),
	events.ReconcileUnchanged:         lang.T("WeChat says the same: the account is authorized.", "微信的答复与现状一致：账号已授权。"),
	events.ReconcileRecovered:         lang.T("WeChat returned another refresh token, which is stored now.", "微信返回了另一个刷新令牌，已保存。"),
	events.ReconcileCancelled:         lang.T("WeChat says that the authorization is over.", "微信答复：授权已取消。"),
	events.OutcomeReplayed:            lang.T("The message is tried again.", "消息已重放。"),
	events.OutcomeDiscarded:           lang.T("The message is discarded.", "消息已丢弃。"),
}

// setCookie hands the result to the next page in a cookie. In a parameter of the address, a link from
// elsewhere could make the page say anything.
func (s Result) setCookie(w http.ResponseWriter, r *http.Request) {
	text, err := json.Marshal(s)
	if err != nil {
		return // the action is done all the same
	}
	http.SetCookie(w, &http.Cookie{
		Name: resultCookie, Value: base64.RawURLEncoding.EncodeToString(text), Path: "/", MaxAge: int(resultLife / time.Second),
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
}

type resultKey struct{}

// withResult hands the result of the last action to the page that is shown now, once.
func withResult(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cookie, err := r.Cookie(resultCookie)
		if err != nil || r.Method != http.MethodGet || !strings.Contains(r.Header.Get("Accept"), "text/html") {
			next.ServeHTTP(w, r)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: resultCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
		var s Result
		text, err := base64.RawURLEncoding.DecodeString(cookie.Value)
		if err == nil && json.Unmarshal(text, &s) == nil {
			r = r.WithContext(context.WithValue(r.Context(), resultKey{}, &s))
		}
		next.ServeHTTP(w, r)
	})
}

// Result is the result of the last action, nil if there was none.
func (r *Request) Result() *Result {
	s, _ := r.Context().Value(resultKey{}).(*Result)
	return s
}

// Here is the address of this page, for a form that comes back to it.
func (r *Request) Here() string { return r.With() }
