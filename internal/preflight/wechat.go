package preflight

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
	"wxtoken/internal/settings"
	"wxtoken/internal/truth"
	"wxtoken/internal/wechat"
)

// How far a clock may be off. A token is renewed when a third of its life is left, 40 minutes: an error of that size
// would use up all of it.
const (
	clockOff = 30 * time.Second
	clockBad = 5 * time.Minute
)

// clockLine judges the difference between this machine's clock and another one. effect says what depends on the
// other clock.
func clockLine(name string, off time.Duration, effect lang.Text) Line {
	saw := lang.T("%s ahead", "快 %s", off.Round(time.Millisecond))
	if off < 0 {
		saw = lang.T("%s behind", "慢 %s", (-off).Round(time.Millisecond))
	}
	remedy := lang.T("set this machine's clock (chrony, systemd-timesyncd), or the other one",
		"校准本机的时钟（chrony、systemd-timesyncd），或者对方的")
	switch {
	case off.Abs() > clockBad:
		return Line{Fail, name, lang.T("%s: tokens are renewed too late or too early; %s",
			"%s：令牌会续期过晚或过早；%s", saw, effect), remedy}
	case off.Abs() > clockOff:
		return Line{Warn, name, lang.T("%s: %s", "%s：%s", saw, effect), remedy}
	}
	return ok(name, saw)
}

// answer is the answer of an HTTP server.
type answer struct {
	status int
	header http.Header
	body   []byte
	began  time.Time // by this machine's clock
	took   time.Duration
	ends   time.Time // the server's certificate expires; zero without TLS
	issuer string
}

// maxAnswer bounds how much of an answer is read, in bytes.
const maxAnswer = 64 << 10

// get sends one GET request, without following a redirect. Its error does not show the URL.
func (c *Checker) get(ctx context.Context, target string) (a answer, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return a, errors.New("not a URL")
	}
	request.Header.Set("User-Agent", "wxtoken --check") // shown in ingest's log
	a.began = c.Now()
	response, err := c.client.Do(request)
	if err != nil {
		if withURL := (*url.Error)(nil); errors.As(err, &withURL) {
			err = withURL.Err
		}
		return a, err
	}
	defer response.Body.Close()
	a.took = c.Now().Sub(a.began)
	a.status, a.header = response.StatusCode, response.Header
	if t := response.TLS; t != nil && len(t.PeerCertificates) > 0 {
		a.ends, a.issuer = t.PeerCertificates[0].NotAfter.UTC(), t.PeerCertificates[0].Issuer.CommonName
	}
	if response.StatusCode != http.StatusSwitchingProtocols { // its body is the connection, which ctx does not end
		a.body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	}
	return a, err
}

// wechat checks whether WeChat can be reached, and whether it accepts each component's secret and this machine's
// address.
func (c *Checker) wechat(ctx context.Context) []Line {
	const name = "wechat"
	if c.WechatURL == "" {
		return nil
	}
	host := c.WechatURL
	a, err := c.get(ctx, strings.TrimRight(c.WechatURL, "/")+"/")
	if err != nil {
		return []Line{{Fail, name, lang.T("no answer from %s%s", "%s 没有应答%s", host, because(err)),
			lang.T("let this machine reach %s (firewall, DNS, HTTPS_PROXY); --wechat-api-url (WXTOKEN_WECHAT_API_URL) sets another address",
				"让本机能访问 %s（防火墙、DNS、HTTPS_PROXY）；用 --wechat-api-url (WXTOKEN_WECHAT_API_URL) 可以换一个地址", host)}}
	}
	lines := []Line{ok(name, lang.T("%s answers in %s",
		"%s 应答用时 %s", host, a.took.Round(time.Millisecond)))}
	if date, err := http.ParseTime(a.header.Get("Date")); err != nil {
		lines = append(lines, skip("clock, to WeChat", lang.T("the answer of %s has no Date",
			"%s 的应答里没有 Date", host)))
	} else {
		ours := a.began.Add(a.took / 2)
		off := ours.Sub(date)
		if off > 0 && off < time.Second {
			off = 0 // Date has whole seconds
		}
		lines = append(lines, clockLine("clock, to WeChat", off, lang.T("tokens live by WeChat's clock, and pushes that seem older than a day are dropped",
			"令牌的有效期按微信的时钟计算，看起来超过一天的推送会被丢弃")))
	}
	client, err := wechat.NewClient(wechat.ClientConfig{BaseURL: c.WechatURL, Transport: c.Transport, Timeout: callWithin})
	if err != nil {
		return append(lines, Line{Fail, name, lang.Same(err.Error()), lang.T("check --wechat-api-url (WXTOKEN_WECHAT_API_URL)",
			"检查 --wechat-api-url (WXTOKEN_WECHAT_API_URL)")})
	}
	components := c.components()
	found := make([][]Line, len(components))
	var working sync.WaitGroup
	for i, component := range components {
		working.Go(func() { found[i] = c.secretLines(ctx, client, component) })
	}
	working.Wait()
	for _, f := range found {
		lines = append(lines, f...)
	}
	return lines
}

