// Package natsconf holds deploy/nats/nats-server.conf, so that what is rehearsed has the same walls
// as what is deployed.
package natsconf

import (
	_ "embed"
	"fmt"
	"strings"
)

// Accounts is nats-server.conf: who may do what. It wants its variables.
//
//go:embed nats-server.conf
var Accounts string

// Conf returns nats-server.conf with its variables, for a server within a process, which decides by
// itself where it listens and whether it encrypts: passwords has one for each user. A client that
// names no user is the user service.
func Conf(passwords map[string]string) string {
	var text strings.Builder
	for user, password := range passwords {
		fmt.Fprintf(&text, "%s_PASSWORD: %s\n", strings.ToUpper(user), password)
	}
	return text.String() + "JETSTREAM_KEY: unused\n" + Accounts + "\nno_auth_user: service\n"
}
