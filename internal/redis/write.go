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
	// scanCount is how many keys one SCAN goes through.
	scanCount = 1000
)

// entry is a key in Redis and what should be there.
type entry struct {
	key   string
	owner wxtoken.Key
	token wxtoken.Token // to be written, as value
	value string
	old   *held // if not nil, the key is to be removed, and this was there
}

// write makes Redis agree with the view for some tokens. With check it reads first, and writes only
// what is missing or old: for a pass over all tokens, most of which are there.
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

// entries returns what to write into Redis, or to remove from it, for a token: nothing if it is
// neither there nor wanted there, or has expired.
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
		// Recorded before it is written: if it may be there, it is removed later.
		w.hold(key, held{version: versionOf(token), expires: token.ExpiresAt, keys: len(all)})
	case wanted && !errors.Is(err, wxtoken.ErrRevoked):
		w.hold(key, held{}) // it has expired, and so has its key in Redis
	case lies:
		if !wanted {
			have.version, have.expires = newest, time.Time{} // removed whichever token it is, and without a mark, so that it may come back
		}
		for _, f := range w.formats {
			if name, ok := f.key(key); ok {
				all = append(all, entry{key: name, owner: key, old: &have})
			}
		}
	}
	return all
}

// hold records a token that is in Redis, or with held{} that it is not.
func (w *Writer) hold(key wxtoken.Key, h held) {
	w.keys += h.keys - w.held[key].keys
	if h.keys == 0 {
		delete(w.held, key)
	} else {
		w.held[key] = h
	}
}

// release records that a token was removed. The same account's token under another component may
// belong under the same key in Redis, so it is checked.
func (w *Writer) release(key wxtoken.Key) {
	w.hold(key, held{})
	for _, component := range w.client.Components() {
		other := wxtoken.Key{Kind: key.Kind, Component: component, Authorizer: key.Authorizer}
		if _, known := w.known[other]; known && other != key {
			w.markDirty(other)
		}
	}
}

// missing returns the entries that are not in Redis, or not up to date there.
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
			return nil, errors.New("unexpected answer to MGET (not a list of two)")
		}
		if e.old != nil || got[0] != e.value || got[1] != markText(stateSet, versionOf(e.token), e.owner) {
			out = append(out, e)
		}
	}
	return out, nil
}

// send writes and removes entries. The scripts decide whether they do.
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
				continue // it has just expired
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
			return errors.New("unexpected answer of a script (not a word)")
		}
		w.metrics.writes.WithLabelValues(outcome).Inc()
		w.logOutcome(e, outcome)
	}
	return nil
}

// logOutcome logs an odd outcome of an entry, once.
func (w *Writer) logOutcome(e entry, outcome string) {
	if outcome != outcomeForeign && outcome != outcomeShared {
		delete(w.logged, e.key)
		return
	}
	if w.logged[e.key] == outcome || e.old != nil {
		return
	}
	w.logged[e.key] = outcome
	line := w.log.Warn().Str("key", e.owner.String()).Str("redis_key", e.key)
	if outcome == outcomeForeign {
		line.Str("hint", "another process renews this account, which ends wxtoken's token: "+
			"take appsecret and refresh tokens away from it").Msg("value of another process found in redis")
		return
	}
	line.Str("hint", "two components share this key, and the newer token is there: limit the format to one component, "+
		"name@component").Msg("key of redis shared by two components")
}

// sweep removes keys that earlier processes left in Redis and that no service may have any more:
// because the services or formats were different, or because no gateway ran when an account was
// cancelled. What this process itself has written is removed by write.
func (w *Writer) sweep(conn *connection) error {
	readers := w.readers()
	for cursor := "0"; ; {
		answers, err := conn.pipeline([]command{{name: "SCAN", args: []any{cursor, "MATCH", markOf("*"), "COUNT", scanCount}}})
		if err != nil {
			return err
		}
		page, err := redis.Values(answers[0], nil)
		if err != nil || len(page) != 2 {
			return errors.New("unexpected answer to SCAN (not a page)")
		}
		if cursor, err = redis.String(page[0], nil); err != nil {
			return errors.New("unexpected answer to SCAN (without a cursor)")
		}
		marks, err := redis.Strings(page[1], nil)
		if err != nil {
			return errors.New("unexpected answer to SCAN (without keys)")
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

// strays returns the entries, among some marks, whose keys must not be there.
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
			return nil, errors.New("unexpected answer to MGET (not a list of one)")
		}
		state, owner, ok := readMark(text[0])
		if !ok || state != stateSet || w.belongs(readers, owner, keyOf(mark)) {
			continue
		}
		out = append(out, entry{key: keyOf(mark), owner: owner, old: &held{version: newest}})
	}
	return out, nil
}

// belongs reports whether a token may be under a key in Redis. A token that the view does not have
// may: NATS may have lost it, and WeChat accepts it until it expires.
func (w *Writer) belongs(readers []*services.Service, owner wxtoken.Key, key string) bool {
	if !w.shared(readers, owner) || w.revoked(owner) {
		return false
	}
	return slices.ContainsFunc(w.formats, func(f format) bool {
		name, ok := f.key(owner)
		return ok && name == key
	})
}
