package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/account"
	"wxtoken/internal/events"
)

// Connect is the record of one authorization link. It is kept for a while after the link's end, so
// that its page can tell a late visitor that the link was used or has expired.
type Connect struct {
	Version   int    `json:"v"`
	ID        string `json:"id"`
	Component string `json:"component"`
	// the parameters of the request
	Ref        string `json:"ref,omitempty"`
	Return     string `json:"return,omitempty"`
	AuthType   int    `json:"auth_type"`
	BizAppID   string `json:"biz_appid,omitempty"`
	Categories string `json:"category_id_list,omitempty"`
	Move       bool   `json:"move,omitempty"`

	MadeAt    time.Time `json:"made_at,omitzero"` // zero for links from before this field
	ExpiresAt time.Time `json:"expires_at"`
	Secret    string    `json:"secret"` // signs the sessions of the browsers that opened the landing page

	// set when the landing page is opened
	OpenedAt         time.Time `json:"opened_at,omitzero"` // for the first time
	PreAuthCode      string    `json:"pre_auth_code,omitempty"`
	PreAuthExpiresAt time.Time `json:"pre_auth_expires_at,omitzero"`

	// set when the browser comes back, or the push comes
	State      string    `json:"state"`
	CodeDigest string    `json:"code_digest,omitempty"` // SHA-256 of the redirect's code
	CodeAt     time.Time `json:"code_at,omitzero"`      // when the redirect came
	Authorizer string    `json:"authorizer,omitempty"`
	EndedAt    time.Time `json:"ended_at,omitzero"` // when State became final
	Reason     string    `json:"reason,omitempty"`

	Claim   *account.Claim `json:"claim,omitempty"`   // set while one of the authorization's codes is being exchanged
	SpentAt time.Time      `json:"spent_at,omitzero"` // when the code of CodeDigest was first found spent, as far as known not by us

	Revision uint64 `json:"-"`
}

func (c *Connect) version() int { return c.Version }

// connectLinger is how long the record of an expired link is kept, so that its page does not call
// it unknown.
const connectLinger = 24 * time.Hour

// Connect returns a link; ok is false if it does not exist.
func (s *Store) Connect(ctx context.Context, id string) (c Connect, ok bool, err error) {
	c.Revision, err = s.read(ctx, events.ConnectSubject(shortDigest(id)), &c)
	return c, c.Revision > 0 && err == nil, err
}

// ConnectOf returns the link with that pre-auth code; ok is false if there is none.
func (s *Store) ConnectOf(ctx context.Context, preAuthCode string) (c Connect, ok bool, err error) {
	if preAuthCode == "" {
		return c, false, nil
	}
	m, err := s.last(ctx, events.PreAuthSubject(shortDigest(preAuthCode)))
	if err != nil || m == nil {
		return c, false, err
	}
	id, err := s.open(m.Subject, m.Header, m.Data)
	if err != nil {
		return c, false, err
	}
	return s.Connect(ctx, string(id))
}

// SaveConnect stores a link by compare-and-set and returns it with its new revision, or ErrLost as
// Save does. The server removes it connectLinger after it has expired.
func (s *Store) SaveConnect(ctx context.Context, c Connect, now time.Time) (Connect, error) {
	c.Version = recordVersion
	life := max(c.ExpiresAt.Sub(now), c.PreAuthExpiresAt.Sub(now), 0) + connectLinger
	ttl := jetstream.WithMsgTTL(life.Truncate(time.Second))
	var err error
	c.Revision, err = s.write(ctx, events.ConnectSubject(shortDigest(c.ID)), &c, c.Revision, ttl)
	return c, err
}

// IndexConnect lets ConnectOf find a link by its pre-auth code.
func (s *Store) IndexConnect(ctx context.Context, c Connect, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m := nats.NewMsg(events.PreAuthSubject(shortDigest(c.PreAuthCode)))
	m.Data = []byte(c.ID)
	s.keys.Seal(m)
	ttl := jetstream.WithMsgTTL((max(c.PreAuthExpiresAt.Sub(now), 0) + connectLinger).Truncate(time.Second))
	if _, err := s.js.PublishMsg(ctx, m, ttl, jetstream.WithRetryAttempts(0)); err != nil {
		return fmt.Errorf("write %s: %w", m.Subject, err)
	}
	return nil
}

// UpdateConnect changes a link by compare-and-set. change may be called several times; it reports
// whether there is anything to store. A link that does not exist any more is not an error.
func (s *Store) UpdateConnect(ctx context.Context, id string, now time.Time, change func(*Connect) bool) error {
	return update(ctx, func() error {
		c, ok, err := s.Connect(ctx, id)
		if err != nil || !ok || !change(&c) {
			return err
		}
		_, err = s.SaveConnect(ctx, c, now)
		return err
	})
}

// shortDigest returns a digest that names a secret in a subject: more users may see subjects than
// records.
func shortDigest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:16])
}
