package redis

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/settings"
)

const (
	defaultPort = "6379"
	wantURL     = "want redis://[user:password@]host:port/db, or rediss:// for TLS"
)

// Config says which Redis is filled with tokens, and under which keys.
type Config struct {
	RedisURL    wxtoken.Secret `name:"redis-url" group:"Gateway" placeholder:"redis://host:6379/0" help:"Redis in which SDKs look for shared tokens: redis://[user:password@]host:port/db, or rediss:// for TLS. It gets WeChat's own tokens of the accounts of services with the right real."`
	RedisFormat []string       `name:"redis-format" group:"Gateway" placeholder:"name,..." help:"Keys to fill there: wxjava[:prefix], silenceper, wechatpy[:prefix], or a key with {component} and {appid}, such as token:{component}:{appid}; several, comma-separated (docs/redis.md)."`
}

// Validate returns all faults of the settings, joined. It never shows the URL, which may contain a
// password.
func (c Config) Validate() error {
	var faults []error
	switch on := !c.RedisURL.IsZero(); {
	case on && len(c.RedisFormat) == 0:
		faults = append(faults, settings.Fault("redis-format", "missing (it names the keys to fill, for instance wxjava)"))
	case !on && len(c.RedisFormat) > 0:
		faults = append(faults, settings.Fault("redis-url", "missing, but %s is set (it names the Redis to fill)",
			settings.Name("redis-format")))
	case on:
		if _, err := parseServer(c.RedisURL); err != nil {
			faults = append(faults, settings.Fault("redis-url", "%w", err))
		}
	}
	if _, err := parseFormats(c.RedisFormat); err != nil {
		faults = append(faults, settings.Fault("redis-format", "%w", err))
	}
	return errors.Join(faults...)
}

// server is the address of a Redis server, and how to log in.
type server struct {
	address  string // host:port
	user     string
	password wxtoken.Secret
	db       int
	tls      bool
	patience time.Duration // bounds the dial, and each write and answer
}

// parseServer reads the URL of a Redis server. Its error does not show the URL.
func parseServer(secret wxtoken.Secret) (server, error) {
	u, err := url.Parse(secret.Reveal())
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Hostname() == "" || u.Opaque != "" {
		return server{}, errors.New("not the URL of a Redis server (" + wantURL + "; a password is percent-encoded)")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return server{}, errors.New("text after the database (" + wantURL + "; a password is percent-encoded)")
	}
	s := server{tls: u.Scheme == "rediss", patience: patience}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	s.address = net.JoinHostPort(u.Hostname(), port)
	if u.User != nil {
		password, given := u.User.Password()
		if !given || password == "" {
			return server{}, errors.New("a user without a password (" + wantURL + ")")
		}
		s.user, s.password = u.User.Username(), wxtoken.NewSecret(password)
	}
	if name := strings.Trim(u.Path, "/"); name != "" {
		if s.db, err = strconv.Atoi(name); err != nil || s.db < 0 {
			return server{}, errors.New("the database is not a number (" + wantURL + ")")
		}
	}
	return s, nil
}

// String returns host, port and database: without user and password, which must not be shown.
func (s server) String() string { return fmt.Sprintf("%s/%d", s.address, s.db) }
