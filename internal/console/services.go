package console

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/services"
)

// servedAt identifies a record of a gateway: later records with the same key replace it.
type servedAt struct {
	instance string
	from     int64 // ns since 1970
}

// silentAfter is the age of its last record after which a gateway counts as silent: it writes one every
// ten minutes.
const silentAfter = 21 * time.Minute

// addServed takes over a record of what a gateway serves. A later record of the same period replaces an
// earlier one; one of the same moment holds further services, or the same again, since after a reconnect
// all is read once more.
func (x *index) addServed(subject string, data []byte) {
	var s services.Served
	if json.Unmarshal(data, &s) != nil || s.Role != events.RoleGateway || s.From.IsZero() ||
		subject != events.JournalSubject(events.JournalCount, s.Role, s.Instance) {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.served == nil {
		x.served = map[servedAt]services.Served{}
	}
	maps.DeleteFunc(x.served, func(_ servedAt, old services.Served) bool { return s.To.Sub(old.To) > keptTicks })
	at := servedAt{s.Instance, s.From.UnixNano()}
	if old, ok := x.served[at]; ok && old.To.Equal(s.To) {
		others := slices.DeleteFunc(slices.Clone(old.Services), func(one services.ServedService) bool {
			return slices.ContainsFunc(s.Services, func(other services.ServedService) bool { return other.Name == one.Name })
		})
		s.Services = append(others, s.Services...)
	}
	x.served[at] = s
	x.touch()
}

// servicesPage shows the services of the gateways.
func (c *Console) servicesPage() Page {
	return Page{
		Path: "/services", Name: "services", Nav: lang.T("Services", "业务服务"), Title: lang.T("Services of the gateway", "网关的业务服务"),
		Data: func(ctx context.Context, q *Request) (any, error) { return c.services(ctx, q), nil },
	}
}

// Services is what the page of services shows.
type Services struct {
	At        time.Time     `json:"at"`
	Gateways  []Gateway     `json:"gateways"`
	Services  []ServiceView `json:"services"`
	DeadKnown bool          `json:"dead_letters_known"` // NATS told how many lie on DEAD
}

// Gateway is one that was heard of in a day.
type Gateway struct {
	Host     string    `json:"host"`
	Instance string    `json:"instance"`
	HeardAt  time.Time `json:"heard_at"`
	Silent   bool      `json:"silent"` // it has ended, or can't reach NATS
	Services int       `json:"services"`
}

// ServiceView is one service, at all gateways.
type ServiceView struct {
	services.Summary
	LastDay     services.Figures `json:"last_24_h"`
	LastUse     time.Time        `json:"last_use,omitzero"`
	LeftOut     int              `json:"left_out,omitempty"` // entries of its lists
	Gateways    int              `json:"gateways"`           // number of gateways that serve it now
	Differs     bool             `json:"differs,omitempty"`  // the gateways' services files differ
	DeadLetters uint64           `json:"dead_letters"`       // on DEAD

	reportedAt time.Time
}

// services makes the page of services.
func (c *Console) services(ctx context.Context, q *Request) Services {
	s := Services{At: q.Now, Gateways: []Gateway{}, Services: []ServiceView{}}
	newest, sums, used := c.index.servedNow(q.Now)
	of := map[string]*ServiceView{}
	for _, g := range newest {
		silent := q.Now.Sub(g.To) > silentAfter
		s.Gateways = append(s.Gateways, Gateway{g.Host, g.Instance, g.To, silent, len(g.Services)})
		for _, one := range g.Services {
			of[one.Name] = of[one.Name].merge(one, g.To, silent)
		}
	}
	dead, known := c.deadByService(ctx)
	s.DeadKnown = known
	for _, name := range slices.Sorted(maps.Keys(of)) {
		v := of[name]
		pending := v.LastDay.Pending // what waits now; the sums have what waited before
		v.LastDay = sums[name]
		v.LastDay.Pending, v.LastUse, v.DeadLetters = pending, used[name], dead[name]
		s.Services = append(s.Services, *v)
	}
	return s
}

// merge adds what another gateway reports of a service; v is nil at first. The latest report counts.
func (v *ServiceView) merge(one services.ServedService, at time.Time, silent bool) *ServiceView {
	if v == nil {
		v = &ServiceView{Summary: one.Summary, LeftOut: one.LeftOut, reportedAt: at}
	}
	if at.After(v.reportedAt) {
		v.Summary, v.LeftOut, v.reportedAt = one.Summary, one.LeftOut, at
	}
	if !silent {
		v.Differs = v.Differs || v.Gateways > 0 && !sameSummary(v.Summary, one.Summary)
		v.Gateways++
		v.LastDay.Pending += one.Pending
	}
	return v
}

// sameSummary reports whether two gateways report the same of a service.
func sameSummary(a, b services.Summary) bool {
	one, err := json.Marshal(a)
	other, otherErr := json.Marshal(b)
	return err == nil && otherErr == nil && string(one) == string(other)
}

// servedNow returns the last record of each gateway, and, over a day, the figures and the last use of
// each service.
func (x *index) servedNow(now time.Time) (newest []services.Served, sums map[string]services.Figures, used map[string]time.Time) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	last, sums, used := map[string]services.Served{}, map[string]services.Figures{}, map[string]time.Time{}
	for _, s := range x.served {
		if now.Sub(s.To) > keptTicks {
			continue
		}
		if old, ok := last[s.Instance]; !ok || s.To.After(old.To) {
			last[s.Instance] = s
		}
		for _, one := range s.Services {
			sums[one.Name] = sums[one.Name].Add(one.Figures)
			if one.LastUse.After(used[one.Name]) {
				used[one.Name] = one.LastUse
			}
		}
	}
	newest = slices.SortedFunc(maps.Values(last), func(a, b services.Served) int {
		return cmp.Or(b.To.Compare(a.To), cmp.Compare(a.Instance, b.Instance))
	})
	return newest, sums, used
}

