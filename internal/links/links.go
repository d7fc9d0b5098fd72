package links

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/singleflight"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/lang"
	"wxtoken/internal/settings"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// Links makes and changes authorization links. Its methods may be called from several goroutines,
// and in any number of processes: records change only by compare-and-set.
type Links struct {
	Settings
	ID     string // names this process in its claims
	WeChat *wechat.Client
	Log    zerolog.Logger
	Now    func() time.Time
	// Called each time: there is another store after data was lost.
	Store func() *store.Store
	Gate  func(component string) (g *gate.Gate, ok bool) // of a component; ok is false if it is not in the settings

	landings singleflight.Group
}

// Life of an authorization link.
const (
	connectLife    = 30 * time.Minute
	minConnectLife = time.Minute
	maxConnectLife = 30 * 24 * time.Hour
	// reauthorizeLife is the life of the link in the status of an account that must authorize
	// again.
	reauthorizeLife = 7 * 24 * time.Hour
	// reauthorizeLeft is how much of that must be left, otherwise a new link is made: the merchant
	// may open it a while after it was sent.
	reauthorizeLeft = 24 * time.Hour
)

// maxReturn bounds the length of the address to which a browser is sent, in bytes.
const maxReturn = 2048

// authTypes are WeChat's ("Authorization_Process_Technical_Description").
var authTypes = []int{1, 2, 3, 4, 5, 6, 8}

