//go:build unix

package systemtest

import (
	"os"
	"regexp"
	"strings"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// withPartner returns settings with an account PARTNER beside SERVICES, made as docs/nats.md says.
func withPartner(b *book, text string) string {
	b.Helper()
	i := strings.Index(text, "\n  SERVICES: {")
	if i < 0 {
		b.Fatal("no account SERVICES in the settings")
	}
	before, services := text[:i], text[i:]
	end := strings.LastIndex(services, "\n}")
	services, after := services[:end], services[end:]
	partner := strings.NewReplacer("SERVICES", "PARTNER", "mirror.services", "mirror.partner", ".services", ".partner", "user: service\n", "user: partner\n",
		"$SERVICE_PASSWORD", "secret-of-partner", "user: console\n", "user: partner-console\n", "user: gateway\n", "user: partner-gateway\n",
		"_INBOX_service", "_INBOX_partner", "_INBOX_console", "_INBOX_partner_console", "_INBOX_gateway", "_INBOX_partner_gateway").Replace(services)
	// What the keepers' account and the server's give to the one they give to the other.
	var lines []string
	for line := range strings.SplitSeq(before, "\n") {
		switch {
		case strings.Contains(line, "accounts: [SERVICES]") && !strings.Contains(line, ".services"):
			line = strings.Replace(line, "[SERVICES]", "[SERVICES, PARTNER]", 1)
		case strings.Contains(line, "accounts: [INGEST, SERVICES]"):
			line = strings.Replace(line, "[INGEST, SERVICES]", "[INGEST, SERVICES, PARTNER]", 1)
		}
		lines = append(lines, line)
		trimmed := strings.TrimSpace(line)
		names := strings.Contains(line, ".services") || strings.Contains(line, "services.API") || strings.Contains(line, "account: SERVICES, subject: \"setup.")
		if names && !strings.HasPrefix(trimmed, "#") && !strings.Contains(line, "wechat.reply") {
			lines = append(lines, strings.NewReplacer("SERVICES", "PARTNER", "services", "partner").Replace(line))
		}
	}
	return strings.Join(lines, "\n") + services + partner + after
}

// accountAdded adds an account of services to settings that are in use, changes it, and takes it out again.
func accountAdded(b *book) {
	b.open(1)
	shipped := b.server.settings()
	service := b.connect("service")
	write := func(text string) {
		b.Helper()
		if err := os.WriteFile(b.server.conf(), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	write(withPartner(b, shipped))
	b.run("Do", 0, "")
	b.settings = append(b.settings, "WXTOKEN_SERVICES_API=services.API,partner.API")
	b.re.terminate()
	b.re = b.refresher()
	b.set("REFRESHER", "http://"+b.re.addr("ops"))
	b.until("Verify", 0, `account="partner",stream="KV_tokens"} 0`)
	js := natsdtest.JetStream(b, b.connect("partner"))
	poll(b.T, func() error {
		kv, err := js.KeyValue(b.Context(), events.BucketTokens)
		if err == nil {
			_, err = kv.Get(b.Context(), b.keys()[1].String())
		}
		return err
	})

	// Changed: its limit.
	write(regexp.MustCompile(`max_consumers: 1000`).ReplaceAllString(b.server.settings(), "max_consumers: 1234"))
	b.run("Do", 0, "")
	b.until("Verify", 0, `consumers_max{account="partner",stream="KV_tokens"} 1234`)
	if n := service.Stats().Reconnects; n > 0 {
		b.Errorf("a service of another account lost its connection %d times", n)
	}

	// Taken out: NATS is healthy after its next start, too.
	b.settings = append(b.settings, "WXTOKEN_SERVICES_API=services.API")
	b.re.terminate()
	b.re = b.refresher()
	b.set("REFRESHER", "http://"+b.re.addr("ops"))
	b.run("To take it out", 0, "")
	write(shipped)
	b.run("To take it out", 1, "")
	b.server.stop()
	startAll(b.T, []*natsServer{b.server})
	poll(b.T, func() error { return b.allAccepted(nil, 1) })
}
