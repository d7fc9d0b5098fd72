package links

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

const (
	// preAuthLeft is how much life a pre-auth code must have left to be shown again.
	preAuthLeft = 5 * time.Minute
	// preAuthTries is how often a pre-auth code is asked for while a page is being made,
	// preAuthPause the time between two tries.
	preAuthTries = 3
	preAuthPause = 200 * time.Millisecond
)

// Open takes one step of a link: the answer to wxtoken.connect.open, which ingest sends.
func (l *Links) Open(ctx context.Context, q events.ConnectOpen) (events.ConnectOpened, error) {
	if q.ID == "" || len(q.ID) > 64 || !wxtoken.ValidAppID(q.ID) { // ids have the characters of appids
		return events.ConnectOpened{}, events.Refused(http.StatusNotFound, lang.T("no such link", "没有这个链接"))
	}
	if q.Step == "" || q.Step == events.StepLanding {
		return l.landing(ctx, q)
	}
	for {
		c, err := l.load(ctx, q.ID)
		if err != nil {
			return events.ConnectOpened{}, err
		}
		opened, err := l.step(ctx, c, q)
		if !errors.Is(err, store.ErrLost) || ctx.Err() != nil {
			return opened, err
		}
	}
}

// load returns the link of a request.
func (l *Links) load(ctx context.Context, id string) (store.Connect, error) {
	c, ok, err := l.Store().Connect(ctx, id)
	if err == nil && !ok {
		err = events.Refused(http.StatusNotFound, lang.T("no such link", "没有这个链接"))
	}
	return c, err
}

var errLinkOver = events.Refused(http.StatusGone, lang.T("the link was used or has expired", "链接已使用或已过期"))

func (l *Links) opened(c store.Connect) events.ConnectOpened {
	return events.ConnectOpened{State: c.State, Component: c.Component, URL: l.url(c)}
}

// over returns the answer for a link that this browser can't use any more. An ingest of an earlier
// version does not set q.Over and would take that answer for a usable link, so it gets an error.
func (l *Links) over(ctx context.Context, c store.Connect, q events.ConnectOpen, why string) (events.ConnectOpened, error) {
	if !q.Over {
		return l.opened(c), errLinkOver
	}
	opened := l.ended(ctx, c)
	opened.Over, opened.ExpiresAt = why, c.ExpiresAt
	return opened, nil
}

// ended returns the state of a link, and of its account.
func (l *Links) ended(ctx context.Context, c store.Connect) events.ConnectOpened {
	opened := l.opened(c)
	opened.CodeAt, opened.EndedAt, opened.Authorizer, opened.Reason = c.CodeAt, c.EndedAt, c.Authorizer, c.Reason
	if c.Authorizer != "" {
		key := wxtoken.AuthorizerKey(c.Component, c.Authorizer)
		opened.NickName = l.nickName(ctx, key)
		cred, err := l.Store().Credential(ctx, key) // the page is shown even if it can't be read
		opened.Lapsed = err == nil && c.State == events.ConnectAuthorized && (!cred.RevokedAt.IsZero() || cred.AuthorizationNeeded)
	}
	return opened
}

// whyOver returns why a link's landing page does not lead to WeChat any more, "" while it does.
func whyOver(c store.Connect, now time.Time) string {
	switch {
	case c.State == events.ConnectExchanging:
		return events.OverBusy
	case c.State != events.ConnectPending:
		return events.OverEnded
	case now.After(c.ExpiresAt):
		return events.OverExpired
	}
	return ""
}

// landing returns the answer for the page that leads to WeChat. Concurrent requests for a link
// share one call to WeChat: anybody can load the page many times.
func (l *Links) landing(ctx context.Context, q events.ConnectOpen) (events.ConnectOpened, error) {
	shared, err, _ := l.landings.Do(q.ID, func() (any, error) {
		for {
			c, err := l.load(ctx, q.ID)
			if err == nil && whyOver(c, l.Now()) == "" {
				c, err = l.preAuth(ctx, c)
			}
			if !errors.Is(err, store.ErrLost) || ctx.Err() != nil { // ErrLost: another refresher was faster
				return c, err
			}
		}
	})
	if err != nil {
		return events.ConnectOpened{}, err
	}
	c := shared.(store.Connect)
	if why := whyOver(c, l.Now()); why != "" {
		return l.over(ctx, c, q, why)
	}
	opened := l.opened(c)
	link := wechat.LinkParams{
		Component: c.Component, PreAuthCode: c.PreAuthCode, RedirectURI: opened.URL + "/callback",
		AuthType: c.AuthType, BizAppID: c.BizAppID, Categories: c.Categories,
	}
	opened.Session, opened.PCLink, opened.MobileLink = newSession(c), link.PC(l.WechatPageURL), link.Mobile(l.WechatPageURL)
	opened.AuthType, opened.BizAppID, opened.ExpiresAt = c.AuthType, c.BizAppID, c.ExpiresAt
	opened.CategoryIDs, _ = events.ParseCategory(c.Categories) // can't fail: the text is from String
	if c.BizAppID != "" {
		opened.NickName = l.nickName(ctx, wxtoken.AuthorizerKey(c.Component, c.BizAppID))
	}
	return opened, nil
}

// newSession returns a session for one browser: unique and signed, so that nothing needs to be
// stored.
func newSession(c store.Connect) string {
	visit := rand.Text()
	return visit + "." + sessionSum(c, visit)
}

