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
	probeEvery  = 2 * time.Second        // between two probes whether NATS allows refused subscriptions again
	flushWithin = time.Second            // for NATS to answer a probe
	probeSettle = 250 * time.Millisecond // between NATS's answer to a probe and our judgement
)

// subscriptions restores the subscriptions of a connection that NATS took away.
//
// When a user loses a right in a reload of NATS's settings, the server removes the subscriptions
// that are not allowed any more, and reports that once. nats.go keeps them, but even when the right
// is back nothing arrives on them: an inbox gets no answers, a service no requests. Only a new
// connection, on which everything is subscribed again, helps. It would disturb what still works
// while the right is missing, so it is made only after a probe, a subscription of the same kind,
// was not refused.
type subscriptions struct {
	nc  *nats.Conn
	log zerolog.Logger

	mu      sync.Mutex
	refused map[string]time.Time // when NATS last refused a subject; all inboxes count as one
	probing bool                 // a probe is running or will run
	quiet   bool                 // a probe is running: its refusals are not logged again
}

var refusedSubject = regexp.MustCompile(`(?i)subscription to "([^"]+)"`)

// watchSubscriptions makes nc restore its subscriptions by itself.
func watchSubscriptions(nc *nats.Conn, log zerolog.Logger) *subscriptions {
	s := &subscriptions{nc: nc, log: log, refused: map[string]time.Time{}}
	onError, onDisconnect := nc.ErrorHandler(), nc.DisconnectErrHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if byProbe := s.note(err); !byProbe && onError != nil {
			onError(nc, sub, err)
		}
	})
	nc.SetDisconnectErrHandler(func(nc *nats.Conn, err error) {
		s.forget() // after a reconnect the server reports again what it refuses
		if onDisconnect != nil {
			onDisconnect(nc, err)
		}
	})
	return s
}

// note records the refused subscription if err is about one, and reports whether a probe caused it.
func (s *subscriptions) note(err error) (byProbe bool) {
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

// kind returns the subject under which a refusal is recorded: one for all inboxes, since each has
// its own name.
func (s *subscriptions) kind(subject string) string {
	if inboxes := s.inboxes(); strings.HasPrefix(subject, strings.TrimSuffix(inboxes, ">")) {
		return inboxes
	}
	return subject
}

func (s *subscriptions) inboxes() string { return s.nc.Opts.InboxPrefix + ".>" }

// forget drops all recorded refusals.
func (s *subscriptions) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.refused)
}

// probe subscribes again to what was refused. NATS accepts or refuses that before it answers the
// flush.
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

// judge reconnects if NATS did not refuse one of the subscriptions of the probe that started at
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
	s.log.Info().Strs("subjects", back).Msg("nats allowed the subscriptions again, reconnecting")
	if err := s.nc.ForceReconnect(); err != nil {
		s.log.Warn().Str("error", logger.Text(err)).Msg("failed to reconnect to nats")
	}
}

// err returns an error that names the subscriptions that NATS refuses, or nil.
func (s *subscriptions) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refused) == 0 {
		return nil
	}
	return fmt.Errorf("NATS refuses to let this user hear %s: check its permissions (subscribe) in NATS's settings; "+
		"once they are right this ends by itself",
		strings.Join(slices.Sorted(maps.Keys(s.refused)), ", "))
}
