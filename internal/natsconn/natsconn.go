// Package natsconn connects a process to NATS according to its settings, keeps the connection, and
// reports its faults.
package natsconn

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"wxtoken/internal/logger"
	"wxtoken/internal/serve"
	"wxtoken/internal/settings"
	"wxtoken/internal/streams"
)

// How a connection is watched. A dead server is noticed after at most natsPing * (natsPings + 1).
const (
	natsPing      = 2 * time.Second
	natsPings     = 2
	natsReconnect = 500 * time.Millisecond // between two attempts
	natsJitter    = 500 * time.Millisecond // up to that much more, so that processes don't reconnect all at once
	natsComplaint = 30 * time.Second       // between two log lines about a refused user
	defaultPort   = "4222"

	refusedHint = "NATS is running and does not accept this user: check user and password in --nats-url, --nats-creds or --nats-nkey"
)

// Settings are the settings for the connection to NATS; package settings reads the tags.
type Settings struct {
	NatsURL   string `name:"nats-url" group:"NATS" default:"nats://127.0.0.1:4222" help:"Servers, comma-separated. In the all-in-one process: the address on which its own server listens."`
	NatsCreds string `group:"NATS" placeholder:"file" help:"Credentials file of this process's NATS user."`
	NatsNkey  string `group:"NATS" placeholder:"file" help:"File with the seed of this process's NATS user (an NKey)."`
	NatsCA    string `name:"nats-ca" group:"NATS" placeholder:"file" help:"Certificates of the CA that signed those of the NATS servers, PEM. Without it the system's."`
}

// Validate returns all faults of the settings, joined. It never shows the userinfo of a URL.
func (s Settings) Validate() error {
	var faults []error
	for server := range strings.SplitSeq(s.NatsURL, ",") {
		u, err := url.Parse(strings.TrimSpace(server))
		switch {
		case err != nil:
			faults = append(faults, settings.Fault("nats-url", "not a URL (want nats://host:port)"))
		case u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls" && u.Scheme != "ws" && u.Scheme != "wss":
			faults = append(faults, settings.Fault("nats-url",
				"%q is not the URL of a NATS server: want nats://host:port or tls://host:port", settings.Redact(server)))
		}
	}
	if s.NatsCreds != "" {
		if f, err := os.Open(s.NatsCreds); err != nil {
			faults = append(faults, settings.Fault("nats-creds", "%w", err))
		} else {
			_ = f.Close()
		}
	}
	if s.NatsCreds != "" && s.NatsNkey != "" {
		faults = append(faults, settings.Fault("nats-nkey", "there is --nats-creds as well: want one of them"))
	} else if s.NatsNkey != "" {
		if _, err := nats.NkeyOptionFromSeed(s.NatsNkey); err != nil {
			faults = append(faults, settings.Fault("nats-nkey",
				"want a file with the seed of a user, which begins with SU: %w", err))
		}
	}
	if s.NatsCA != "" {
		if text, err := os.ReadFile(s.NatsCA); err != nil {
			faults = append(faults, settings.Fault("nats-ca", "%w", err))
		} else if !x509.NewCertPool().AppendCertsFromPEM(text) {
			faults = append(faults, settings.Fault("nats-ca", "%s holds no certificate: want PEM", s.NatsCA))
		}
	}
	return errors.Join(faults...)
}

// Redacted returns the URL of the servers without users and passwords.
func (s Settings) Redacted() string { return settings.Redact(s.NatsURL) }

