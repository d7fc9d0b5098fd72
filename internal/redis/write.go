package redis

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gomodule/redigo/redis"

	"wxtoken/client"
	"wxtoken/internal/services"
)

const (
	// atOnce is how many tokens go into one pipeline.
	atOnce = 250
	// scanned is how many keys of Redis one SCAN looks through.
	scanned = 1000
)

// entry is a key of Redis and what belongs there.
type entry struct {
	key   string
	owner wxtoken.Key
	token wxtoken.Token // to be written, as value
	value string
	old   *held // not nil: the key goes, and this lay there
}

// write brings Redis to what the view says of some tokens. With check it reads first, and writes
// what is missing or old: for a pass over all, most of which lie there.
func (w *Writer) write(conn *connection, keys []wxtoken.Key, check bool) error {
	readers := w.readers()
	for some := range slices.Chunk(keys, atOnce) {
		var entries []entry
		for _, key := range some {
			entries = append(entries, w.entries(readers, key)...)
		}
		if check {
			var err error
			if entries, err = missing(conn, entries); err != nil {
				return fmt.Errorf("read keys: %w", err)
			}
		}
		if err := w.send(conn, entries); err != nil {
			return fmt.Errorf("write keys: %w", err)
		}
		for _, e := range entries {
			if e.old != nil {
				w.release(e.owner)
			}
		}
	}
	w.metrics.keys.Set(float64(w.keys))
	return nil
}

// entries returns what belongs into Redis of a token: nothing where it is not to lie there, or has
// expired.
func (w *Writer) entries(readers []*services.Service, key wxtoken.Key) (all []entry) {
	token, err := w.client.Token(key)
	have, lies := w.held[key]
	wanted := w.shared(readers, key)
	switch {
	case wanted && err == nil:
		for _, f := range w.formats {
			if name, ok := f.key(key); ok {
				all = append(all, entry{key: name, owner: key, token: token, value: f.value(token.Value)})
			}
		}
		// Noted before it is written: what may lie there is removed later.
		w.hold(key, held{version: versionOf(token), expires: token.ExpiresAt, keys: len(all)})
	case wanted && !errors.Is(err, wxtoken.ErrRevoked):
		w.hold(key, held{}) // it has expired, and Redis dropped it as well
	case lies:
		if !wanted {
			have.version, have.expires = newest, time.Time{} // it goes, whichever token it is, and may come back
		}
		for _, f := range w.formats {
			if name, ok := f.key(key); ok {
				all = append(all, entry{key: name, owner: key, old: &have})
			}
		}
	}
	return all
}

// hold notes that a token lies under so many keys of Redis.
func (w *Writer) hold(key wxtoken.Key, h held) {
	w.keys += h.keys - w.held[key].keys
	if h.keys == 0 {
		delete(w.held, key)
	} else {
		w.held[key] = h
	}
}

// release notes that a token was removed. That of the same account under another component may
// belong under the same key of Redis: it is looked at.
func (w *Writer) release(key wxtoken.Key) {
	w.hold(key, held{})
	for _, component := range w.client.Components() {
		other := wxtoken.Key{Kind: key.Kind, Component: component, Authorizer: key.Authorizer}
		if _, known := w.known[other]; known && other != key {
			w.note(other)
		}
	}
}

// missing returns the entries that are not in Redis as they should be.
func missing(conn *connection, entries []entry) ([]entry, error) {
	commands := make([]command, len(entries))
	for i, e := range entries {
		commands[i] = command{name: "MGET", args: []any{e.key, markOf(e.key)}}
	}
	answers, err := conn.pipeline(commands)
	if err != nil {
		return nil, err
	}
	var out []entry
	for i, e := range entries {
		got, err := redis.Strings(answers[i], nil) // "" for a key that is missing, or of another type
		if err != nil || len(got) != 2 {
			return nil, errors.New("an answer to MGET that is no list of two")
		}
		if e.old != nil || got[0] != e.value || got[1] != markText(stateSet, versionOf(e.token), e.owner) {
			out = append(out, e)
		}
	}
	return out, nil
}