// callWithin bounds one call to WeChat.
const callWithin = 5 * time.Second

// tries is how often a call is made while WeChat answers that it is busy.
const tries = 3

// secretLines has WeChat check the secret and the address of this machine, with the call api_start_push_ticket: it
// takes appid and secret, needs no token and makes none, and what it switches on must be on anyway.
func (c *Checker) secretLines(ctx context.Context, client *wechat.Client, component settings.Component) []Line {
	name, address := "secret "+component.AppID, "whitelist "+component.AppID
	on, ago, err := c.calls.once(component, c.Now(), func() (on bool, err error) {
		for range tries {
			on, err = client.StartPushTicket(ctx, component.AppID, component.AppSecret.Reveal())
			if err == nil || wechat.Judge(err) != wechat.Retry {
				break
			}
		}
		return on, err
	})
	var since lang.Text
	if ago > time.Second {
		since = lang.T(" (asked %s ago)", "（%s 前问过）", ago.Round(time.Second))
	}
	if err == nil {
		pushing := lang.T("ticket pushes are on", "验证票据推送已开启")
		if !on {
			pushing = lang.T("ticket pushes were off, and are on now",
				"验证票据推送原来没有开启，现已开启")
		}
		return []Line{ok(name, lang.T("WeChat accepts it; %s%s", "微信接受；%s%s", pushing, since)),
			ok(address, lang.T("WeChat accepts calls from this machine%s", "微信接受本机的调用%s", since))}
	}
	refused := (*wechat.Error)(nil)
	if !errors.As(err, &refused) || refused.Code == 0 {
		remedy := lang.T("ask again; --wechat-api-url (WXTOKEN_WECHAT_API_URL) must be WeChat's API",
			"再试一次；--wechat-api-url (WXTOKEN_WECHAT_API_URL) 必须是微信的接口地址")
		if refused != nil && refused.Empty {
			remedy = truth.CauseOf(wxtoken.HeldEmptyAnswers).Do(nil)
		}
		return []Line{{Fail, name, lang.T("no answer from WeChat%s",
			"微信没有给出答案%s", because(err)), remedy}}
	}
	saw := lang.Join([]lang.Text{lang.Same(refused.Error()), since}, lang.Text{})
	if wechat.Concerns(err) == wechat.ConcernAddress {
		return []Line{skip(name, lang.T("WeChat does not check it before this machine is on the whitelist",
			"本机加入白名单之前，微信不会检查它")),
			{Fail, address, saw, refused.Remedy()}}
	}
	mark := Fail
	if wechat.Judge(err) == wechat.Retry || wechat.Judge(err) == wechat.SlowDown {
		mark = Warn
	}
	return []Line{{mark, name, saw, refused.Remedy()},
		skip(address, lang.T("not certain before WeChat accepts the secret",
			"微信接受 AppSecret 之后才能确定"))}
}

// How long WeChat's answer for a component is used. WeChat wants this call at most a few times an hour; but a
// person who fixes something wants to see the effect.
const (
	acceptedMaxAge = 15 * time.Minute
	refusedMaxAge  = time.Minute
)

// calls remembers WeChat's answers, so that frequent checks don't make frequent calls.
type calls struct {
	mu    sync.Mutex
	known map[string]called // by component
}

type called struct {
	component settings.Component
	on        bool
	err       error
	at        time.Time
}

// once calls, or returns the last result while it is recent and the component unchanged; ago is its age.
func (k *calls) once(component settings.Component, now time.Time, call func() (bool, error)) (on bool, ago time.Duration, err error) {
	k.mu.Lock()
	last, there := k.known[component.AppID]
	k.mu.Unlock()
	lasts := refusedMaxAge
	if last.err == nil {
		lasts = acceptedMaxAge
	}
	if there && last.component.Equal(component) && now.Sub(last.at) < lasts {
		return last.on, now.Sub(last.at), last.err
	}
	on, err = call()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known[component.AppID] = called{component, on, err, now}
	return on, 0, err
}