// ListenAddr returns the host:port of the URL, for a process that runs the server itself. It
// returns an error if the URL names several servers.
func (s Settings) ListenAddr() (string, error) {
	u, err := url.Parse(s.NatsURL)
	if err != nil || u.Hostname() == "" || strings.Contains(s.NatsURL, ",") {
		return "", settings.NewError(settings.Fault("nats-url",
			"want one nats://host:port, on which the server in this process will listen"))
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// Connect connects as role and keeps trying: it returns at once, with a connection that connects
// when NATS is available, and reconnects for as long as the process runs. Without a server a
// publish fails at once; it does not wait in memory, where a crash would lose it. Answers come on
// subjects below _INBOX_<role>, so that no other user gets the right to read them by accident. The
// log tells when the connection comes and goes. An error means that the settings are wrong.
func (s Settings) Connect(role string, log zerolog.Logger, opts ...nats.Option) (*nats.Conn, error) {
	refusals := rate.NewLimiter(rate.Every(natsComplaint), 1)
	refused := func(err error) bool {
		is := errors.Is(err, nats.ErrAuthorization)
		if is && refusals.Allow() {
			log.Warn().Str("error", logger.Text(err)).Str("hint", refusedHint).Msg("nats refused the user")
		}
		return is
	}
	connected := func(nc *nats.Conn) {
		logServer(log.Info(), nc).Msg("nats connected")
		if err := streams.CheckServer(nc.ConnectedServerVersion()); err != nil && nc.IsConnected() {
			log.Error().Err(err).Str("hint", "install a newer nats-server").Msg("nats server refused")
		}
	}
	all := []nats.Option{
		nats.Name("wxtoken " + role),
		nats.CustomInboxPrefix("_INBOX_" + role),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // keep trying: the user may be created later, or its password corrected
		nats.ReconnectWait(natsReconnect),
		nats.ReconnectJitter(natsJitter, natsJitter),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(natsPing),
		nats.MaxPingsOutstanding(natsPings),
		nats.ConnectHandler(connected),
		nats.ReconnectHandler(connected),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				log.Warn().Str("error", logger.Text(err)).Msg("nats disconnected")
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			if refused(err) {
				return
			}
			log.Debug().Str("error", logger.Text(err)).Msg("nats still unreachable")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if refused(err) { // a server refuses the user on a reconnect
				return
			}
			e := log.Warn().Str("error", logger.Text(err))
			if sub != nil {
				e = e.Str("subject", sub.Subject)
			}
			e.Msg("nats client error")
		}),
	}
	if s.NatsCreds != "" {
		all = append(all, nats.UserCredentials(s.NatsCreds))
	}
	if s.NatsNkey != "" {
		nkey, err := nats.NkeyOptionFromSeed(s.NatsNkey)
		if err != nil {
			return nil, fmt.Errorf("read --nats-nkey (%s): %w", settings.Variable("nats-nkey"), err)
		}
		all = append(all, nkey)
	}
	if s.NatsCA != "" {
		all = append(all, nats.RootCAs(s.NatsCA))
	}
	nc, err := nats.Connect(s.NatsURL, append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %s (check --nats-url, %s, and --nats-creds, %s)",
			settings.Redact(s.NatsURL), logger.Text(err), settings.Variable("nats-url"), settings.Variable("nats-creds"))
	}
	if !nc.IsConnected() {
		hint := "check that it is running at --nats-url, and that it accepts one more connection (max_connections)"
		if errors.Is(nc.LastError(), nats.ErrAuthorization) {
			hint = refusedHint
		}
		log.Warn().Str("nats_url", settings.Redact(s.NatsURL)).Str("error", logger.Text(nc.LastError())).
			Str("hint", hint).Msg("nats unreachable, trying again")
	}
	return nc, nil
}

// Watch adds the connection of role and its subscriptions to the readiness checks, and exports
// wxtoken_nats_connected. It restores subscriptions that NATS took away once NATS allows them
// again.
func Watch(nc *nats.Conn, role string, h *serve.Health, m *serve.Metrics, log zerolog.Logger) {
	subscriptions := watchSubscriptions(nc, log)
	name := "nats"
	if role != "" {
		name = "nats " + role
	}
	h.Check(name, func(ctx context.Context) error {
		if !nc.IsConnected() {
			return errors.New("not connected (is NATS running at --nats-url?)")
		}
		if err := nc.FlushWithContext(ctx); err != nil {
			return fmt.Errorf("NATS does not answer: %s", logger.Text(err))
		}
		return subscriptions.err()
	})
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "wxtoken_nats_connected", Help: "1 while connected to NATS, else 0.",
		ConstLabels: prometheus.Labels{"role": role},
	}, func() float64 {
		if nc.IsConnected() {
			return 1
		}
		return 0
	}))
}

// logServer adds the server to which nc is connected to a log line.
func logServer(e *zerolog.Event, nc *nats.Conn) *zerolog.Event {
	return e.Str("nats_url", nc.ConnectedUrlRedacted()).Str("version", nc.ConnectedServerVersion())
}
