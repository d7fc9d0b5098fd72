package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	// patience bounds the dial, and each write and answer.
	patience = 5 * time.Second
	// maxText bounds how much of an error answer of Redis's is shown, in bytes.
	maxText = 200
)

// connection is a connection to Redis. It is not used any more after its first fault.
type connection struct {
	redis.Conn
	stop func() bool
}

// dial connects, logs in and loads the scripts. The connection ends with ctx.
func (s server) dial(ctx context.Context) (*connection, error) {
	var wire net.Conn
	dialer := net.Dialer{Timeout: s.patience}
	options := []redis.DialOption{
		redis.DialContextFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			var err error
			wire, err = dialer.DialContext(ctx, network, address)
			return wire, err
		}),
		redis.DialReadTimeout(s.patience), redis.DialWriteTimeout(s.patience), redis.DialTLSHandshakeTimeout(s.patience),
		redis.DialUseTLS(s.tls), redis.DialUsername(s.user), redis.DialPassword(s.password.Reveal()), redis.DialDatabase(s.db),
	}
	conn, err := redis.DialContext(ctx, "tcp", s.address, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", s, withoutArguments(err))
	}
	// Closing the wire ends a wait for an answer.
	c := &connection{Conn: conn, stop: context.AfterFunc(ctx, func() { _ = wire.Close() })}
	for _, script := range []*redis.Script{put, remove} {
		if err := script.Load(conn); err != nil {
			c.Close()
			return nil, fmt.Errorf("load scripts into %s: %w", s, withoutArguments(err))
		}
	}
	return c, nil
}

// Close ends the connection.
func (c *connection) Close() {
	c.stop()
	_ = c.Conn.Close() // it may be broken already
}

// command is one command of a pipeline.
type command struct {
	script *redis.Script // if nil, name is the command
	name   string
	args   []any
}

// pipeline sends commands and returns their answers in order, or the first error.
func (c *connection) pipeline(commands []command) ([]any, error) {
	for _, one := range commands {
		var err error
		if one.script != nil {
			err = one.script.SendHash(c.Conn, one.args...)
		} else {
			err = c.Send(one.name, one.args...)
		}
		if err != nil {
			return nil, withoutArguments(err)
		}
	}
	if err := c.Flush(); err != nil {
		return nil, withoutArguments(err)
	}
	answers := make([]any, len(commands))
	for i := range commands {
		answer, err := c.Receive()
		if err != nil {
			return nil, withoutArguments(err)
		}
		answers[i] = answer
	}
	return answers, nil
}

// withoutArguments returns an error of Redis's without a command's arguments: Redis repeats those
// of an unknown command.
func withoutArguments(err error) error {
	refusal, ok := errors.AsType[redis.Error](err)
	if !ok {
		return err
	}
	text, _, _ := strings.Cut(string(refusal), ", with args")
	if len(text) > maxText {
		text = text[:maxText]
	}
	return withHint(text)
}
