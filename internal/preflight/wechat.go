package preflight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"wxtoken/internal/wechat"
)

// How far a clock may be off. A token is renewed when a third of its life is left, 40 minutes: an error of that size costs all of it.
const (
	clockOff = 30 * time.Second
	clockBad = 5 * time.Minute
)

// clock judges a difference between our clock and another one. effect says what goes by that other clock.
func clock(name string, off time.Duration, effect string) Line {
	saw := off.Round(time.Millisecond).String() + " ahead"
	if off < 0 {
		saw = (-off).Round(time.Millisecond).String() + " behind"
	}
	const remedy = "set this machine's clock (chrony, systemd-timesyncd), or the other one"
	switch {
	case off.Abs() > clockBad:
		return Line{Fail, name, saw + ": tokens are renewed too late or too early; " + effect, remedy}
	case off.Abs() > clockOff:
		return Line{Warn, name, saw + ": " + effect, remedy}
	}
	return ok(name, "%s", saw)
}

// answer is what an HTTP server said.
type answer struct {
	status int
	header http.Header
	body   []byte
	began  time.Time // by our clock
	took   time.Duration
	ends   time.Time // of the server's certificate; zero without TLS
	issuer string
}

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 64 << 10

// get asks once, without following a redirect. Its error does not show the URL.
func (c *Checker) get(ctx context.Context, target string) (a answer, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return a, errors.New("not a URL")
	}
	request.Header.Set("User-Agent", "wxtoken --check") // for whoever reads ingest's log
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
	a.body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return a, err
}

// wechat looks whether WeChat can be reached and what it thinks of each component's secret and of our address.
func (c *Checker) wechat(ctx context.Context) []Line {
	const name = "wechat"
	if c.WechatURL == "" {
		return nil
	}
	host := c.WechatURL
	a, err := c.get(ctx, strings.TrimRight(c.WechatURL, "/")+"/")
	if err != nil {
		return []Line{{Fail, name, "no answer from " + host + because(err),
			"let this machine reach " + host + " (firewall, DNS, HTTPS_PROXY); --wechat-api-url (WXTOKEN_WECHAT_API_URL) names another"}}
	}
	lines := []Line{ok(name, "%s answers in %s", host, a.took.Round(time.Millisecond))}
	if date, err := http.ParseTime(a.header.Get("Date")); err != nil {
		lines = append(lines, skip("clock, to WeChat", "the answer of %s has no Date", host))
	} else {
		ours := a.began.Add(a.took / 2)
		off := ours.Sub(date)
		if off > 0 && off < time.Second {
			off = 0 // Date has whole seconds
		}
		lines = append(lines, clock("clock, to WeChat", off, "WeChat's lives count from its clock, pushes that seem older than a day are dropped"))
	}
	client, err := wechat.NewClient(wechat.ClientConfig{BaseURL: c.WechatURL, Transport: c.Transport, Timeout: callWithin})
	if err != nil {
		return append(lines, Line{Fail, name, err.Error(), "--wechat-api-url (WXTOKEN_WECHAT_API_URL)"})
	}
	components := c.components()
	found := make([][]Line, len(components))
	var working sync.WaitGroup
	for i, component := range components {
		working.Go(func() { found[i] = c.secret(ctx, client, component) })
	}
	working.Wait()
	for _, f := range found {
		lines = append(lines, f...)
	}
	return lines
}

// callWithin bounds one call.
const callWithin = 5 * time.Second

// tries is how often a call is made that WeChat was too busy for.
const tries = 3

