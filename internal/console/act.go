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
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/login"
	"wxtoken/internal/qrcode"
)

// Everything that a button does is a request on NATS, for the person who pressed it: the refreshers
// look at the role again, do it, and leave the record.

const (
	// actWithin bounds one request: the refreshers answer within 8 s.
	actWithin = 9 * time.Second
	// saidCookie keeps what came of it for the page that is shown next.
	saidCookie = "wxtoken_said"
	saidFor    = time.Minute
)

// action is what a button does. do returns what is said of it; an error that is an
// *events.RequestError is said, too.
type action struct {
	role login.Role
	do   func(c *Console, r *http.Request) (Said, error)
}

var actions = map[string]action{
	events.ActionRenew:     {login.Operator, renew},
	events.ActionReconcile: {login.Operator, compare},
	events.ActionClear:     {login.Operator, clearQuota},
	actionLimits:           {login.Operator, askLimits},
	events.ActionLink:      {login.Operator, makeLink},
	actionDead:             {login.Operator, dead},
}

// actionLimits has WeChat asked for its limits. It changes nothing, so the audit does not have it.
const actionLimits = "limits"

// actionDead is replay or discard, as the form says.
const actionDead = "dead"

// Person is whose request it is.
func (r *Request) Person() login.Person { return login.PersonOf(r.Context()) }

// Operates reports whether the person may have things done.
func (r *Request) Operates() bool { return r.Person().Role.May(login.Operator) }

// Reveals reports whether the person may see tokens.
func (r *Request) Reveals() bool { return r.Person().Role.May(login.Admin) }

// RoleWord is the person's role.
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

// askFor asks the refreshers for the person whose request r is.
func (c *Console) askFor(r *http.Request, subject string, question, answer any) error {
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
	reply, err := c.cfg.NATS.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return events.Refused(http.StatusServiceUnavailable, "no refresher answers")
	case err != nil:
		return events.Refused(http.StatusServiceUnavailable, "no answer from the refreshers: %v", err)
	}
	if code, err := strconv.Atoi(reply.Header.Get(micro.ErrorCodeHeader)); err == nil {
		return events.Refused(code, "%s", reply.Header.Get(micro.ErrorHeader))
	}
	if err := json.Unmarshal(reply.Data, answer); err != nil {
		return errors.New("the refresher's answer can't be read")
	}
	return nil
}

// keyOf reads the key of a form.
func keyOf(r *http.Request) (wxtoken.Key, error) {
	key, err := wxtoken.ParseKey(r.PostFormValue("key"))
	if err != nil {
		return key, events.BadRequest("key: want component.<appid>, or authorizer.<component_appid>.<authorizer_appid>")
	}
	return key, nil
}

func renew(c *Console, r *http.Request) (s Said, err error) {
	key, err := keyOf(r)
	if err != nil {
		return s, err
	}
	var v events.Verdict
	err = c.askFor(r, events.SubjectRenew, events.Renew{Key: key}, &v)
	return Said{Outcome: string(v.Outcome)}, err
}

// compare has WeChat asked: for an account by itself, for a component for all of them.
func compare(c *Console, r *http.Request) (s Said, err error) {
	key, err := keyOf(r)
	if err != nil {
		return s, err
	}
	var answer events.Reconciling
	err = c.askFor(r, events.SubjectReconcile, events.ReconcileRequest{Component: key.Component, Authorizer: key.Authorizer}, &answer)
	return Said{Outcome: answer.Outcome}, err
}

func clearQuota(c *Console, r *http.Request) (s Said, err error) {
	key, err := keyOf(r)
	if err != nil {
		return s, err
	}
	var answer events.QuotaAnswer
	question := events.QuotaRequest{Component: key.Component, Clear: true, Confirm: strings.TrimSpace(r.PostFormValue("confirm"))}
	err = c.askFor(r, events.SubjectQuota, question, &answer)
	return Said{Outcome: events.OutcomeDone}, err
}

// askLimits has WeChat asked what each call may be made a day.
func askLimits(c *Console, r *http.Request) (s Said, err error) {
	key, err := keyOf(r)
	if err != nil {
		return s, err
	}
	var answer events.QuotaAnswer
	if err := c.askFor(r, events.SubjectQuota, events.QuotaRequest{Component: key.Component}, &answer); err != nil {
		return s, err
	}
	c.calls.forget(key.Component)
	if i := slices.IndexFunc(answer.APIs, func(api events.APIQuota) bool { return api.QuotaLeft == nil }); i >= 0 {
		return s, events.Refused(http.StatusServiceUnavailable, "%s: %s", answer.APIs[i].API, answer.APIs[i].Error)
	}
	return Said{Outcome: events.OutcomeDone}, nil
}

