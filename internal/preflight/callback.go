package preflight

import (
	"context"
	"net/http"
	"strings"
	"time"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
)

// certificateSoon is how long before its end a certificate gives a warning.
const certificateSoon = 14 * 24 * time.Hour

// callback requests the push URL of each component, from this machine: ingest answers a GET there with 405.
func (c *Checker) callback(ctx context.Context) (lines []Line) {
	// Ingest does not know its public URL, and a gateway has none.
	if c.WechatURL == "" || c.Role == events.RoleGateway {
		return nil
	}
	const name = "callback"
	if c.PublicURL == "" {
		return []Line{skip(name, lang.T("not checked without --public-url (WXTOKEN_PUBLIC_URL), the address of ingest as WeChat sees it",
			"没有设置 --public-url (WXTOKEN_PUBLIC_URL)，即微信看到的 ingest 地址，无法检查"))}
	}
	for _, component := range c.components() {
		lines = append(lines, c.pushURL(ctx, name+" "+component.AppID, strings.TrimRight(c.PublicURL, "/")+"/wechat/"+component.AppID+"/auth"))
	}
	return lines
}

func (c *Checker) pushURL(ctx context.Context, name, target string) Line {
	alone := lang.T("; WeChat may see something else than this machine: only a ticket that arrives is proof",
		"；微信看到的可能和本机不同，收到验证票据才算数")
	fail := func(saw, remedy lang.Text) Line {
		return Line{Fail, name, lang.T("%s %s", "%s：%s", target, saw), remedy}
	}
	// Before the start of a process with its own ingest nothing can answer yet.
	beforeStart := func(line Line) Line {
		if c.NATS == nil {
			line.Mark, line.Remedy = Warn, lang.T("start wxtoken and check again; if that does not help, %s",
				"启动 wxtoken 后再检查一次；如果还是这样，%s", line.Remedy)
		}
		return line
	}
	a, err := c.get(ctx, target)
	if err != nil {
		return beforeStart(fail(lang.T("does not answer%s", "没有应答%s", because(err)),
			runbook.NoTicket.See(lang.T("start ingest and the proxy in front of it, and check DNS, firewall and certificate of --public-url (WXTOKEN_PUBLIC_URL)",
				"启动 ingest 和它前面的反向代理，并检查 --public-url (WXTOKEN_PUBLIC_URL) 的 DNS、防火墙和证书"))))
	}
	switch location := a.header.Get("Location"); {
	case a.status >= 300 && a.status < 400:
		return fail(lang.T("redirects (%d) to %s", "重定向（%d）到 %s", a.status, location),
			lang.T("WeChat follows no redirect: have the proxy pass /wechat/ on unchanged, and enter the URL that answers directly as 授权事件接收URL",
				"微信不跟随重定向：让反向代理原样转发 /wechat/，并把直接应答的 URL 填为授权事件接收URL"))
	case a.status == http.StatusNotFound && isIngest(a):
		return fail(lang.T("is answered 404 by an ingest that does not know this component",
			"ingest 应答 404：它不认识这个第三方平台"),
			runbook.ComponentAddRemove.See(lang.T("add the component to the settings of ingest",
				"把这个第三方平台加到 ingest 的设置里")))
	case a.status != http.StatusMethodNotAllowed || !isIngest(a) || !strings.Contains(a.header.Get("Allow"), http.MethodPost):
		return beforeStart(fail(lang.T("is answered %d by something that is not ingest",
			"应答 %d 的不是 ingest", a.status),
			lang.T("have the proxy pass /wechat/ and /connect/ on to ingest (--http-addr, WXTOKEN_HTTP_ADDR), with path and query unchanged",
				"让反向代理把 /wechat/ 和 /connect/ 转发给 ingest (--http-addr, WXTOKEN_HTTP_ADDR)，路径和查询串保持原样")))
	}
	line := ok(name, lang.T("%s is answered by ingest%s", "%s 由 ingest 应答%s", target, alone))
	if !a.ends.IsZero() {
		line.Saw = lang.T("%s is answered by ingest, certificate by %q until %s%s",
			"%s 由 ingest 应答，证书由 %q 签发，有效期至 %s%s",
			target, a.issuer, a.ends.Format(time.DateOnly), alone)
		if left := a.ends.Sub(c.Now()); left < certificateSoon {
			line.Mark, line.Remedy = Warn, lang.T("renew the certificate of the proxy", "更新反向代理的证书")
		}
	}
	return line
}

// isIngest reports whether an answer looks like that of ingest to a request that is not a push: its status in words,
// with the header that ingest always sets.
func isIngest(a answer) bool {
	return string(a.body) == strings.ToLower(http.StatusText(a.status)) && a.header.Get("X-Content-Type-Options") == "nosniff"
}
