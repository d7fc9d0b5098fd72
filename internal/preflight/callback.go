package preflight

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// certificateSoon is when the end of a certificate is worth a warning.
const certificateSoon = 14 * 24 * time.Hour

// callback looks at the push URL of each component from outside, as far as this machine is outside: ingest answers a GET there with 405.
func (c *Checker) callback(ctx context.Context) (lines []Line) {
	if c.WechatURL == "" { // ingest does not know its address
		return nil
	}
	const name = "callback"
	if c.PublicURL == "" {
		return []Line{skip(name, "not visible without --public-url (WXTOKEN_PUBLIC_URL), the address of ingest as WeChat sees it")}
	}
	for _, component := range c.components() {
		lines = append(lines, c.pushURL(ctx, name+" "+component.AppID, strings.TrimRight(c.PublicURL, "/")+"/wechat/"+component.AppID+"/auth"))
	}
	return lines
}

func (c *Checker) pushURL(ctx context.Context, name, target string) Line {
	const alone = "; WeChat may see something else than this machine does: a ticket that arrives is the proof"
	fail := func(saw, remedy string) Line { return Line{Fail, name, target + " " + saw, remedy} }
	early := func(line Line) Line { // ingest is in this process, and does not run: nobody can answer yet
		if c.NATS == nil {
			line.Mark, line.Remedy = Warn, "start wxtoken and check again; if it stays so, "+line.Remedy
		}
		return line
	}
	a, err := c.get(ctx, target)
	if err != nil {
		return early(fail("does not answer"+because(err),
			"start ingest and the proxy before it, and look at DNS, firewall and certificate of --public-url (WXTOKEN_PUBLIC_URL); runbook: No ticket arrives"))
	}
	switch location := a.header.Get("Location"); {
	case a.status >= 300 && a.status < 400:
		return fail(fmt.Sprintf("redirects (%d) to %s", a.status, location),
			"WeChat follows no redirect: have the proxy pass /wechat/ on as it is, and enter the URL that answers at once as 授权事件接收URL")
	case a.status == http.StatusNotFound && ours(a):
		return fail("is answered 404 by an ingest that does not know this component", "add the component to the settings of ingest; runbook: Add or remove a component")
	case a.status != http.StatusMethodNotAllowed || !ours(a) || !strings.Contains(a.header.Get("Allow"), http.MethodPost):
		return early(fail(fmt.Sprintf("is answered %d by something that is not ingest", a.status),
			"have the proxy pass /wechat/ and /connect/ on to ingest (--http-addr, WXTOKEN_HTTP_ADDR), with path and query as they came"))
	}
	line := ok(name, "%s is answered by ingest%s", target, alone)
	if !a.ends.IsZero() {
		line.Saw = fmt.Sprintf("%s is answered by ingest, certificate by %q until %s%s", target, a.issuer, a.ends.Format(time.DateOnly), alone)
		if left := a.ends.Sub(c.Now()); left < certificateSoon {
			line.Mark, line.Remedy = Warn, "renew the certificate of the proxy"
		}
	}
	return line
}

// ours reports whether an answer looks like one of ingest to a request that is no push: its status in words, with the header that it sets always.
func ours(a answer) bool {
	return string(a.body) == strings.ToLower(http.StatusText(a.status)) && a.header.Get("X-Content-Type-Options") == "nosniff"
}
