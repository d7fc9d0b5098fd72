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
	Description: "Gives tokens to programs that speak HTTP, and hands their calls on to WeChat with the current token: an SDK gets its address as API host, the authorizer's appid, and a key as secret.",
	Defaults:    map[string]string{"ops-addr": "127.0.0.1:8083"},
}

// config is all that an operator can set.
type config struct {
	HTTPAddr     string `name:"http-addr" group:"Gateway" default:"127.0.0.1:8090" help:"Address for services. Without --tls-cert put a proxy with TLS in front of any address that others can reach."`
	TLSCert      string `name:"tls-cert" group:"Gateway" placeholder:"file" help:"Certificate for --http-addr, PEM, with its chain. It is read again when it changes."`
	TLSKey       string `name:"tls-key" group:"Gateway" placeholder:"file" help:"Its key, PEM."`
	WechatAPIURL string `name:"wechat-api-url" group:"Gateway" default:"https://api.weixin.qq.com" help:"WeChat's API, to which calls are handed on. This machine's address belongs on the IP whitelist."`
	gateway.Config
	Redis        redis.Config  `embed:""`
	MakeKey      string        `group:"Gateway" placeholder:"service" help:"Print a new key for a service, and its entry for the services file; then end."`
	MakeTokenKey bool          `group:"Gateway" help:"Print a line for --token-key-file; then end."`
	Drain        time.Duration `group:"Operations" default:"1s" help:"How long requests are still taken after SIGTERM, while the load balancer learns from /readyz to send them elsewhere."`
	natsconn.Settings
	settings.Operations

	signer *gateway.Signer
}

// maxDrain bounds how long the end of the process can take.
const maxDrain = time.Minute

// Validate reads the keys that sign, and returns what is wrong with them, with the drain and with
// TLS.
func (s *config) Validate() error {
	if s.MakeTokenKey || s.MakeKey != "" {
		return nil // that needs nothing else
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

// make prints what --make-key and --make-token-key ask for.
func (s *config) make(out io.Writer) error {
	if s.MakeTokenKey {
		_, err := fmt.Fprintln(out, gateway.MakeTokenKey())
		return err
	}
	key, digest := services.MakeKey()
	entry := fmt.Sprintf(`{"name":%q,"keys":[%q],"accounts":[],"may":["relay"]}`, s.MakeKey, digest)
	if _, err := services.Parse([]byte(`{"services":[` + entry + `]}`)); err != nil {
		return settings.NewError(settings.Fault("make-key", "%w", err))
	}
	fmt.Fprintln(os.Stderr, "The key, which is shown once, and the entry for the services file. accounts wants <component>/<appid>, <component>/* or ref:<prefix>*.")
	_, err := fmt.Fprintf(out, "%s\n%s\n", key, entry)
	return err
}
