package console

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/wechat"
)

// accountPage is the page of one key.
func (c *Console) accountPage() Page {
	return Page{
		Path: "/accounts/{key}", Name: "account", Under: "/accounts", Title: lang.T("Account", "账号"),
		Data: func(ctx context.Context, q *Request) (any, error) { return c.account(ctx, q) },
	}
}

// Account is what the page of one key shows, with texts in the language of the request.
type Account struct {
	At time.Time `json:"at"`
	Row
	Sentence    string                `json:"sentence"`
	Profile     []Fact                `json:"profile"`          // what WeChat says of the account
	Permissions []Granted             `json:"permission_sets"`  // the granted ones, by id
	Record      *events.AccountAnswer `json:"record,omitempty"` // nil where no refresher answers
	Messages    []MessageCount        `json:"messages"`         // on MESSAGES
	Counted     bool                  `json:"messages_known"`   // NATS told how many there are
	Tickets     []Row                 `json:"tickets"`          // those kept beside the token
}

// Fact is one line of the profile.
type Fact struct {
	Name  string `json:"name"` // WeChat's
	Label string `json:"label"`
	Value string `json:"value"`
}

// Granted is a permission set that was granted.
type Granted struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
}

// MessageCount is how many messages of a kind MESSAGES holds.
type MessageCount struct {
	MsgType string `json:"msg_type"`
	Event   string `json:"event,omitempty"`
	Count   uint64 `json:"count"`
}

// Title is the account's name.
func (a Account) Title() string { return a.DisplayName() }

// account makes the page of one key.
func (c *Console) account(ctx context.Context, q *Request) (Account, error) {
	key, err := wxtoken.ParseKey(q.PathValue("key"))
	if err != nil {
		return Account{}, badRequest(lang.T("want a key, for instance authorizer.<component_appid>.<authorizer_appid>", "请给出 key，例如 authorizer.<component_appid>.<authorizer_appid>"))
	}
	a := Account{At: q.Now, Profile: []Fact{}, Permissions: []Granted{}, Messages: []MessageCount{}, Tickets: []Row{}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		a.Row, err = c.rowOf(ctx, q, key)
		return err
	})
	group.Go(func() error {
		var record events.AccountAnswer
		if c.ask(ctx, events.SubjectAccount, events.AccountRequest{Key: key}, &record) == nil { // without an answer the page says so
			a.Record = &record
		}
		return nil
	})
	if key.Kind == wxtoken.KindAuthorizer {
		group.Go(func() error {
			a.Messages, a.Counted = c.messagesOf(ctx, key)
			return nil
		})
		group.Go(func() (err error) {
			a.Tickets, err = c.ticketsOf(ctx, q, key)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Account{}, err
	}
	if a.TokenSHA256 == "" && a.State == "" && a.Record == nil {
		return Account{}, &Fault{http.StatusNotFound, lang.T("no record of %s", "没有 %s 的任何记录", key)}
	}
	a.Sentence = q.Say(accountSentence(a.Row, q.Now))
	if s := a.status.Authorizer; s != nil {
		a.Profile = profileFacts(s.Profile, q)
		for _, id := range slices.Sorted(slices.Values(s.FuncInfo)) {
			a.Permissions = append(a.Permissions, Granted{id, q.Say(wechat.NamePermissionSet(id).Name)})
		}
	}
	return a, nil
}

// ticketsOf returns the tickets that are kept beside the token of an account.
func (c *Console) ticketsOf(ctx context.Context, q *Request, key wxtoken.Key) ([]Row, error) {
	rows, err := c.rowsOf(ctx, q, []wxtoken.Key{
		wxtoken.JSAPITicketKey(key.Component, key.Authorizer), wxtoken.WxCardTicketKey(key.Component, key.Authorizer),
	})
	return slices.DeleteFunc(rows, func(r Row) bool { return r.TokenSHA256 == "" && r.State == "" }), err
}

// messagesOf counts the messages of an account on MESSAGES, by kind, most first; known is false where NATS
// does not tell.
func (c *Console) messagesOf(ctx context.Context, key wxtoken.Key) (counts []MessageCount, known bool) {
	counts = []MessageCount{}
	stream, err := c.js.Stream(ctx, events.StreamMessages)
	if err != nil {
		return counts, false
	}
	filter := events.Kind{Component: key.Component, AppID: key.Authorizer, MsgType: "*"}.Filters()[0]
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return counts, false
	}
	for subject, n := range info.State.Subjects {
		if kind, ok := events.ParseKind(subject); ok {
			counts = append(counts, MessageCount{kind.MsgType, kind.Event, n})
		}
	}
	slices.SortFunc(counts, func(a, b MessageCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.MsgType, b.MsgType), cmp.Compare(a.Event, b.Event))
	})
	return counts, true
}

