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

// Connect is one authorization by link. It is kept for a while after its end, so that a late
// visitor is told that the link was used or has expired.
type Connect struct {
	Version   int    `json:"v"`
	ID        string `json:"id"`
	Component string `json:"component"`
	// as the caller wants it
	Ref        string `json:"ref,omitempty"`
	Return     string `json:"return,omitempty"`
	AuthType   int    `json:"auth_type"`
	BizAppID   string `json:"biz_appid,omitempty"`
	Categories string `json:"category_id_list,omitempty"`
	Move       bool   `json:"move,omitempty"`

	MadeAt    time.Time `json:"made_at,omitzero"` // links from before it was written down have none
	ExpiresAt time.Time `json:"expires_at"`
	Secret    string    `json:"secret"` // signs the sessions of the browsers that opened the landing page

	// since the landing page was opened
	OpenedAt         time.Time `json:"opened_at,omitzero"` // for the first time
	PreAuthCode      string    `json:"pre_auth_code,omitempty"`
	PreAuthExpiresAt time.Time `json:"pre_auth_expires_at,omitzero"`

	// since the browser came back, or the push came
	State      string    `json:"state"`
	CodeDigest string    `json:"code_digest,omitempty"` // SHA-256 of the redirect's code
	CodeAt     time.Time `json:"code_at,omitzero"`      // when that came
	Authorizer string    `json:"authorizer,omitempty"`
	EndedAt    time.Time `json:"ended_at,omitzero"` // when State became final
	Reason     string    `json:"reason,omitempty"`

	Claim   *account.Claim `json:"claim,omitempty"`   // set while one of the authorization's codes is being exchanged
	SpentAt time.Time      `json:"spent_at,omitzero"` // when the code of CodeDigest was first found spent, and not by us as far as is known

	Revision uint64 `json:"-"`
}

func (c *Connect) version() int { return c.Version }

// connectLinger is how long a link that has expired is still known, so that it is not called
// unknown.
const connectLinger = 24 * time.Hour

// Connect returns a link; ok is false when it does not exist.
func (s *Store) Connect(ctx context.Context, id string) (c Connect, ok bool, err error) {
	c.Revision, err = s.read(ctx, events.ConnectSubject(shortDigest(id)), &c)
	return c, c.Revision > 0 && err == nil, err
}

// ConnectOf returns the link whose pre-auth code that is; ok is false when there is none.
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

// SaveConnect stores a link by compare-and-set and returns it with its new revision; ErrLost as
// Save does. The server removes it some time after it has expired.
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
// whether there is anything to store. A link that is gone is left alone.
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

// shortDigest names a secret in a subject, which more may see than what lies there.
func shortDigest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:16])
}
