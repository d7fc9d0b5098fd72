package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"wxtoken/client"
)

// checkLife is how long what a check writes lies there, should it not get as far as to remove it.
const checkLife = 5 * time.Second

// Check tells whether Redis is there and takes what a gateway writes: nil, or what is in the way.
func (c Config) Check(ctx context.Context) error {
	s, err := parseServer(c.RedisURL)
	if err != nil {
		return err
	}
	formats, err := parseFormats(c.RedisFormat)
	if err != nil {
		return err
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	key := markPrefix + "check:" + rand.Text()
	commands := []command{{name: "SET", args: []any{key, "1", "PX", checkLife.Milliseconds()}}, {name: "DEL", args: []any{key}}}
	for _, f := range formats { // the rights of the user: nothing lies there
		for kind := range f.keys {
			made := wxtoken.Key{Kind: kind, Component: "wxcheck", Authorizer: "wxcheck"}
			if f.component != "" {
				made.Component = f.component
			}
			if name, ok := f.key(made); ok {
				commands = append(commands, command{name: "MGET", args: []any{name}})
			}
		}
	}
	if _, err := conn.pipeline(commands); err != nil {
		return fmt.Errorf("write to %s: %w", s, err)
	}
	return nil
}

// Server says where Redis is, without user and password.
func (c Config) Server() string {
	s, err := parseServer(c.RedisURL)
	if err != nil {
		return ""
	}
	return s.String()
}

// hints say what to do about an answer of Redis's that begins so.
var hints = []struct{ begins, hint string }{
	{"MOVED ", clusterHint}, {"ASK ", clusterHint}, {"CLUSTERDOWN", clusterHint}, {"CROSSSLOT", clusterHint},
	{"ERR SELECT is not allowed in cluster mode", clusterHint},
	{"READONLY", "a replica: want the address of the primary, or of what stands in front of both"},
	{"ERR unknown command", "a Sentinel, or no Redis: want the address of the server that Sentinel names, or of a proxy that follows it"},
	{"NOPERM", "the user lacks a right: docs/redis.md has all that it needs"},
	{"NOAUTH", "want redis://user:password@..."}, {"WRONGPASS", "look at user and password, percent-encoded"},
}

const clusterHint = "one node of a cluster: want a server that has all keys, or a proxy in front of the cluster"

// explained adds to an answer of Redis's what to do about it.
func explained(text string) error {
	for _, h := range hints {
		if strings.HasPrefix(text, h.begins) {
			return fmt.Errorf("redis: %s (%s)", text, h.hint)
		}
	}
	return errors.New("redis: " + text)
}
