package preflight

import (
	"fmt"
	"net/url"
	"strings"
)

// wrongUser looks whether the user may hear answers at all, nil if so. Without that each further look would end in a timeout that says nothing.
func (c *Checker) wrongUser() []Line {
	if c.Role == "" {
		return nil
	}
	sub, err := c.NATS.SubscribeSync(c.NATS.NewInbox())
	if err != nil {
		return nil
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	// The server complains of a subscription before it answers the flush.
	err = c.NATS.FlushTimeout(connectWithin)
	last := c.NATS.LastError()
	if err != nil || last == nil || !strings.Contains(last.Error(), `Subscription to "`+sub.Subject+`"`) {
		return nil
	}
	who := "this user"
	if u, err := url.Parse(c.NATS.ConnectedUrl()); err == nil && u.User.Username() != "" {
		who = fmt.Sprintf("user %q", u.User.Username())
	}
	lines := []Line{{Fail, "nats rights", fmt.Sprintf("%s may not subscribe %s.>, where answers to %s arrive", who, c.NATS.Opts.InboxPrefix, c.Role),
		fmt.Sprintf("is it the user of another program? Give %s its own, in --nats-url (WXTOKEN_NATS_URL), --nats-creds or --nats-nkey; deploy/nats/nats-server.conf has one for each", c.Role)}}
	const unheard = "no answer of NATS would be heard: see nats rights"
	for _, stream := range c.Streams {
		lines = append(lines, skip("stream "+stream, unheard))
	}
	for _, p := range c.Probes {
		lines = append(lines, skip(p.Name, unheard))
	}
	return lines
}
