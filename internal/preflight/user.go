package preflight

import (
	"net/url"
	"strings"

	"wxtoken/internal/lang"
)

// checkInbox checks whether the user may receive answers at all; nil: it may. If it may not, the other checks would
// all end in timeouts that explain nothing.
func (c *Checker) checkInbox() []Line {
	if c.Role == "" {
		return nil
	}
	sub, err := c.NATS.SubscribeSync(c.NATS.NewInbox())
	if err != nil {
		return nil
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	// The server reports a refused subscription before it answers the flush.
	err = c.NATS.FlushTimeout(connectWithin)
	last := c.NATS.LastError()
	if err != nil || last == nil || !strings.Contains(last.Error(), `Subscription to "`+sub.Subject+`"`) {
		return nil
	}
	who := lang.T("this user", "这个用户")
	if u, err := url.Parse(c.NATS.ConnectedUrl()); err == nil && u.User.Username() != "" {
		who = lang.T("user %q", "用户 %q", u.User.Username())
	}
	lines := []Line{{Fail, "nats rights", lang.T("%s may not subscribe %s.>, where answers to %s arrive",
		"%s不能订阅 %s.>，而 %s 的应答要从那里收到",
		who, c.NATS.Opts.InboxPrefix, c.Role),
		lang.T("is it the user of another program? Give %s its own, in --nats-url (WXTOKEN_NATS_URL), --nats-creds or --nats-nkey; deploy/nats/nats-server.conf has one for each",
			"是不是用了别的程序的用户？用 --nats-url (WXTOKEN_NATS_URL)、--nats-creds 或 --nats-nkey 给 %s 它自己的；deploy/nats/nats-server.conf 里每个程序都有一个", c.Role)}}
	unheard := lang.T("answers of NATS can't be received: see nats rights",
		"收不到 NATS 的应答：见 nats rights 一行")
	for _, stream := range c.Streams {
		lines = append(lines, skip("stream "+stream, unheard))
	}
	for _, p := range c.Probes {
		lines = append(lines, skip(p.Name, unheard))
	}
	return lines
}