// secret has WeChat look at the secret and at the address from which we come. The call for it is api_start_push_ticket: it takes appid and
// secret, needs no token, makes none, and what it switches on has to be on.
func (c *Checker) secret(ctx context.Context, client *wechat.Client, component Component) []Line {
	name, address := "secret "+component.AppID, "whitelist "+component.AppID
	on, ago, err := c.calls.once(component, c.Now(), func() (on bool, err error) {
		for range tries {
			if on, err = client.StartPushTicket(ctx, component.AppID, component.AppSecret.Reveal()); wechat.Judge(err) != wechat.Retry || err == nil {
				break
			}
		}
		return on, err
	})
	since := ""
	if ago > time.Second {
		since = fmt.Sprintf(" (asked %s ago)", ago.Round(time.Second))
	}
	if err == nil {
		pushing := "tickets were being pushed"
		if !on {
			pushing = "tickets were not being pushed, and are now"
		}
		return []Line{ok(name, "WeChat takes it; %s%s", pushing, since), ok(address, "WeChat takes calls from this machine%s", since)}
	}
	refusal := (*wechat.Error)(nil)
	if !errors.As(err, &refusal) || refusal.Code == 0 {
		if refusal != nil && refusal.Empty {
			return []Line{{Fail, name, "WeChat did not say" + because(err), emptyRemedy}}
		}
		return []Line{{Fail, name, "WeChat did not say" + because(err), "ask again; --wechat-api-url (WXTOKEN_WECHAT_API_URL) must be WeChat's API"}}
	}
	saw, remedy := refusal.Error()+since, remedyFor(refusal.Code, refusal.Message)
	if ofAddress(refusal.Code) {
		return []Line{skip(name, "WeChat does not look at it before this machine is on the whitelist"), {Fail, address, saw, remedy}}
	}
	mark := Fail
	if wechat.Judge(err) == wechat.Retry || wechat.Judge(err) == wechat.SlowDown {
		mark = Warn
	}
	return []Line{{mark, name, saw, remedy}, skip(address, "not known for certain before WeChat takes the secret")}
}

// ofAddress reports whether WeChat refuses the address and has not looked at more.
func ofAddress(code int) bool {
	switch code {
	case 61004, 40164, 40090, 45035, 89501, 89502, 89503, 89504, 89505, 89506, 89507:
		return true
	}
	return false
}

// addressPattern finds an address in WeChat's words.
var addressPattern = regexp.MustCompile(`[0-9a-fA-F:.]*[0-9a-fA-F]`)

// addressIn returns the address that WeChat names, or "this machine's outbound address".
func addressIn(message string) string {
	for _, word := range addressPattern.FindAllString(message, -1) {
		if ip := net.ParseIP(word); ip != nil {
			return ip.String()
		}
	}
	return "this machine's outbound address"
}

// remedyFor says what to do about an errcode. The runbook is docs/operations.md.
func remedyFor(code int, message string) string {
	const runbook = "; runbook: A component is in state `operator`"
	switch {
	case ofAddress(code):
		return "add " + addressIn(message) + " on WeChat's console to 白名单IP地址列表" + runbook
	case code == 40125, code == 40001, code == 41004, code == 40243:
		return "copy the AppSecret from WeChat's console (or reset it there) into --component-appsecret-file (WXTOKEN_COMPONENT_APPSECRET_FILE), or appsecret in --components-dir" + runbook
	case code == 40013, code == 61000, code == 61001, code == 61002, code == 61011, code == 41018:
		return "compare --component-appid (WXTOKEN_COMPONENT_APPID) with the AppID of the third-party platform on WeChat's console" + runbook
	case code == 45009:
		return "wait for the day to turn at UTC+8, or have the quota cleared; runbook: The day's quota is gone"
	case code == 48001, code == 61007:
		return "grant the permission set on WeChat's console (权限集), and release the platform again if WeChat asks for that" + runbook
	case code == 45011, code == -1, code == -1000:
		return "ask again in a minute"
	}
	return "look the errcode up on WeChat's pages" + runbook
}

// How long WeChat's word about a component counts. It wants the call a few times an hour at most; whoever mends something
// wants to see it.
const (
	goodLasts = 15 * time.Minute
	badLasts  = time.Minute
)

// calls remembers what WeChat said, so that whoever looks often does not call often.
type calls struct {
	mu    sync.Mutex
	known map[string]called // by component
}

type called struct {
	component Component
	on        bool
	err       error
	at        time.Time
}

// once calls, or returns what it brought a while ago. Another secret is another question.
func (k *calls) once(component Component, now time.Time, call func() (bool, error)) (on bool, ago time.Duration, err error) {
	k.mu.Lock()
	last, there := k.known[component.AppID]
	k.mu.Unlock()
	lasts := badLasts
	if last.err == nil {
		lasts = goodLasts
	}
	if there && last.component == component && now.Sub(last.at) < lasts {
		return last.on, now.Sub(last.at), last.err
	}
	on, err = call()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known[component.AppID] = called{component, on, err, now}
	return on, 0, err
}