func makeLink(c *Console, r *http.Request) (s Said, err error) {
	key, err := keyOf(r)
	if err != nil {
		return s, err
	}
	life, err := strconv.Atoi(r.PostFormValue("expires_in"))
	if err != nil {
		return s, events.BadRequest("expires_in: want seconds")
	}
	var answer events.ConnectCreated
	question := events.ConnectCreate{
		Component: key.Component, BizAppID: key.Authorizer, Ref: strings.TrimSpace(r.PostFormValue("ref")),
		Return: strings.TrimSpace(r.PostFormValue("return")), ExpiresIn: life,
	}
	err = c.askFor(r, events.SubjectConnectCreate, question, &answer)
	return Said{Outcome: events.OutcomeDone, Link: answer.URL, Until: answer.ExpiresAt}, err
}

func dead(c *Console, r *http.Request) (s Said, err error) {
	sequence, err := strconv.ParseUint(r.PostFormValue("sequence"), 10, 64)
	if err != nil {
		return s, events.BadRequest("sequence: want that of a message on DEAD")
	}
	var answer events.DeadAnswer
	err = c.askFor(r, events.SubjectDead, events.DeadRequest{Sequence: sequence, Do: r.PostFormValue("do")}, &answer)
	return Said{Outcome: answer.Outcome}, err
}

// act answers POST /act/{action}: it does what the button says, and leads back to the page, which
// says what came of it.
func (c *Console) act(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("action")
	a, ok := actions[name]
	q := c.posted(r)
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
		s = c.notDone(name, err)
	}
	if q.format == "json" {
		c.answerSaid(w, q, s)
		return
	}
	s.keep(w, r)
	http.Redirect(w, r, backTo(r), http.StatusSeeOther)
}

// notDone says why something was not done.
func (c *Console) notDone(name string, err error) Said {
	s := Said{Action: name, Outcome: events.OutcomeRefused, Status: http.StatusInternalServerError, Detail: "it could not be asked for"}
	if known, ok := errors.AsType[*events.RequestError](err); ok {
		s.Status, s.Detail = known.Code, known.Description
		return s
	}
	c.cfg.Log.Error().Err(err).Str("action", name).Msg("failed to ask for an action")
	return s
}

func forbidden(q *Request, wanted login.Role) *Fault {
	return &Fault{http.StatusForbidden, lang.T("your role (%s) may not do that: it takes the role %s", "您的角色（%s）没有权限，需要角色%s", roleWord(q.Person().Role), roleWord(wanted))}
}

// posted is the Request of a form.
func (c *Console) posted(r *http.Request) *Request {
	q := &Request{Request: r, Now: c.now().UTC(), Language: spoken(r), Query: url.Values{}, format: "json"}
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		q.format = "html"
	}
	return q
}

// answerSaid tells a program.
func (c *Console) answerSaid(w http.ResponseWriter, q *Request, s Said) {
	status := http.StatusOK
	if s.Status != 0 {
		status = s.Status
	}
	text, err := json.Marshal(s)
	if err != nil {
		status, text = http.StatusInternalServerError, nil
	}
	c.write(w, q, status, text)
}

