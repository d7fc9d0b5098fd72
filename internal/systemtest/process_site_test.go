//go:build unix

package systemtest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/wechatsim"
)

const (
	// patience is how long a test waits for what is to come. It is long, because a machine may be slow.
	patience = 3 * time.Minute
	// pollEvery is the time between two looks.
	pollEvery = 25 * time.Millisecond
)

// poll waits until f returns nil.
func poll(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain: %v", patience, err)
		}
		select {
		case <-time.After(pollEvery):
		case <-t.Context().Done():
			t.Fatal(err)
		}
	}
}

// site is one deployment on real processes: a NATS server on TCP, the fake platform, a load balancer
// for its pushes, and the ingests and refreshers that the test starts.
type site struct {
	t        *testing.T
	programs programs
	settings []string                 // variables of every ingest and refresher
	nats     *natsdtest.Server        // nil where the test has another one
	url      func(role string) string // of NATS, for ingest, refresher, service and admin
	pushes   *balancer
	api      string // URL of the platform's API
	control  string // URL of the platform's control door
	js       jetstream.JetStream
	nc       *nats.Conn
	accounts int

	processes []*process
}

// newSite starts NATS, the balancer and the platform with so many accounts that authorize by
// themselves, without trouble by chance; flags say more about the platform.
func newSite(t *testing.T, p programs, accounts int, flags ...string) *site {
	t.Helper()
	server := natsdtest.StartTCP(t)
	s := newSiteOn(t, p, func(string) string { return server.ClientURL() }, accounts, flags...)
	s.nats = server
	return s
}

// newSiteOn is newSite on a NATS that runs already.
func newSiteOn(t *testing.T, p programs, natsURL func(role string) string, accounts int, flags ...string) *site {
	t.Helper()
	s := &site{t: t, programs: p, accounts: accounts, url: natsURL, pushes: newBalancer(t)}
	flags = append([]string{
		"--kind", "--addr=127.0.0.1:0", "--control-addr=127.0.0.1:0", "--push-base=http://" + s.pushes.addr(),
		fmt.Sprintf("--authorizers=%d", accounts), "--life=20s", "--ticket-every=2s", "--push-tries=300", "--push-every=100ms",
		"--log-level=debug", "--log-format=json",
	}, flags...)
	sim := s.start("wechatsim", flags)
	poll(t, func() error {
		var found bool
		lines := bufio.NewScanner(strings.NewReader(sim.stderr.String()))
		for lines.Scan() {
			if _, at, ok := strings.Cut(lines.Text(), "WXTOKEN_WECHAT_API_URL="); ok {
				s.api = at
			}
			if _, at, ok := strings.Cut(lines.Text(), "curl "); ok {
				s.control, found = at, true
			}
		}
		if !found {
			return errors.New("the platform has not said where it listens")
		}
		return nil
	})
	s.settings = []string{
		"WXTOKEN_WECHAT_API_URL=" + s.api, "WXTOKEN_API_RATE=1000", "WXTOKEN_RENEW_FRACTION=0.1",
		"WXTOKEN_HTTP_ADDR=127.0.0.1:0", "WXTOKEN_OPS_ADDR=127.0.0.1:0", "WXTOKEN_LOG_LEVEL=debug", "WXTOKEN_LOG_FORMAT=json",
		"WXTOKEN_COMPONENT_APPID=" + wechatsim.DemoAppID, "WXTOKEN_COMPONENT_APPSECRET=" + wechatsim.DemoAppSecret,
		"WXTOKEN_COMPONENT_TOKEN=" + wechatsim.DemoToken, "WXTOKEN_COMPONENT_AES_KEY=" + wechatsim.DemoEncodingAESKey,
	}
	s.nc = s.connect("admin")
	s.js = natsdtest.JetStream(t, s.nc)
	return s
}

