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

// natsUsers are the users that NATS has with --sim, in the accounts of deploy/nats/nats-server.conf: passwords by user.
// So a service may do here what it may do in production, and no more. Without --sim they are nil, and the server has
// no users.
type natsUsers map[string]string

// newNATSUsers makes random passwords. A client without a user name is the user service.
func newNATSUsers() natsUsers {
	u := natsUsers{"service": "service", "operator": "operator"}
	for _, user := range []string{"ingest", "refresher", "gateway", "console", "backup"} {
		u[user] = "p" + rand.Text()
	}
	return u
}

// conf is the configuration of the NATS server; "" without users.
func (u natsUsers) conf() string {
	if u == nil {
		return ""
	}
	return natsconf.Conf(u)
}

// user returns the option with which a part of this process logs in.
func (u natsUsers) user(role string) nats.Option {
	return func(o *nats.Options) error {
		o.User, o.Password = role, u[role]
		if u == nil {
			o.User = ""
		}
		return nil
	}
}

// checkDataDir returns an error if the data in dir is of a server with users and this one has none, or the other way
// round: the server would not find it.
func (u natsUsers) checkDataDir(dir string) error {
	account, other := "$G", "KEEPER" // as the server names the directories
	if u != nil {
		account, other = other, account
	}
	if _, err := os.Stat(filepath.Join(dir, "jetstream", other)); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return settings.Fault("data-dir", "%s holds the data of account %s, but this server has its data in %s: it is of wxtoken %s --sim, or of an earlier version (choose another directory)",
		dir, other, account, map[bool]string{true: "without", false: "with"}[u != nil])
}