// Create makes a link: the answer to wxtoken.connect.create.
func (l *Links) Create(ctx context.Context, q events.ConnectCreate) (events.ConnectCreated, error) {
	if l.PublicURL == "" {
		return events.ConnectCreated{}, events.Refused(http.StatusServiceUnavailable,
			lang.T("no links without %s at the refresher", "refresher 未设置 %s，无法生成链接", settings.Name("public-url")))
	}
	if _, ok := l.Gate(q.Component); !ok {
		return events.ConnectCreated{}, events.UnknownComponent(q.Component)
	}
	const minExpires, maxExpires = int(minConnectLife / time.Second), int(maxConnectLife / time.Second)
	if q.ExpiresIn == 0 {
		q.ExpiresIn = int(connectLife / time.Second)
	}
	if q.AuthType == 0 {
		q.AuthType = 3
	}
	switch {
	case len(q.Ref) > account.MaxRef || strings.ContainsFunc(q.Ref, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return events.ConnectCreated{}, events.BadRequest(lang.T("ref: want at most %d bytes without control characters", "ref：最多 %d 字节，不含控制字符", account.MaxRef))
	case !slices.Contains(authTypes, q.AuthType):
		return events.ConnectCreated{}, events.BadRequest(lang.T("auth_type: want one of %v", "auth_type：应为 %v 之一", authTypes))
	case q.BizAppID != "" && !wxtoken.ValidAppID(q.BizAppID):
		return events.ConnectCreated{}, events.BadRequest(lang.T("biz_appid: not an appid", "biz_appid：不是 appid"))
	case slices.ContainsFunc(q.CategoryIDs, func(id int) bool { return id <= 0 }) || len(q.CategoryIDs) > 200:
		return events.ConnectCreated{}, events.BadRequest(lang.T("category_id_list: want ids of permission sets", "category_id_list：应为权限集 id"))
	case q.ExpiresIn < minExpires || q.ExpiresIn > maxExpires: // compared in seconds: a huge number would overflow a duration
		return events.ConnectCreated{}, events.BadRequest(lang.T("expires_in: want %d to %d seconds", "expires_in：应为 %d 到 %d 秒", minExpires, maxExpires))
	}
	if err := l.checkReturn(q.Return); err != nil {
		return events.ConnectCreated{}, err
	}
	return l.newLink(ctx, q, time.Duration(q.ExpiresIn)*time.Second)
}

func (l *Links) newLink(ctx context.Context, q events.ConnectCreate, life time.Duration) (events.ConnectCreated, error) {
	now := l.Now().UTC()
	c := store.Connect{
		ID: rand.Text(), Component: q.Component, Ref: q.Ref, Return: q.Return, AuthType: q.AuthType, BizAppID: q.BizAppID,
		Categories: q.CategoryIDs.String(), Move: q.Move,
		MadeAt: now, ExpiresAt: now.Add(life), Secret: rand.Text(), State: events.ConnectPending,
	}
	if _, err := l.Store().SaveConnect(ctx, c, now); err != nil {
		return events.ConnectCreated{}, err
	}
	l.Log.Info().Str("component", c.Component).Str("connect", c.ID[:8]).Str("ref", c.Ref).
		Time("expires_at", c.ExpiresAt).Msg("authorization link made")
	return events.ConnectCreated{URL: l.url(c), ID: c.ID, ExpiresAt: c.ExpiresAt}, nil
}

func (l *Links) url(c store.Connect) string {
	return strings.TrimRight(l.PublicURL, "/") + "/connect/" + c.ID
}

// checkReturn returns an error unless a browser may be sent to an address.
func (l *Links) checkReturn(address string) error {
	if address == "" {
		return nil
	}
	if len(address) > maxReturn {
		return events.BadRequest(lang.T("return: want at most %d bytes", "return：最多 %d 字节", maxReturn))
	}
	u, err := url.Parse(address)
	if err != nil || strings.ContainsAny(address, "\\\r\n\t ") || u.Scheme != "https" && u.Scheme != "http" ||
		u.Host == "" || u.User != nil || u.Opaque != "" {
		return events.BadRequest(lang.T("return: want https://host/path without a user", "return：应为 https://host/path，不含用户名"))
	}
	host := strings.ToLower(u.Host)
	for _, allowed := range l.ReturnHosts {
		allowed = strings.ToLower(allowed)
		if host != allowed && (u.Port() == "" || strings.ToLower(u.Hostname()) != allowed) {
			continue
		}
		if u.Scheme == "http" && !loopbackHost(u.Hostname()) {
			return events.BadRequest(lang.T("return: want https", "return：应为 https"))
		}
		return nil
	}
	return events.BadRequest(lang.T("return: host %q is not among %s", "return：主机 %q 不在 %s 之内", events.Clip(u.Host), settings.Name("return-hosts")))
}

// Reauthorize returns a link for an account that must authorize again; "" if links can't be made.
// It returns the link in the account's status while that is good: an account may wait for its
// merchant for weeks, and WeChat is asked about it every few hours. A new link each time would be
// another record in NATS, and, from a service that reports changes, another message to the
// merchant.
func (l *Links) Reauthorize(ctx context.Context, cred account.Credential) string {
	if l.PublicURL == "" || !account.KindOf(cred.Key).OfMerchant {
		return ""
	}
	if url := l.currentLink(ctx, cred); url != "" {
		return url
	}
	link, err := l.newLink(ctx, events.ConnectCreate{
		Component: cred.Key.Component, Ref: cred.Ref, AuthType: 3, BizAppID: cred.Key.Authorizer,
	}, reauthorizeLife)
	if err != nil {
		l.Log.Warn().Err(err).Stringer("key", cred.Key).Msg("failed to make authorization link")
	}
	return link.URL
}

// currentLink returns the link in the status of an account if the merchant can use it for a while;
// "" if not, or if NATS does not answer.
func (l *Links) currentLink(ctx context.Context, cred account.Credential) string {
	status, _, err := l.Store().Status(ctx, cred.Key)
	if err != nil || status.ReauthorizeURL == "" {
		return ""
	}
	id := status.ReauthorizeURL[strings.LastIndexByte(status.ReauthorizeURL, '/')+1:]
	c, ok, err := l.Store().Connect(ctx, id)
	good := err == nil && ok && c.State == events.ConnectPending && c.Ref == cred.Ref && c.BizAppID == cred.Key.Authorizer &&
		l.url(c) == status.ReauthorizeURL && c.ExpiresAt.Sub(l.Now()) >= reauthorizeLeft
	if !good {
		return ""
	}
	return status.ReauthorizeURL
}