// connect returns a connection over TCP, as a service makes it.
func (s *site) connect(role string) *nats.Conn {
	s.t.Helper()
	nc, err := nats.Connect(s.url(role), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.CustomInboxPrefix("_INBOX_"+role), nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// tell uses a verb of the platform's control door, with a form as for curl -d.
func (s *site) tell(verb, form string) {
	s.t.Helper()
	if status, body := request(s.t, http.MethodPost, s.control+verb, form); status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %s", verb, form, status, body)
	}
}

// history returns what happened at the platform, of some kinds.
func (s *site) history(kinds ...string) (all []wechatsim.Entry) {
	s.t.Helper()
	_, body := request(s.t, http.MethodGet, s.control+"/history?kind="+url.QueryEscape(strings.Join(kinds, ",")), "")
	decoder := json.NewDecoder(strings.NewReader(body))
	for decoder.More() {
		var e wechatsim.Entry
		if err := decoder.Decode(&e); err != nil {
			s.t.Fatalf("history: %v", err)
		}
		all = append(all, e)
	}
	return all
}

// tokenAPIs are the calls that bring a token.
var tokenAPIs = []string{"api_component_token", "api_query_auth", "api_authorizer_token"}

// calls returns the calls of the platform that were to bring a token, by key, oldest first.
func (s *site) calls() map[wxtoken.Key][]wechatsim.Entry {
	s.t.Helper()
	byKey := map[wxtoken.Key][]wechatsim.Entry{}
	for _, e := range s.history("call") {
		if slices.Contains(tokenAPIs, e.API) {
			key := keyOf(e)
			byKey[key] = append(byKey[key], e)
		}
	}
	return byKey
}

func keyOf(e wechatsim.Entry) wxtoken.Key {
	if e.Authorizer == "" {
		return wxtoken.ComponentKey(e.Component)
	}
	return wxtoken.AuthorizerKey(e.Component, e.Authorizer)
}

// keys returns the keys of the component and of the accounts that authorize by themselves.
func (s *site) keys() []wxtoken.Key {
	keys := []wxtoken.Key{wxtoken.ComponentKey(wechatsim.DemoAppID)}
	for i := range s.accounts {
		keys = append(keys, wxtoken.AuthorizerKey(wechatsim.DemoAppID, fmt.Sprintf("wxa%015d", i+1)))
	}
	return keys
}

// stored returns the token in the bucket.
func (s *site) stored(key wxtoken.Key) (wxtoken.Token, error) {
	m, err := s.last(events.StreamTokens, events.TokenSubject(key))
	if err != nil {
		return wxtoken.Token{}, err
	}
	if len(m.Data) == 0 { // removed
		return wxtoken.Token{}, fmt.Errorf("%s: %w", key, jetstream.ErrMsgNotFound)
	}
	var t wxtoken.Token
	return t, json.Unmarshal(m.Data, &t)
}

// last returns the last message on a subject.
func (s *site) last(stream, subject string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	m, err := st.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	return m, nil
}

// generations returns the generation of the token of each key, 0 for one without.
func (s *site) generations() map[wxtoken.Key]uint64 {
	s.t.Helper()
	out := map[wxtoken.Key]uint64{}
	for _, key := range s.keys() {
		poll(s.t, func() error {
			token, err := s.stored(key)
			out[key] = token.Generation
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return nil
			}
			return err
		})
	}
	return out
}

// accepted returns an error unless the bucket has a token of key that the platform accepts.
func (s *site) accepted(key wxtoken.Key) (wxtoken.Token, error) {
	s.t.Helper()
	token, err := s.stored(key)
	if err != nil {
		return token, err
	}
	sum := sha256.Sum256([]byte(token.Value.Reveal()))
	_, body := request(s.t, http.MethodGet, s.control+"/truth?sha256="+hex.EncodeToString(sum[:]), "")
	var truth wechatsim.Judgement
	if err := json.Unmarshal([]byte(body), &truth); err != nil {
		s.t.Fatal(err)
	}
	if !truth.Valid {
		return token, fmt.Errorf("%s: generation %d is not accepted", key, token.Generation)
	}
	return token, nil
}

// allAccepted returns an error unless each key has a token that the platform accepts, of at least the
// given generation beyond those of before.
func (s *site) allAccepted(before map[wxtoken.Key]uint64, beyond uint64) error {
	s.t.Helper()
	for _, key := range s.keys() {
		token, err := s.accepted(key)
		if err != nil {
			return err
		}
		if token.Generation < before[key]+beyond {
			return fmt.Errorf("%s: generation %d, want %d", key, token.Generation, before[key]+beyond)
		}
	}
	return nil
}