// deadByService counts the messages on DEAD that the webhooks of a service did not take; known is false
// where NATS does not answer.
func (c *Console) deadByService(ctx context.Context) (dead map[string]uint64, known bool) {
	s, err := c.js.Stream(ctx, events.StreamDead)
	if err != nil {
		return nil, false
	}
	prefix := events.DeadSubject("webhook.")
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, false
	}
	dead = map[string]uint64{}
	for subject, n := range info.State.Subjects {
		service, _, _ := strings.Cut(strings.TrimPrefix(subject, prefix), ".")
		dead[service] += n
	}
	return dead, true
}

// rightWords say what a right of the services file allows.
var rightWords = map[services.Right]lang.Text{
	services.RightToken:     lang.T("gets tokens", "获取令牌"),
	services.RightRelay:     lang.T("calls WeChat through the gateway", "经网关调用微信"),
	services.RightReal:      lang.T("gets WeChat's own tokens", "获取微信原始令牌"),
	services.RightComponent: lang.T("acts for the component", "代第三方平台调用"),
	services.RightLinks:     lang.T("makes links", "生成授权链接"),
	services.RightAccounts:  lang.T("lists accounts", "查询账号列表"),
	services.RightEvents:    lang.T("follows events", "订阅事件"),
}

// Rights are the rights of the service in words.
func (v ServiceView) Rights(q *Request) (all []string) {
	for _, right := range v.May {
		if text, ok := rightWords[right]; ok {
			all = append(all, q.Say(text))
			continue
		}
		all = append(all, printable(string(right))) // of a later gateway
	}
	return all
}

// HostText is the host as it can be shown.
func (g Gateway) HostText() string { return printable(g.Host) }

// InstanceText is the id of the process as it can be shown.
func (g Gateway) InstanceText() string { return printable(g.Instance) }

// Texts returns foreign texts as they can be shown.
func (Services) Texts(all []string) []string {
	out := make([]string, len(all))
	for i, text := range all {
		out[i] = printable(text)
	}
	return out
}

// DeadHref leads to its messages on DEAD.
func (v ServiceView) DeadHref() string { return "/pushes?show=dead&q=webhook." + v.Name + "." }