func isSession(c store.Connect, session string) bool {
	visit, sum, _ := strings.Cut(session, ".")
	return hmac.Equal([]byte(sum), []byte(sessionSum(c, visit)))
}

func sessionSum(c store.Connect, visit string) string {
	mac := hmac.New(sha256.New, []byte(c.Secret))
	mac.Write([]byte(c.ID + visit)) // unambiguous: all ids have the same length
	return hex.EncodeToString(mac.Sum(nil))
}

// step takes a step of a link after the first. It returns ErrLost if another request took one
// meanwhile.
func (l *Links) step(ctx context.Context, c store.Connect, q events.ConnectOpen) (events.ConnectOpened, error) {
	now := l.Now()
	opened := l.opened(c)
	if !isSession(c, q.Session) {
		return opened, events.Refused(http.StatusForbidden, lang.T("this browser did not open the link", "打开链接的不是这个浏览器"))
	}
	expired := now.After(c.ExpiresAt) && now.After(c.PreAuthExpiresAt)
	switch q.Step {
	case events.StepCallback:
		switch {
		case !events.IsDigest(q.CodeSHA256):
			return opened, events.BadRequest(lang.T("code_sha256: want the hex SHA-256 of the code", "code_sha256：应为授权码的 SHA-256（十六进制）"))
		case strings.EqualFold(c.CodeDigest, q.CodeSHA256): // the same code again: the back button, or a reload
		case c.CodeDigest != "" && !codeFailed(c):
			why := events.OverBusy
			if c.State != events.ConnectExchanging {
				why = events.OverEnded
			}
			return l.over(ctx, c, q, why)
		case expired:
			return l.over(ctx, c, q, events.OverExpired)
		default:
			c.CodeDigest, c.CodeAt = strings.ToLower(q.CodeSHA256), now.UTC()
			if c.Authorizer == "" { // if it is set, the push came first
				c.State, c.Reason, c.EndedAt, c.SpentAt = events.ConnectExchanging, "", time.Time{}, time.Time{}
			}
			if _, err := l.Store().SaveConnect(ctx, c, now); err != nil {
				return opened, err
			}
		}
	case events.StepResult:
		if c.State == events.ConnectPending && expired {
			return l.over(ctx, c, q, events.OverExpired)
		}
	default:
		return opened, events.BadRequest(lang.T("step: want %s, %s or %s", "step：应为 %s、%s 或 %s", events.StepLanding, events.StepCallback, events.StepResult))
	}
	opened = l.ended(ctx, c)
	if c.State == events.ConnectAuthorized && c.Return != "" {
		opened.ReturnTo = returnTo(c)
	}
	return opened, nil
}

// codeFailed reports whether a link's code is known to be bad. A bad code must not block the next
// one: any browser that has the link can open it and come back with nonsense.
func codeFailed(c store.Connect) bool {
	return c.Authorizer == "" && (c.State == events.ConnectFailed || !c.SpentAt.IsZero())
}

// preAuth returns the link with a pre-auth code that is valid for a while. An earlier one is used
// again, so that a page that is loaded a hundred times costs one call to WeChat.
func (l *Links) preAuth(ctx context.Context, c store.Connect) (store.Connect, error) {
	now := l.Now()
	if c.PreAuthCode != "" && c.PreAuthExpiresAt.Sub(now) > preAuthLeft {
		return c, nil
	}
	calls, ok := l.Gate(c.Component)
	if !ok {
		return c, events.UnknownComponent(c.Component)
	}
	var code wechat.PreAuthCode
	var err error
	for try := range preAuthTries { // a person is waiting, so a busy WeChat is asked again soon
		turn, held := calls.Admit(ctx, gate.Call{API: wechat.APICreatePreAuthCode})
		if held != nil {
			return c, held
		}
		err = turn.Make(ctx, func(token string) (err error) {
			code, err = l.WeChat.CreatePreAuthCode(ctx, token, c.Component)
			return err
		})
		if err == nil || wechat.Judge(err) != wechat.Retry || try == preAuthTries-1 {
			break
		}
		select {
		case <-ctx.Done():
			return c, fmt.Errorf("get a pre-auth code: %w", err)
		case <-time.After(preAuthPause):
		}
	}
	if err != nil {
		return c, fmt.Errorf("get a pre-auth code: %w", err)
	}
	c.PreAuthCode, c.PreAuthExpiresAt = code.Code, now.Add(code.ExpiresIn).UTC()
	if c.OpenedAt.IsZero() {
		c.OpenedAt = now.UTC()
	}
	// Indexed first: once the merchant has the code, its push may come.
	if err := l.Store().IndexConnect(ctx, c, now); err != nil {
		return c, err
	}
	return l.Store().SaveConnect(ctx, c, now)
}

func (l *Links) nickName(ctx context.Context, key wxtoken.Key) string {
	s, _, err := l.Store().Status(ctx, key)
	if err != nil || s.Authorizer == nil {
		return ""
	}
	var name string
	_ = json.Unmarshal(s.Authorizer.Profile["nick_name"], &name) // a missing name is not a fault
	return name
}

// returnTo returns the caller's address with the result in its query.
func returnTo(c store.Connect) string {
	u, err := url.Parse(c.Return)
	if err != nil {
		return "" // never: it was parsed when the link was made
	}
	v := u.Query()
	v.Set("component_appid", c.Component)
	v.Set("authorizer_appid", c.Authorizer)
	if c.Ref != "" {
		v.Set("ref", c.Ref)
	}
	u.RawQuery = v.Encode()
	return u.String()
}