// covered returns an error unless the next renewal of each key is bound to come: a schedule or a due
// message for the token that is stored lies in the stream.
func (s *site) covered() error {
	for _, key := range s.keys() {
		token, err := s.stored(key)
		if err != nil {
			return err
		}
		if !s.waits(events.ScheduleSubject(key), token.Generation) && !s.waits(events.DueSubject(key), token.Generation) {
			return fmt.Errorf("%s: nothing will renew generation %d", key, token.Generation)
		}
	}
	return nil
}

// waits reports whether the last message on a subject asks for the token after a generation.
func (s *site) waits(subject string, generation uint64) bool {
	m, err := s.last(events.StreamTokens, subject)
	if err != nil {
		return false
	}
	due, err := events.ParseDue(m.Data)
	return err == nil && due.Generation == generation
}

// makeDue asks for the token after a generation, as an operator may.
func (s *site) makeDue(key wxtoken.Key, generation uint64) {
	s.t.Helper()
	m, err := events.DueMsg(events.Due{Key: key, Generation: generation, Reason: events.ReasonScheduled})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if _, err := s.js.PublishMsg(ctx, m); err != nil {
		s.t.Fatal(err)
	}
}

// idle returns an error while a refresher has a message that it has not acked, or one waits.
func (s *site) idle() error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	for stream, durable := range map[string]string{events.StreamAuth: events.DurableAuth, events.StreamTokens: events.DurableDue} {
		cons, err := s.js.Consumer(ctx, stream, durable)
		if err != nil {
			return err
		}
		if info := cons.CachedInfo(); info.NumPending > 0 || info.NumAckPending > 0 {
			return fmt.Errorf("%s: %d messages wait, %d are at work", durable, info.NumPending, info.NumAckPending)
		}
	}
	return nil
}

// extra returns how many calls for a token brought none that was stored, by key. A call that is under
// way counts until its token is stored. It returns an error when a token was stored meanwhile.
func (s *site) extra() (extra map[wxtoken.Key]int, err error) {
	s.t.Helper()
	before := s.generations()
	calls := s.calls()
	after := s.generations()
	extra = map[wxtoken.Key]int{}
	for _, key := range s.keys() {
		if before[key] != after[key] {
			return nil, fmt.Errorf("%s was renewed meanwhile", key)
		}
		if n := len(calls[key]) - int(after[key]); n > 0 {
			extra[key] = n
		}
	}
	return extra, nil
}

// marks are what a secret is known by: all that the platform issues carries the first, the others
// are the component's own.
var marks = append([]string{
	"SEKRET", wechatsim.DemoAppSecret, wechatsim.DemoToken, wechatsim.DemoEncodingAESKey,
}, inBase64("SEKRET")...)

// inBase64 returns what stands in base64 wherever word stood in the clear: at three offsets.
func inBase64(word string) (all []string) {
	for offset := range 3 {
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x00", offset) + word))
		// The first and last characters depend on what stands beside the word.
		first, whole := (offset*8+5)/6, (offset+len(word))*8/6
		all = append(all, text[first:whole])
	}
	return all
}

// leaked returns the line of a text that shows a secret, or "".
func leaked(text string) string {
	for line := range strings.Lines(text) {
		if slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(line, mark) }) {
			return line
		}
	}
	return ""
}

// eventsOf returns how often each document lies on MESSAGES, by the platform's fingerprint of it.
func (s *site) eventsOf() (count map[string]int) {
	s.t.Helper()
	poll(s.t, func() (err error) { // a server that has just come back may not be asked yet
		count, err = s.countEvents()
		return err
	})
	return count
}

func (s *site) countEvents() (map[string]int, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cons, err := s.js.CreateConsumer(ctx, events.StreamMessages, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Minute})
	if err != nil {
		return nil, err
	}
	time.Sleep(pollEvery) // until all servers know it
	messages, err := cons.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	count := map[string]int{}
	for left := cons.CachedInfo().NumPending; left > 0; {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", events.StreamMessages, err)
		}
		count[wechatsim.Fingerprint(string(m.Data()))]++
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		left = meta.NumPending
	}
	return count, nil
}

// lastSequence returns how many messages a stream has taken.
func (s *site) lastSequence(stream string) uint64 {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		s.t.Fatal(err)
	}
	return st.CachedInfo().State.LastSeq
}
