package wechatsim

import (
	"time"

	"wxtoken/internal/wechat"
)

// quota counts the calls that are charged to one appid.
type quota struct {
	day     string
	used    map[string]int // by API name
	month   string
	cleared int // how often in that month
}

// quotaOf returns today's quota of an appid. The caller holds p.mu.
func (p *Platform) quotaOf(appid string) *quota {
	q := p.quotas[appid]
	if q == nil {
		q = &quota{}
		p.quotas[appid] = q
	}
	now := wechat.InChina(p.now())
	if day := now.Format(time.DateOnly); q.day != day {
		q.day, q.used = day, map[string]int{}
	}
	if month := now.Format("2006-01"); q.month != month {
		q.month, q.cleared = month, 0
	}
	return q
}

// dailyLimit returns how often an API may be called in a day. The caller holds p.mu.
func (p *Platform) dailyLimit(a *api) int {
	if limit, ok := p.limits[a.name]; ok {
		return limit
	}
	return unlimitedDaily
}

// owner returns the appid whose quota a call uses.
func (c *call) owner() string {
	if c.token != nil && c.token.authorizer != "" {
		return c.token.authorizer
	}
	return c.component.AppID
}

// count counts a call against its daily limit. It returns an errcode. The caller holds p.mu.
func (p *Platform) count(c *call) int {
	q := p.quotaOf(c.owner())
	if q.used[c.api.name] >= p.dailyLimit(c.api) {
		return codeDailyLimit
	}
	q.used[c.api.name]++
	return codeOK
}

func (p *Platform) apiQuotaGet(c *call) (object, int) {
	a := p.apis[c.request.CGIPath]
	if a == nil {
		return nil, codeBadCGIPath
	}
	forComponent := a.token == componentToken || a.token == noToken
	if a.token != eitherToken && forComponent != (c.token.authorizer == "") {
		return nil, codeWrongOwner
	}
	limit, used := p.dailyLimit(a), p.quotaOf(c.owner()).used[a.name]
	return object{
		{"errcode", codeOK},
		{"quota", object{{"daily_limit", limit}, {"used", used}, {"remain", max(limit-used, 0)}}},
		{"rate_limit", object{{"call_count", 10000}, {"refresh_second", 60}}},
		{"component_rate_limit", object{{"call_count", 10000}, {"refresh_second", 60}}},
	}, codeOK
}

func (p *Platform) apiClearQuota(c *call) (object, int) {
	if c.request.AppID != c.owner() {
		return nil, codeInvalidAppID
	}
	return p.clearQuota(c.request.AppID)
}

func (p *Platform) apiClearQuotaV2(c *call) (object, int) {
	a := c.component.authorizers[c.request.AppID]
	switch {
	case c.request.AppSecret == "":
		return nil, codeSecretMissing
	case !equal(c.request.AppSecret, c.component.secret):
		return nil, codeInvalidSecret
	case c.request.AppID != c.component.AppID && a == nil:
		return nil, codeInvalidAppID
	case a != nil && !a.authorized:
		return nil, codeNotAuthorized
	}
	return p.clearQuota(c.request.AppID)
}

func (p *Platform) clearQuota(appid string) (object, int) {
	q := p.quotaOf(appid)
	if q.cleared >= clearsPerMonth {
		return nil, codeClearsUsedUp
	}
	q.cleared++
	clear(q.used)
	return done(), codeOK
}