// accountSentence says whether a key can call WeChat, and why.
func accountSentence(r Row, now time.Time) lang.Text {
	if account.Derived(r.Key) {
		return ticketSentence(r, now)
	}
	switch {
	case r.State == wxtoken.StateRevoked:
		return lang.T("The merchant cancelled the authorization: nothing is renewed.", "商家已取消授权：不再续期。")
	case r.Valid && r.Held != nil && r.Key.Kind == wxtoken.KindComponent:
		return lang.T("It can call WeChat now. Renewals are held back: %s.", "目前可以调用微信。续期暂缓：%s。", heldText(*r.Held, now))
	case r.Valid && r.State == wxtoken.StateActive:
		return lang.T("It can call WeChat. The next renewal is due %s.", "可以调用微信。下次续期在 %s。", apart(r.RenewAt, now))
	case r.Valid:
		return lang.T("It can call WeChat until its token expires, %s: %s.", "在令牌到期（%s）之前可以调用微信：%s。", apart(r.ExpiresAt, now), readyReason(r, now))
	case r.TokenSHA256 == "":
		return lang.T("It can't call WeChat because it has no token: %s.", "没有令牌，无法调用微信：%s。", readyReason(r, now))
	}
	return lang.T("It can't call WeChat: its token expired %s: %s.", "令牌已在 %s过期，无法调用微信：%s。", apart(r.ExpiresAt, now), readyReason(r, now))
}

// ticketSentence says whether a JS ticket or a card ticket is valid, and why.
func ticketSentence(r Row, now time.Time) lang.Text {
	if r.Valid {
		return lang.T("The %s is valid. It is checked again %s.", "%s 有效，%s再次检查。", r.Key.Kind, apart(r.RenewAt, now))
	}
	return lang.T("There is no valid %s: %s.", "没有有效的 %s：%s。", r.Key.Kind, readyReason(r, now))
}

// readyReason says why the token is as it is.
func readyReason(r Row, now time.Time) lang.Text {
	switch c := r.Ready(); {
	case r.Held != nil:
		return heldText(*r.Held, now)
	case c.Status == "False", c.Reason != "" && r.State == wxtoken.StateActive:
		return reasonWord(c.Reason)
	case !r.Valid && r.TokenSHA256 != "":
		return reasonWord(wxtoken.ReasonExpired)
	}
	return stateWord(string(r.State))
}

// The meaning of WeChat's numbers (page "api_get_authorizer_info").
var (
	serviceTypes = map[int]lang.Text{
		0: lang.T("subscription account", "订阅号"),
		1: lang.T("subscription account, upgraded from an old one", "由历史老账号升级的订阅号"),
		2: lang.T("service account", "服务号"),
	}
	programTypes = map[int]lang.Text{
		0: lang.T("mini program", "小程序"), 2: lang.T("mini program", "小程序"), 4: lang.T("mini game", "小游戏"),
		10: lang.T("mini shop", "小商店"), 12: lang.T("trial mini program", "试用小程序"),
	}
	verifyTypes = map[int]lang.Text{
		-1: lang.T("not verified", "未认证"), 0: lang.T("verified by WeChat", "微信认证"),
	}
	accountStatuses = map[int]lang.Text{
		1: lang.T("normal", "正常"), 14: lang.T("deregistered", "已注销"), 16: lang.T("banned", "已封禁"),
		18: lang.T("warned", "已告警"), 19: lang.T("frozen", "已冻结"),
	}
)

