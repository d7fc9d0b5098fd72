package settings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/rs/zerolog"
)

// Operations are the settings that all processes have. A Program has another default for OpsAddr, so that
// processes can share a machine.
type Operations struct {
	OpsAddr        string   `group:"Operations" default:"127.0.0.1:8081" help:"Address of health, metrics and the operator's page; port 0 takes any free one."`
	OpsExpose      bool     `group:"Operations" help:"Allow an ops-addr that other machines can reach. Health and metrics need no password; the operator's page does (--console-users-file)."`
	TrustedProxies []string `group:"Operations" placeholder:"addresses" help:"Addresses of the proxies in front of this process, or networks (10.0.0.0/8), separated by commas. In requests from them the client address in X-Forwarded-For counts, for limits, logs and records; in all others that of the connection."`
	LogLevel       string   `group:"Operations" default:"info" help:"debug (every event), info (state changed), warn (will be tried again) or error (a person must act)."`
	LogFormat      string   `group:"Operations" default:"auto" help:"json, console, or auto: console on a terminal."`
	Lang           string   `group:"Operations" default:"auto" help:"Language of --check and /check: en, zh, or auto: by LC_ALL, LC_MESSAGES or LANG, zh if that is Chinese, else en."`
}

// Validate returns all that is wrong with the settings, joined.
func (s Operations) Validate() error {
	var faults []error
	if err := hostPort(s.OpsAddr); err != nil {
		faults = append(faults, Fault("ops-addr", "%w", err))
	} else if !s.OpsExpose && !Loopback(s.OpsAddr) {
		faults = append(faults, Fault("ops-addr", "%q can be reached from outside, where health and metrics need no password: use 127.0.0.1, or add --ops-expose (%s=true) behind a firewall", s.OpsAddr, Variable("ops-expose")))
	}
	if _, err := Networks(trustedProxies, s.TrustedProxies); err != nil {
		faults = append(faults, err)
	}
	if _, err := Level(s.LogLevel); err != nil {
		faults = append(faults, Fault("log-level", "%w", err))
	}
	if err := CheckFormat(s.LogFormat); err != nil {
		faults = append(faults, Fault("log-format", "%w", err))
	}
	if err := checkLang(s.Lang); err != nil {
		faults = append(faults, Fault("lang", "%w", err))
	}
	return errors.Join(faults...)
}

const trustedProxies = "trusted-proxies"

// Proxies returns the networks of TrustedProxies, which Validate has checked.
func (s Operations) Proxies() []netip.Prefix {
	all, _ := Networks(trustedProxies, s.TrustedProxies)
	return all
}

// hostPort returns an error for an address that can't be listened on.
func hostPort(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not an address: want host:port, for instance 127.0.0.1:8081", addr)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%q has no usable port: want a number from 0 to 65535", addr)
	}
	return nil
}

// Loopback reports whether addr is valid and only this machine can reach it.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || hostPort(addr) != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// Level parses a log level: debug, info, warn or error.
func Level(name string) (zerolog.Level, error) {
	switch level, err := zerolog.ParseLevel(name); {
	case err == nil && level >= zerolog.DebugLevel && level <= zerolog.ErrorLevel:
		return level, nil
	default:
		return zerolog.NoLevel, fmt.Errorf("%q is not a level: want debug, info, warn or error", name)
	}
}

// The values of --log-format.
const (
	FormatAuto    = "auto" // console on a terminal, else json
	FormatJSON    = "json"
	FormatConsole = "console"
)

// CheckFormat returns an error for an unknown format.
func CheckFormat(name string) error {
	switch name {
	case FormatAuto, FormatJSON, FormatConsole:
		return nil
	}
	return fmt.Errorf("%q is not a format: want json, console or auto", name)
}
