package console

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"wxtoken/client"
	"wxtoken/internal/events"
)

// maxComponents bounds the components on one page.
const maxComponents = 100

// maxReads bounds the reads of one page that are under way at the same time.
const maxReads = 16

// page is what one request shows.
type page struct {
	Components  []row  `json:"components"`
	Authorizers []row  `json:"authorizers"`               // and what else is kept for them
	Next        string `json:"next,omitempty"`            // give it as after for the rest
	Total       int    `json:"total"`                     // authorizers that match, on all pages
	LeftOut     int    `json:"components_left_out"`       // components beyond maxComponents
	Unreadable  int    `json:"unreadable_keys,omitempty"` // subjects in the buckets that are not keys
}

// row is what is known about one key.
type row struct {
	Key              wxtoken.Key        `json:"key"`
	State            wxtoken.State      `json:"state,omitempty"` // empty: nothing is stored
	Name             string             `json:"nick_name,omitempty"`
	Generation       uint64             `json:"generation"`
	TokenSHA256      string             `json:"token_sha256_first_8,omitempty"` // empty: there is no token
	ExpiresAt        time.Time          `json:"expires_at,omitzero"`
	RenewAt          time.Time          `json:"renew_at,omitzero"`
	TicketReceivedAt *time.Time         `json:"ticket_received_at,omitempty"`
	Failures         int                `json:"failures"`
	LastError        *wxtoken.LastError `json:"last_error,omitempty"`
	Held             *wxtoken.Condition `json:"held_back,omitempty"` // what keeps the tokens of a component from being renewed
}

// load reads what q asks for.
func (c *console) load(ctx context.Context, q query) (page, error) {
	tokens, err := c.js.Stream(ctx, events.StreamTokens)
	if err != nil {
		return page{}, fmt.Errorf("look up stream %s: %w", events.StreamTokens, err)
	}
	status, err := c.js.Stream(ctx, events.StreamStatus)
	if err != nil {
		return page{}, fmt.Errorf("look up stream %s: %w", events.StreamStatus, err)
	}
	known := map[wxtoken.Key]bool{} // a key may have a status without a token, and the other way round
	var p page
	for _, bucket := range []struct {
		stream jetstream.Stream
		prefix string
	}{{tokens, prefixTokens}, {status, prefixStatus}} {
		info, err := bucket.stream.Info(ctx, jetstream.WithSubjectFilter(bucket.prefix+">"))
		if err != nil {
			return page{}, fmt.Errorf("list the keys below %s: %w", bucket.prefix, err)
		}
		for subject := range info.State.Subjects {
			key, err := wxtoken.ParseKey(strings.TrimPrefix(subject, bucket.prefix))
			if err != nil {
				p.Unreadable++
			} else if q.wants(key) {
				known[key] = true
			}
		}
	}
	var components, others []wxtoken.Key
	for key := range known {
		if key.Kind == wxtoken.KindComponent {
			components = append(components, key)
		} else {
			others = append(others, key)
		}
	}
	components, _ = cut(components, "", maxComponents)
	p.LeftOut = len(known) - len(others) - len(components)
	p.Total = len(others)
	others, more := cut(others, q.after, q.limit)
	if more {
		p.Next = others[len(others)-1].String()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxReads)
	fill := func(keys []wxtoken.Key) []row {
		rows := make([]row, len(keys))
		for i, key := range keys {
			group.Go(func() (err error) {
				rows[i], err = read(ctx, tokens, status, key, c.now())
				return err
			})
		}
		return rows
	}
	p.Components, p.Authorizers = fill(components), fill(others)
	return p, group.Wait()
}

// cut returns the keys after a key, in order and at most limit of them, and whether more follow.
func cut(keys []wxtoken.Key, after string, limit int) (some []wxtoken.Key, more bool) {
	slices.SortFunc(keys, func(a, b wxtoken.Key) int { return strings.Compare(a.String(), b.String()) })
	from, found := slices.BinarySearchFunc(keys, after, func(k wxtoken.Key, after string) int { return strings.Compare(k.String(), after) })
	if found {
		from++
	}
	keys = keys[from:]
	return keys[:min(limit, len(keys))], len(keys) > limit
}

// read reads one key. A record that can't be read is as good as none.
func read(ctx context.Context, tokens, status jetstream.Stream, key wxtoken.Key, now time.Time) (row, error) {
	r, known := row{Key: key}, false
	m, err := tokens.GetLastMsgForSubject(ctx, prefixTokens+key.String())
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return r, fmt.Errorf("read the token of %s: %w", key, err)
	}
	if err == nil {
		var t wxtoken.Token
		if t.UnmarshalJSON(m.Data) == nil { // a deletion has no record
			sum := sha256.Sum256([]byte(t.Value.Reveal()))
			r.Generation, r.TokenSHA256, r.ExpiresAt, r.RenewAt = t.Generation, hex.EncodeToString(sum[:4]), t.ExpiresAt, t.RenewAt
			known = true
		}
	}
	m, err = status.GetLastMsgForSubject(ctx, prefixStatus+key.String())
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return r, fmt.Errorf("read the status of %s: %w", key, err)
	}
	var s wxtoken.Status
	if err != nil || json.Unmarshal(m.Data, &s) != nil {
		return r, nil
	}
	r.State = s.State
	if known { // the page is read when the token may have died since the status was written
		r.State = s.StateAt(now, r.ExpiresAt)
	}
	r.Failures, r.TicketReceivedAt, r.LastError = s.Failures, s.TicketReceivedAt, s.LastError
	if held, ok := s.Held(); ok {
		r.Held = &held
	}
	if s.Authorizer != nil {
		_ = json.Unmarshal(s.Authorizer.Profile["nick_name"], &r.Name) // WeChat's; no name is no fault
	}
	return r, nil
}
