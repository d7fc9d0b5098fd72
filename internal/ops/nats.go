package ops

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

// NATSSettings says where NATS is.
type NATSSettings struct {
	NatsURL   string `name:"nats-url" group:"NATS" default:"nats://127.0.0.1:4222" help:"Servers, comma-separated. In the all-in-one process: the address on which its own server listens."`
	NatsCreds string `group:"NATS" placeholder:"file" help:"Credentials file of this process's NATS user."`
	NatsNkey  string `group:"NATS" placeholder:"file" help:"File with the seed of this process's NATS user (an NKey)."`
	NatsCA    string `name:"nats-ca" group:"NATS" placeholder:"file" help:"Certificates of the CA that signed those of the NATS servers, PEM. Without it the system's."`
}

// Validate returns all that is wrong with the settings, joined. It never shows the userinfo of a URL.
func (s NATSSettings) Validate() error {
	var faults []error
	for server := range strings.SplitSeq(s.NatsURL, ",") {
		u, err := url.Parse(strings.TrimSpace(server))
		switch {
		case err != nil:
			faults = append(faults, fault("nats-url", "a URL that can't be read: want nats://host:port"))
		case u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls" && u.Scheme != "ws" && u.Scheme != "wss":
			faults = append(faults, fault("nats-url", "%q is not the URL of a NATS server: want nats://host:port or tls://host:port", scrub(server)))
		}
	}
	if s.NatsCreds != "" {
		if f, err := os.Open(s.NatsCreds); err != nil {
			faults = append(faults, fault("nats-creds", "%w", err))
		} else {
			_ = f.Close()
		}
	}
	if s.NatsCreds != "" && s.NatsNkey != "" {
		faults = append(faults, fault("nats-nkey", "there is --nats-creds as well: want one of them"))
	} else if s.NatsNkey != "" {
		if _, err := nats.NkeyOptionFromSeed(s.NatsNkey); err != nil {
			faults = append(faults, fault("nats-nkey", "want a file with the seed of a user, which begins with SU: %w", err))
		}
	}
	if s.NatsCA != "" {
		if text, err := os.ReadFile(s.NatsCA); err != nil {
			faults = append(faults, fault("nats-ca", "%w", err))
		} else if !x509.NewCertPool().AppendCertsFromPEM(text) {
			faults = append(faults, fault("nats-ca", "%s holds no certificate: want PEM", s.NatsCA))
		}
	}
	return errors.Join(faults...)
}

// Redacted returns the URL of the servers without users and passwords.
func (s NATSSettings) Redacted() string { return scrub(s.NatsURL) }

// ListenAddr returns the host:port of the URL, for a process that runs the server itself. It
// returns an error when the URL names several servers.
func (s NATSSettings) ListenAddr() (string, error) {
	u, err := url.Parse(s.NatsURL)
	if err != nil || u.Hostname() == "" || strings.Contains(s.NatsURL, ",") {
		return "", settingsError(fault("nats-url", "want one nats://host:port, on which the server in this process will listen"))
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
func (s NATSSettings) Connect(role string, log zerolog.Logger, opts ...nats.Option) (*nats.Conn, error) {
	refusals := rate.NewLimiter(rate.Every(natsComplaint), 1)
	refused := func(err error) bool {
		is := errors.Is(err, nats.ErrAuthorization)
		if is && refusals.Allow() {
			log.Warn().Str("error", errText(err)).Str("hint", refusedHint).Msg("nats refused the user")
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
				log.Warn().Str("error", errText(err)).Msg("nats disconnected")
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			if refused(err) {
				return
			}
			log.Debug().Str("error", errText(err)).Msg("nats still unreachable")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if refused(err) { // by the server that it comes back to: that is told here
				return
			}
			e := log.Warn().Str("error", errText(err))
			if sub != nil {
				e = e.Str("subject", sub.Subject)
			}
			e.Msg("nats complained")
		}),
	}
	if s.NatsCreds != "" {
		all = append(all, nats.UserCredentials(s.NatsCreds))
	}
	if s.NatsNkey != "" {
		nkey, err := nats.NkeyOptionFromSeed(s.NatsNkey)
		if err != nil {
			return nil, fmt.Errorf("read --nats-nkey (%s): %w", variable("nats-nkey"), err)
		}
		all = append(all, nkey)
	}
	if s.NatsCA != "" {
		all = append(all, nats.RootCAs(s.NatsCA))
	}
	nc, err := nats.Connect(s.NatsURL, append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %s: check --nats-url (%s) and --nats-creds (%s)",
			scrub(s.NatsURL), errText(err), variable("nats-url"), variable("nats-creds"))
	}
	if !nc.IsConnected() {
		hint := "is it running, and does it take one connection more (max_connections)? --nats-url says where it is looked for"
		if errors.Is(nc.LastError(), nats.ErrAuthorization) {
			hint = refusedHint
		}
		log.Warn().Str("nats_url", scrub(s.NatsURL)).Str("error", errText(nc.LastError())).Str("hint", hint).Msg("nats unreachable, trying again")
	}
	return nc, nil
}

// WatchNATS makes the connection of role, and what it hears, count for readiness, and shows it as wxtoken_nats_connected. Subscriptions that
// NATS took away are made anew when it allows them again.
func WatchNATS(nc *nats.Conn, role string, h *Health, m *Metrics, log zerolog.Logger) {
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
			return fmt.Errorf("NATS does not answer: %s", errText(err))
		}
		return subscriptions.err()
	})
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "wxtoken_nats_connected", Help: "Whether the connection to NATS stands (1) or not (0).",
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

// errText is the text of err without the userinfo of a URL in it, and with what the client library means: its buffer for the time
// without a connection has no room, because Connect gives it none.
func errText(err error) string {
	if err == nil {
		return "connection closed"
	}
	return strings.ReplaceAll(scrub(err.Error()), nats.ErrReconnectBufExceeded.Error(), "nats: not connected")
}
