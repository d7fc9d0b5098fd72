package console

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
)

// accountPage is the page of one key.
func (c *Console) accountPage() Page {
	return Page{
		Path: "/accounts/{key}", Name: "account", Under: "/accounts", Title: lang.T("Account", "账号"),
		Data: func(ctx context.Context, q *Request) (any, error) { return c.account(ctx, q) },
	}
}

// Account is what the page of one key shows.
type Account struct {
	At time.Time `json:"at"`
	Row
	Sentence string `json:"sentence"` // in the language of the request
}

// Title is the account's name.
func (a Account) Title() string {
	if a.Name != "" {
		return printable(a.Name)
	}
	return a.Key.String()
}

func (c *Console) account(ctx context.Context, q *Request) (Account, error) {
	key, err := wxtoken.ParseKey(q.PathValue("key"))
	if err != nil {
		return Account{}, badRequest(lang.T("want a key, for instance authorizer.<component_appid>.<authorizer_appid>", "请给出键，例如 authorizer.<component_appid>.<authorizer_appid>"))
	}
	row, err := c.rowOf(ctx, q, key)
	if err != nil {
		return Account{}, err
	}
	if row.TokenSHA256 == "" && row.State == "" {
		return Account{}, &Fault{http.StatusNotFound, lang.T("nothing is known of %s", "没有 %s 的任何记录", key)}
	}
	a := Account{At: q.Now, Row: row}
	a.Sentence = q.Say(accountSentence(row, q.Now))
	return a, nil
}

// accountSentence says how an account is.
func accountSentence(r Row, now time.Time) lang.Text {
	switch {
	case r.State == wxtoken.StateRevoked:
		return lang.T("The merchant cancelled the authorization: nothing is renewed.", "商家已取消授权：不再续期。")
	case r.Valid && r.State == wxtoken.StateActive:
		return lang.T("It can call WeChat, and its token is renewed %s.", "可以调用微信，令牌将在 %s续期。", apart(r.RenewAt, now))
	case r.Valid:
		return lang.T("It can call WeChat until its token ends %s: %s.", "目前可以调用微信，令牌 %s到期：%s。", apart(r.ExpiresAt, now), readyReason(r))
	case r.TokenSHA256 == "":
		return lang.T("It has no token: %s.", "没有令牌：%s。", readyReason(r))
	}
	return lang.T("It can't call WeChat: its token ended %s. %s.", "无法调用微信：令牌已于 %s过期。%s。", apart(r.ExpiresAt, now), readyReason(r))
}

// readyReason says why the token is as it is.
func readyReason(r Row) lang.Text {
	for _, c := range r.Conditions {
		if c.Type == wxtoken.ConditionReady && (c.Status == "False" || r.State == wxtoken.StateActive) {
			return reasonWord(c.Reason)
		}
	}
	return lang.T("state %s", "状态：%s", stateWord(fmt.Sprint(r.State)))
}
