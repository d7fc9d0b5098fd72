package main

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"

	natsconf "wxtoken/deploy/nats"
	"wxtoken/internal/settings"
)

// walls are the accounts and users that NATS has with --sim: those of deploy/nats/nats-server.conf.
// What a service does here it can do in production, and what it is refused there it is refused
// here.
type walls map[string]string // password by user; nil without --sim: the server knows no users

// newWalls invents the passwords. A client that names no user is the user service.
func newWalls() walls {
	w := walls{"service": "service", "operator": "operator"}
	for _, user := range []string{"ingest", "refresher", "gateway", "console", "backup"} {
		w[user] = "p" + rand.Text()
	}
	return w
}

// conf is the configuration of the NATS server; "" without walls.
func (w walls) conf() string {
	if w == nil {
		return ""
	}
	return natsconf.Conf(w)
}

// user is how a part of this process says who it is.
func (w walls) user(role string) nats.Option {
	return func(o *nats.Options) error {
		o.User, o.Password = role, w[role]
		if w == nil {
			o.User = ""
		}
		return nil
	}
}

// fits returns an error when the data in dir is of a server with walls and this one has none, or
// the other way round: it would not be found.
func (w walls) fits(dir string) error {
	account, other := "$G", "KEEPER" // as the server names the directories
	if w != nil {
		account, other = other, account
	}
	if _, err := os.Stat(filepath.Join(dir, "jetstream", other)); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return settings.Fault("data-dir", "%s lies in account %s, and this server keeps it in %s: it is of wxtoken %s --sim, or of an earlier one. Choose another directory",
		dir, other, account, map[bool]string{true: "without", false: "with"}[w != nil])
}
