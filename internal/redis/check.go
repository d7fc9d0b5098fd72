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

// checkLife is the life of the key that a check writes, in case it can't remove it.
const checkLife = 5 * time.Second

// Check returns nil if Redis can be reached and takes what a gateway writes, otherwise what
// prevents that.
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
	commands := []command{ // each command that a writer sends
		{name: "SET", args: []any{key, "1", "PX", checkLife.Milliseconds()}},
		{name: "EXISTS", args: []any{key}},
		{name: "SCAN", args: []any{"0", "MATCH", markOf("*"), "COUNT", 1}},
		{script: remove, args: append(arguments(key, wxtoken.ComponentKey("wxcheck"), newest), 0, "")},
		{name: "DEL", args: []any{key}},
	}
	for _, f := range formats { // reads keys that don't exist, to check the user's rights
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

// Server returns the address of Redis, without user and password.
func (c Config) Server() string {
	s, err := parseServer(c.RedisURL)
	if err != nil {
		return ""
	}
	return s.String()
}

// hints say what to do about error answers of Redis's, by their beginnings.
var hints = []struct{ begins, hint string }{
	{"MOVED ", clusterHint}, {"ASK ", clusterHint}, {"CLUSTERDOWN", clusterHint}, {"CROSSSLOT", clusterHint},
	{"ERR SELECT is not allowed in cluster mode", clusterHint},
	{"READONLY", "a replica: want the address of the primary, or of a proxy in front of both"},
	{"ERR unknown command", "a Sentinel, or not Redis: want the address of the server that Sentinel names, or of a proxy that follows it"},
	{"NOPERM", "the user lacks a right: docs/redis.md lists all that it needs"},
	{"NOAUTH", "want redis://user:password@..."}, {"WRONGPASS", "check user and password; they must be percent-encoded"},
}

const clusterHint = "one node of a cluster: want a server that has all keys, or a proxy in front of the cluster"

// withHint returns an error answer of Redis's as an error, with a hint what to do about it.
func withHint(text string) error {
	for _, h := range hints {
		if strings.HasPrefix(text, h.begins) {
			return fmt.Errorf("redis: %s (%s)", text, h.hint)
		}
	}
	return errors.New("redis: " + text)
}