// send writes and removes entries. The scripts decide what comes of it.
func (w *Writer) send(conn *connection, entries []entry) error {
	now := w.now()
	var sent []entry
	var commands []command
	for _, e := range entries {
		if e.old != nil {
			args := arguments(e.key, e.owner, e.old.version)
			rest := max(0, e.old.expires.Sub(now).Milliseconds())
			commands = append(commands, command{script: remove, args: append(args, rest, markText(stateGone, e.old.version, e.owner))})
		} else {
			life := e.token.ExpiresAt.Sub(now).Milliseconds()
			if life <= 0 {
				continue // it expired in this moment
			}
			v := versionOf(e.token)
			commands = append(commands, command{script: put, args: append(arguments(e.key, e.owner, v), e.value, life, markText(stateSet, v, e.owner))})
		}
		sent = append(sent, e)
	}
	answers, err := conn.pipeline(commands)
	if err != nil {
		return err
	}
	for i, e := range sent {
		outcome, err := redis.String(answers[i], nil)
		if err != nil {
			return errors.New("an answer of a script that is no word")
		}
		w.metrics.writes.WithLabelValues(outcome).Inc()
		w.settle(e, outcome)
	}
	return nil
}

// settle notes what came of an entry, and logs what is odd about it, once.
func (w *Writer) settle(e entry, outcome string) {
	if outcome != outcomeForeign && outcome != outcomeShared {
		delete(w.told, e.key)
		return
	}
	if w.told[e.key] == outcome || e.old != nil {
		return
	}
	w.told[e.key] = outcome
	line := w.log.Warn().Str("key", e.owner.String()).Str("redis_key", e.key)
	if outcome == outcomeForeign {
		line.Str("hint", "another process renews this account, which ends wxtoken's token: take appsecret and refresh tokens away from it").
			Msg("value of another process found in redis")
		return
	}
	line.Str("hint", "two components share this key of redis, and the newer token lies there: limit the format to one, name@component").
		Msg("key of redis shared by two components")
}

// sweep removes keys that lie in Redis from before and that no service may have any more: of a
// process that ran with other services or formats, or that was away when an account was cancelled.
// What this process has written is not its matter: write removes that.
func (w *Writer) sweep(conn *connection) error {
	readers := w.readers()
	for cursor := "0"; ; {
		answers, err := conn.pipeline([]command{{name: "SCAN", args: []any{cursor, "MATCH", markOf("*"), "COUNT", scanned}}})
		if err != nil {
			return err
		}
		page, err := redis.Values(answers[0], nil)
		if err != nil || len(page) != 2 {
			return errors.New("an answer to SCAN that is no page")
		}
		if cursor, err = redis.String(page[0], nil); err != nil {
			return errors.New("an answer to SCAN without a cursor")
		}
		marks, err := redis.Strings(page[1], nil)
		if err != nil {
			return errors.New("an answer to SCAN without keys")
		}
		entries, err := w.strays(conn, readers, marks)
		if err != nil {
			return err
		}
		if err := w.send(conn, entries); err != nil {
			return err
		}
		if cursor == "0" {
			return nil
		}
	}
}

// strays returns those of some marks whose keys must not be there.
func (w *Writer) strays(conn *connection, readers []*services.Service, marks []string) ([]entry, error) {
	commands := make([]command, len(marks))
	for i, mark := range marks {
		commands[i] = command{name: "MGET", args: []any{mark}}
	}
	answers, err := conn.pipeline(commands)
	if err != nil {
		return nil, err
	}
	var out []entry
	for i, mark := range marks {
		text, err := redis.Strings(answers[i], nil)
		if err != nil || len(text) != 1 {
			return nil, errors.New("an answer to MGET that is no list of one")
		}
		state, owner, ok := readMark(text[0])
		if !ok || state != stateSet || w.belongs(readers, owner, keyOf(mark)) {
			continue
		}
		out = append(out, entry{key: keyOf(mark), owner: owner, old: &held{version: newest}})
	}
	return out, nil
}

// belongs reports whether a token may lie under a key of Redis. One that the view does not have
// may: NATS may have lost it, and WeChat takes it until it expires.
func (w *Writer) belongs(readers []*services.Service, owner wxtoken.Key, key string) bool {
	if !w.shared(readers, owner) || w.revoked(owner) {
		return false
	}
	return slices.ContainsFunc(w.formats, func(f format) bool { name, ok := f.key(owner); return ok && name == key })
}
