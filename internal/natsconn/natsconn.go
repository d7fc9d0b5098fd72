// Package natsconn connects a process to NATS by its settings, keeps the connection, and tells what
// is wrong with it.
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
	natsJitter    = 500 * time.Millisecond // up to so much more, so that processes don't come back in step
	natsComplaint = 30 * time.Second       // between two log lines about a user that is refused
	defaultPort   = "4222"

	refusedHint = "NATS is there and does not take this user: check user and password in --nats-url, --nats-creds or --nats-nkey"
)

// Settings says where NATS is.
type Settings struct {
	NatsURL   string `name:"nats-url" group:"NATS" default:"nats://127.0.0.1:4222" help:"Servers, comma-separated. In the all-in-one process: the address on which its own server listens."`
	NatsCreds string `group:"NATS" placeholder:"file" help:"Credentials file of this process's NATS user."`
	NatsNkey  string `group:"NATS" placeholder:"file" help:"File with the seed of this process's NATS user (an NKey)."`
	NatsCA    string `name:"nats-ca" group:"NATS" placeholder:"file" help:"Certificates of the CA that signed those of the NATS servers, PEM. Without it the system's."`
}

// Validate returns all that is wrong with the settings, joined. It never shows the userinfo of a
// URL.
func (s Settings) Validate() error {
	var faults []error
	for server := range strings.SplitSeq(s.NatsURL, ",") {
		u, err := url.Parse(strings.TrimSpace(server))
		switch {
		case err != nil:
			faults = append(faults, settings.Fault("nats-url", "a URL that can't be read: want nats://host:port"))
		case u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls" && u.Scheme != "ws" && u.Scheme != "wss":
			faults = append(faults, settings.Fault("nats-url", "%q is not the URL of a NATS server: want nats://host:port or tls://host:port", settings.Redact(server)))
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
			faults = append(faults, settings.Fault("nats-nkey", "want a file with the seed of a user, which begins with SU: %w", err))
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
// returns an error when the URL names several servers.
func (s Settings) ListenAddr() (string, error) {
	u, err := url.Parse(s.NatsURL)
	if err != nil || u.Hostname() == "" || strings.Contains(s.NatsURL, ",") {
		return "", settings.NewError(settings.Fault("nats-url", "want one nats://host:port, on which the server in this process will listen"))
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// Connect connects as role, and keeps at it: it returns at once with a connection that finds NATS
// when NATS comes, and finds it again for as long as the process lives. While there is no server a
// publish fails at once rather than wait in memory, where a crash would lose it. Answers come on
// subjects below _INBOX_<role>, so that no other user can be allowed to hear them by accident. The
// connection says so in the log when it comes and goes. An error means that the settings are wrong.
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
		nats.IgnoreAuthErrorAbort(), // a user that is made later, or a password that is mended, must do
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
			if refused(err) { // by the server that it comes back to: that is told here
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
		return nil, fmt.Errorf("connect to NATS at %s: %s: check --nats-url (%s) and --nats-creds (%s)",
			settings.Redact(s.NatsURL), logger.Text(err), settings.Variable("nats-url"), settings.Variable("nats-creds"))
	}
	if !nc.IsConnected() {
		hint := "is it running, and does it take one connection more (max_connections)? --nats-url says where it is looked for"
		if errors.Is(nc.LastError(), nats.ErrAuthorization) {
			hint = refusedHint
		}
		log.Warn().Str("nats_url", settings.Redact(s.NatsURL)).Str("error", logger.Text(nc.LastError())).Str("hint", hint).Msg("nats unreachable, trying again")
	}
	return nc, nil
}

// Watch makes the connection of role, and what it hears, count for readiness, and shows it as
// wxtoken_nats_connected. Subscriptions that NATS took away are made anew when it allows them
// again.
func Watch(nc *nats.Conn, role string, h *serve.Health, m *serve.Metrics, log zerolog.Logger) {
	subscriptions := watchSubscriptions(nc, log)
	name := "nats"
	if role != "" {
		name = "nats " + role
	}
	h.Check(name, func(ctx context.Context) error {
		if !nc.IsConnected() {
			return errors.New("not connected: is NATS running where --nats-url points?")
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

// logServer adds the server that nc talks to.
func logServer(e *zerolog.Event, nc *nats.Conn) *zerolog.Event {
	return e.Str("nats_url", nc.ConnectedUrlRedacted()).Str("version", nc.ConnectedServerVersion())
}
