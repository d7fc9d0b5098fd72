package natsconn

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"wxtoken/internal/logger"
)

const (
	probeEvery  = 2 * time.Second        // between two looks whether NATS takes refused subscriptions again
	flushWithin = time.Second            // for NATS to answer what was tried
	probeSettle = 250 * time.Millisecond // between NATS's word on a subscription and ours on it
)

// subscriptions heals a connection whose subscriptions NATS took away.
//
// When a user loses a right in a reload of NATS's settings, the server removes the subscriptions
// that it does not allow any more, and says so once. The client library goes on believing in them,
// and when the right is back nothing arrives on them all the same: an inbox hears no answer, a
// service no request. Only a new connection, on which everything is subscribed again, helps. It
// would disturb what still works while the right is away, so it is made when a subscription of the
// same kind was tried and not refused.
type subscriptions struct {
	nc  *nats.Conn
	log zerolog.Logger

	mu      sync.Mutex
	refused map[string]time.Time // when NATS last refused it, by subject; all inboxes are one
	probing bool                 // a look is under way, or will be
	quiet   bool                 // NATS complains of what the look tried: that has been told
}

var refusedSubject = regexp.MustCompile(`(?i)subscription to "([^"]+)"`)

// watchSubscriptions has nc heal by itself.
func watchSubscriptions(nc *nats.Conn, log zerolog.Logger) *subscriptions {
	s := &subscriptions{nc: nc, log: log, refused: map[string]time.Time{}}
	complained, disconnected := nc.ErrorHandler(), nc.DisconnectErrHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if told := s.note(err); !told && complained != nil {
			complained(nc, sub, err)
		}
	})
	nc.SetDisconnectErrHandler(func(nc *nats.Conn, err error) {
		s.forget() // a server that is come back to says anew what it refuses
		if disconnected != nil {
			disconnected(nc, err)
		}
	})
	return s
}

// note remembers the subscription that err refuses, if it is about one, and reports whether it is
// what a look brought about.
func (s *subscriptions) note(err error) (told bool) {
	found := refusedSubject.FindStringSubmatch(fmt.Sprint(err))
	if found == nil || !errors.Is(err, nats.ErrPermissionViolation) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[s.kind(found[1])] = time.Now()
	if !s.probing {
		s.probing = true
		time.AfterFunc(probeEvery, s.probe)
	}
	return s.quiet
}

// kind is what a subject is remembered by: of inboxes there are always new ones.
func (s *subscriptions) kind(subject string) string {
	if inboxes := s.inboxes(); strings.HasPrefix(subject, strings.TrimSuffix(inboxes, ">")) {
		return inboxes
	}
	return subject
}

func (s *subscriptions) inboxes() string { return s.nc.Opts.InboxPrefix + ".>" }

// forget begins anew.
func (s *subscriptions) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.refused)
}

// probe subscribes once more to what was refused. NATS takes it or complains of it before it
// answers the flush.
func (s *subscriptions) probe() {
	s.mu.Lock()
	subjects := slices.Collect(maps.Keys(s.refused))
	s.quiet = true
	s.mu.Unlock()
	began := time.Now()
	var tried []*nats.Subscription
	for _, subject := range subjects {
		if subject == s.inboxes() {
			subject = s.nc.NewInbox()
		}
		if sub, err := s.nc.SubscribeSync(subject); err == nil {
			tried = append(tried, sub)
		}
	}
	answered := s.nc.FlushTimeout(flushWithin) == nil
	for _, sub := range tried {
		_ = sub.Unsubscribe() // the connection may be gone, and the subscription with it
	}
	time.AfterFunc(probeSettle, func() { s.judge(began, answered) })
}

// judge has the connection made anew if NATS took one of the subscriptions that a look tried at
// began.
func (s *subscriptions) judge(began time.Time, answered bool) {
	s.mu.Lock()
	s.quiet = false
	var back []string
	for subject, at := range s.refused {
		if answered && at.Before(began) {
			back = append(back, subject)
		}
	}
	s.probing = len(s.refused) > 0 && len(back) == 0 && !s.nc.IsClosed()
	if s.probing {
		time.AfterFunc(probeEvery, s.probe)
	}
	s.mu.Unlock()
	if len(back) == 0 {
		return
	}
	slices.Sort(back)
	s.log.Info().Strs("subjects", back).Msg("nats allowed the subscriptions again, connecting anew")
	if err := s.nc.ForceReconnect(); err != nil {
		s.log.Warn().Str("error", logger.Text(err)).Msg("failed to connect to nats anew")
	}
}

// err says which subscriptions NATS refuses.
func (s *subscriptions) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refused) == 0 {
		return nil
	}
	return fmt.Errorf("NATS refuses to let this user hear %s: check its permissions (subscribe) in NATS's settings; once they are right this ends by itself",
		strings.Join(slices.Sorted(maps.Keys(s.refused)), ", "))
}