// profileFacts puts WeChat's profile into words.
func profileFacts(profile map[string]json.RawMessage, q *Request) []Fact {
	facts := []Fact{}
	add := func(name string, label lang.Text, value string) {
		if value != "" {
			facts = append(facts, Fact{name, q.Say(label), printable(value)})
		}
	}
	number := func(name string) (n int, ok bool) {
		var id struct {
			ID *int `json:"id"`
		}
		if json.Unmarshal(profile[name], &id) == nil && id.ID != nil {
			return *id.ID, true
		}
		return n, json.Unmarshal(profile[name], &n) == nil && len(profile[name]) > 0
	}
	meant := func(name string, label lang.Text, words map[int]lang.Text, otherwise lang.Text) {
		if n, ok := number(name); ok {
			word, known := words[n]
			if !known {
				word = lang.T("%s (%d)", "%s（%d）", otherwise, n)
			}
			add(name, label, q.Say(word))
		}
	}
	types := serviceTypes
	if _, program := profile["MiniProgramInfo"]; program {
		types = programTypes
	}
	meant("service_type_info", lang.T("Kind", "类型"), types, lang.T("another kind", "其他类型"))
	add("principal_name", lang.T("Company", "主体"), jsonString(profile["principal_name"]))
	meant("verify_type_info", lang.T("Verification", "认证"), verifyTypes, lang.T("verified in part", "部分认证"))
	meant("account_status", lang.T("Account status", "账号状态"), accountStatuses, lang.T("another state", "其他状态"))
	add("alias", lang.T("WeChat ID", "微信号"), jsonString(profile["alias"]))
	add("user_name", lang.T("Original ID", "原始 ID"), jsonString(profile["user_name"]))
	add("signature", lang.T("Description", "简介"), jsonString(profile["signature"]))
	return facts
}

// renewalReasons say why a token was fetched.
var renewalReasons = map[string]lang.Text{
	events.ReasonScheduled:   lang.T("renewal was due", "到期续期"),
	events.ReasonSwept:       lang.T("found overdue", "巡检发现逾期"),
	events.ReasonRefused:     lang.T("WeChat refused the one before", "微信拒绝了上一个令牌"),
	events.ReasonTicket:      lang.T("a ticket came", "收到验证票据"),
	events.ReasonListed:      lang.T("found on WeChat's list", "来自微信的授权方列表"),
	events.ReasonOverlap:     lang.T("two calls had overlapped", "两次调用重叠"),
	events.ReasonAsked:       lang.T("an operator asked", "运维人员要求"),
	events.ReasonDerived:     lang.T("the ticket is kept beside the token", "随令牌一起保管"),
	events.ReasonImported:    lang.T("moved in from another keeper", "从其他系统迁入"),
	account.ReasonAuthorized: lang.T("the merchant authorized", "商家授权"),
}

// renewalReason returns the words for a reason.
func renewalReason(reason string) lang.Text {
	if text, ok := renewalReasons[reason]; ok {
		return text
	}
	return lang.Same(printable(reason))
}

// duration writes milliseconds for people.
func duration(ms int64) string {
	switch d := time.Duration(ms) * time.Millisecond; {
	case d < time.Second:
		return strconv.FormatInt(ms, 10) + " ms"
	case d < 2*time.Minute:
		return strings.TrimSuffix(strconv.FormatFloat(d.Seconds(), 'f', 1, 64), ".0") + " s"
	default:
		return d.Round(time.Second).String()
	}
}