// backTo returns the page that a form was on.
func backTo(r *http.Request) string {
	back := r.PostFormValue("back")
	u, err := url.Parse(back)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || !strings.HasPrefix(back, "/") || strings.HasPrefix(back, "//") || strings.Contains(back, `\`) {
		return "/"
	}
	if r.PathValue("action") == actionDead && strings.HasPrefix(u.Path, "/pushes/dead/") {
		return "/pushes?show=dead" // its page is gone
	}
	return u.String()
}

// revealed is what the page with a token shows. It is the one page that has one.
type revealed struct{ events.Revealed }

// Title says whose it is.
func (r revealed) Title() string { return r.Key.String() }

// reveal answers POST /reveal with a token: with a page, not with a way to one, so that no address,
// no cookie and no history has it.
func (c *Console) reveal(w http.ResponseWriter, r *http.Request) {
	q := c.posted(r)
	if !q.Reveals() {
		c.refuse(w, Page{}, q, forbidden(q, login.Admin))
		return
	}
	key, err := keyOf(r)
	var answer events.Revealed
	if err == nil {
		err = c.askFor(r, events.SubjectReveal, events.RevealRequest{Key: key}, &answer)
	}
	if err != nil {
		s := c.notDone(events.ActionReveal, err)
		c.refuse(w, Page{}, q, &Fault{s.Status, lang.T("Not revealed: %s", "未显示：%s", s.Detail)})
		return
	}
	c.answer(w, Page{Name: "revealed", Under: "/accounts"}, q, c.index.current(), revealed{answer})
}

// Said is what came of an action.
type Said struct {
	Action  string    `json:"action"`
	Outcome string    `json:"outcome"`
	Status  int       `json:"status,omitempty"` // of a refusal
	Detail  string    `json:"detail,omitempty"` // of a refusal: why
	Link    string    `json:"link,omitempty"`
	Until   time.Time `json:"until,omitzero"`
}

// Bad reports whether it was not done.
func (s Said) Bad() bool { return s.Outcome == events.OutcomeRefused }

// QR is the code of the link.
func (s Said) QR() qrcode.Code { return qrcode.New(s.Link) }

// Text says it.
func (s Said) Text() lang.Text {
	if s.Bad() {
		return lang.T("Not done: %s", "未执行：%s", printable(s.Detail))
	}
	if text, ok := outcomes[s.Outcome]; ok {
		return text
	}
	switch s.Action {
	case events.ActionClear:
		return lang.T("The quota is cleared. WeChat allows ten clearings a month.", "额度已清零。微信每月允许清零十次。")
	case actionLimits:
		return lang.T("WeChat told its limits: they stand beside the calls of today.", "微信已返回每日上限，显示在今天的调用次数旁。")
	case events.ActionLink:
		return lang.T("The link is made. Anybody who has it can authorize with it.", "链接已生成。拿到链接的人都可以用它授权。")
	}
	return lang.T("Done: %s", "已执行：%s", printable(s.Outcome))
}

// outcomes are the answers' own words.
var outcomes = map[string]lang.Text{
	string(wxtoken.OutcomeRenewing):       lang.T("The token is being renewed.", "正在续期。"),
	string(wxtoken.OutcomeAlreadyRenewed): lang.T("It was renewed just now.", "刚刚已经续期。"),
	string(wxtoken.OutcomeTooSoon): lang.T("Not renewed: the token is younger than a tenth of its life, or was renewed on demand 24 times today.",
		"未续期：令牌的已用时间不到有效期的十分之一，或今天已按要求续期 24 次。"),
	string(wxtoken.OutcomeUnknownKey): lang.T("Not renewed: there is nothing to renew it with.", "未续期：没有可用来续期的凭据。"),
	events.ReconcileListed:            lang.T("WeChat's list is being read.", "正在读取微信的授权方列表。"),
	events.ReconcileUnchanged:         lang.T("WeChat says the same: the account is authorized.", "微信的答复与现状一致：账号已授权。"),
	events.ReconcileRecovered:         lang.T("WeChat told another refresh token, which is kept now.", "微信返回了另一个刷新令牌，已保存。"),
	events.ReconcileCancelled:         lang.T("WeChat says that the authorization is over.", "微信答复：授权已取消。"),
	events.OutcomeReplayed:            lang.T("The message is tried again.", "消息已重放。"),
	events.OutcomeDiscarded:           lang.T("The message is discarded.", "消息已丢弃。"),
}

// keep has the next page say it: in a cookie, for an address that says something could be made by
// anybody.
func (s Said) keep(w http.ResponseWriter, r *http.Request) {
	text, err := json.Marshal(s)
	if err != nil {
		return // the action is done all the same
	}
	http.SetCookie(w, &http.Cookie{
		Name: saidCookie, Value: base64.RawURLEncoding.EncodeToString(text), Path: "/", MaxAge: int(saidFor / time.Second),
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
}

type saidKey struct{}

// saying hands what the last action came to to the page that is shown now, once.
func saying(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cookie, err := r.Cookie(saidCookie)
		if err != nil || r.Method != http.MethodGet || !strings.Contains(r.Header.Get("Accept"), "text/html") {
			next.ServeHTTP(w, r)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: saidCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
		var s Said
		text, err := base64.RawURLEncoding.DecodeString(cookie.Value)
		if err == nil && json.Unmarshal(text, &s) == nil {
			r = r.WithContext(context.WithValue(r.Context(), saidKey{}, &s))
		}
		next.ServeHTTP(w, r)
	})
}

// Said is what the last action came to, nil if there was none.
func (r *Request) Said() *Said {
	s, _ := r.Context().Value(saidKey{}).(*Said)
	return s
}

// Here is the address of the page, to come back to.
func (r *Request) Here() string { return r.With() }
