// Package natsconf holds deploy/nats/nats-server.conf, so that what is rehearsed has the same walls as what is deployed.
package natsconf

import _ "embed"

// Accounts is nats-server.conf: who may do what. It wants its variables.
//
//go:embed nats-server.conf
var Accounts string
