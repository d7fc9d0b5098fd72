package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"wxtoken/internal/gateway"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/redis"
	"wxtoken/internal/services"
	"wxtoken/internal/settings"
)

// program is this executable. Its ops-addr leaves 8081 and 8082 to a refresher and an ingest on the
// same machine.
var program = settings.Program{
	Name:        "gateway",
	Description: "Gives tokens to programs that speak HTTP, and relays their calls to WeChat with the current token. An SDK takes its address as API host, the authorizer's appid, and a key as secret.",
	Defaults:    map[string]string{"ops-addr": "127.0.0.1:8083"},
}

// config holds all settings.
type config struct {
	HTTPAddr     string `name:"http-addr" group:"Gateway" default:"127.0.0.1:8092" help:"Address for services. Without --tls-cert, put a proxy with TLS in front of an address that other machines can reach."`
	TLSCert      string `name:"tls-cert" group:"Gateway" placeholder:"file" help:"Certificate for --http-addr, PEM, with its chain. It is read again when it changes."`
	TLSKey       string `name:"tls-key" group:"Gateway" placeholder:"file" help:"Key of the certificate, PEM."`
	WechatAPIURL string `name:"wechat-api-url" group:"Gateway" default:"https://api.weixin.qq.com" help:"WeChat's API, to which calls are relayed. This machine's address must be on the IP whitelist."`
	gateway.Config
	Redis        redis.Config  `embed:""`
	MakeKey      string        `group:"Gateway" placeholder:"service" help:"Print a new key for a service with its entry for the services file, and exit."`
	MakeTokenKey bool          `group:"Gateway" help:"Print a new line for --token-key-file, and exit."`
	Drain        time.Duration `group:"Operations" default:"1s" help:"How long requests are still accepted after SIGTERM, while the load balancer learns from /readyz to send them elsewhere."`
	natsconn.Settings
	settings.Operations

	signer *gateway.Signer
}

// maxDrain bounds --drain, and with it how long the process takes to end.
const maxDrain = time.Minute

// Validate reads the signing keys, and returns what is wrong with them, with --drain and with TLS.
func (s *config) Validate() error {
	if s.MakeTokenKey || s.MakeKey != "" {
		return nil // no other setting is needed
	}
	var drain, tls error
	if s.Drain < 0 || s.Drain > maxDrain {
		drain = settings.Fault("drain", "%s: want 0s to %s", s.Drain, maxDrain)
	}
	if (s.TLSCert == "") != (s.TLSKey == "") {
		tls = settings.Fault("tls-key", "want --tls-cert and --tls-key, or neither")
	}
	signer, err := s.Signer()
	s.signer = signer
	return errors.Join(drain, tls, err)
}

// printKeys prints what --make-key and --make-token-key ask for.
func (s *config) printKeys(out io.Writer) error {
	if s.MakeTokenKey {
		_, err := fmt.Fprintln(out, gateway.MakeTokenKey())
		return err
	}
	key, digest := services.MakeKey()
	entry := fmt.Sprintf(`{"name":%q,"keys":[%q],"accounts":[],"may":["relay"]}`, s.MakeKey, digest)
	if _, err := services.Parse([]byte(`{"services":[` + entry + `]}`)); err != nil {
		return settings.NewError(settings.Fault("make-key", "%w", err))
	}
	fmt.Fprintln(os.Stderr, "The key, which is shown once, and the entry for the services file. List in accounts <component>/<appid>, <component>/* or ref:<prefix>*.")
	_, err := fmt.Fprintf(out, "%s\n%s\n", key, entry)
	return err
}
