package systemtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/seal"
	"wxtoken/wechatsim"
)

const (
	accounts    = 20
	dayLength   = 24 * time.Hour
	sampleEvery = 15 * time.Second
	// rides is the longest outage of WeChat that costs no token: a third of its life, less the way back.
	rides = 38 * time.Minute
	life  = 2 * time.Hour
)

// span is a time in which something was wrong.
type span struct {
	what     string
	who      string // appid of the account that it touches; empty = all
	from, to time.Time
}

// person is what an account did, by its own knowledge.
type person struct {
	appid     string
	live      bool
	changed   time.Time // when it last authorized or cancelled
	calls     int       // upper bound: renewals that its own troubles may have cost
	lastSeen  uint64    // generation that the reader saw last
	cancelled bool
	ref       string // of the link through which it authorized last; empty if through none
}

// day is one virtual day of the system under faults.
type day struct {
	*world
	t      *testing.T
	rng    *rand.Rand
	seed   uint64
	began  time.Time
	client *wxtoken.Client
	people []*person
	spans  []span
	// uncovered are times in which an account's schedule may be missing.
	uncovered     []span
	happened      map[string]int
	js            jetstream.JetStream
	todo          []act
	ending        bool // nothing is planned any more
	natsDown      bool
	read          int                          // of the platform's history
	about         map[string][]wechatsim.Entry // pushes about each account
	unlucky       map[string]time.Time         // when WeChat last answered a call about each account with "busy", or not at all; "" = the component's token
	unlisted      int                          // events on AUTH at most, that are no push of the platform's own: callbacks, replays
	unreadableIDs sync.Map                     // of the events that unreadable counts
	unreadable    atomic.Int64                 // events on AUTH that bring a document to DEAD, each beside that of a push or alone
	ticketCreated time.Time                    // of the component_verify_ticket in use
	// ticketSeen is when each account with a jsapi_ticket last had a good one.
	ticketSeen [ticketAccounts]time.Time
}

// act is something that will happen.
type act struct {
	at time.Time
	do func()
}

// newKeys returns new keys, and their seed.
func newKeys(t testing.TB) (keys *seal.Keys, seed string) {
	t.Helper()
	seed, _, err := seal.Make()
	if err == nil {
		keys, err = seal.FromSeeds(seed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return keys, seed
}

// runDay plays the day of a seed and returns how often each trouble happened.
func runDay(t *testing.T, seed uint64) map[string]int {
	d := &day{t: t, rng: dice(seed), seed: seed, happened: map[string]int{}, about: map[string][]wechatsim.Entry{}, unlucky: map[string]time.Time{}}
	cfg := wechatsim.Unkind()
	cfg.Seed = seed
	cfg.Rotation = []wechatsim.Rotation{wechatsim.RotateNever, wechatsim.RotateEach, wechatsim.RotateEachOldDead}[seed%3]
	cfg.OldTicketDies = seed%2 == 0
	cfg.PausePushes = seed%5 == 0
	if cfg.HideUnexchanged = seed%4 == 0; cfg.HideUnexchanged {
		cfg.CodeLife = dayLength // a code that expires unexchanged is lost then, and only the merchant can help
	}
	if d.noOverlap() {
		cfg.Overlap = wechatsim.Off
	}
	if seed%3 == 1 {
		cfg.ShuffleWithin = time.Minute
	}
	if seed%4 == 1 {
		cfg.PushRetry.Times = 1
	}
	cfg.BusyRate = d.busyRate()
	var keys *seal.Keys
	if seed%2 == 1 {
		keys, _ = newKeys(t)
	}
	d.world = newSealedWorld(t, keys, cfg, natsdtest.InBubble)
	d.world.cfg.Concurrency = 8
	d.world.cfg.PublicURL, d.world.cfg.WechatPageURL = "http://ingest", "http://wechat"
	d.world.cfg.Derive = []string{"jsapi"}
	for i := range ticketAccounts {
		d.world.cfg.DeriveFor = append(d.world.cfg.DeriveFor, appidOf(i))
	}
	d.start()
	d.start()
	d.began = time.Now()
	d.open()
	for i := range accounts {
		d.people = append(d.people, &person{appid: appidOf(i)})
	}
	d.plan()
	d.play(d.began.Add(dayLength))
	d.calm()
	d.examine()
	return d.happened
}

// settle is how long after a fault everything must be well again. A key that failed often is tried
// once a minute; where WeChat answers many calls with "busy", several in a row are nothing unusual.
func (d *day) settle() time.Duration {
	switch rate := d.busyRate(); {
	case rate >= 0.5:
		return 15 * time.Minute
	case rate >= 0.2:
		return 3 * time.Minute
	}
	return 2 * time.Minute
}

// noOverlap tells that on this day a replaced token dies at once.
func (d *day) noOverlap() bool { return d.seed%7 == 0 }

// open starts the reader.
func (d *day) open() {
	nc := d.nats.Connect()
	d.js = natsdtest.JetStream(d.t, nc)
	if _, err := nc.Subscribe(events.AuthSubject(testAppID, events.KindUnreadable), func(m *nats.Msg) {
		if _, again := d.unreadableIDs.LoadOrStore(m.Header.Get(jetstream.MsgIDHeader), true); !again { // a repeated push is one event
			d.unreadable.Add(1)
		}
	}); err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	if d.client, err = wxtoken.NewClient(ctx, nc, wxtoken.Config{}); err != nil {
		d.t.Fatalf("start the reader: %v\n%s", err, tail(d.log.String(), 4000))
	}
	d.t.Cleanup(d.client.Close)
}

// later plans an act.
func (d *day) later(at time.Time, do func()) {
	if d.ending {
		return
	}
	d.todo = append(d.todo, act{at, do})
	slices.SortStableFunc(d.todo, func(a, b act) int { return a.at.Compare(b.at) })
}

// play does what was planned, and samples, until the given time.
func (d *day) play(until time.Time) {
	next := time.Now().Add(sampleEvery)
	for {
		at := next
		if len(d.todo) > 0 && d.todo[0].at.Before(at) {
			at = d.todo[0].at
		}
		if at.After(until) {
			time.Sleep(time.Until(until))
			return
		}
		time.Sleep(time.Until(at))
		if at.Equal(next) {
			d.sample()
			next = next.Add(sampleEvery)
			continue
		}
		a := d.todo[0]
		d.todo = d.todo[1:]
		a.do()
		if d.t.Failed() {
			d.t.FailNow()
		}
	}
}

// wrong notes a trouble from now for the given time.
func (d *day) wrong(what, who string, during time.Duration) {
	now := time.Now()
	d.spans = append(d.spans, span{what: what, who: who, from: now, to: now.Add(during)})
}

// quietFor returns how long an account had no trouble before now; negative in the middle of one.
func (d *day) quietFor(who string, now time.Time) time.Duration {
	quiet := now.Sub(d.began)
	if who != "" && d.untold(who, now) {
		return -1
	}
	for _, s := range d.spans {
		if (s.who == "" || s.who == who) && !s.from.After(now) {
			quiet = min(quiet, now.Sub(s.to))
		}
	}
	return quiet
}

// untold reports whether the last push about an account's authorization was never answered with
// success and can't have been made good yet.
func (d *day) untold(who string, now time.Time) bool {
	last, told := 0, true
	var at time.Time
	for _, e := range d.about[who] {
		switch {
		case e.Kind == wechatsim.EntryPush && e.Push > last:
			last, told, at = e.Push, false, e.Time
		case e.Kind == wechatsim.EntryPushAnswer && e.Push == last && e.Outcome == wechatsim.OutcomeSuccess:
			told = true
		}
	}
	return !told && (d.seed%4 == 0 || now.Before(at.Add(missedPush)))
}

// violation reports a broken invariant.
func (d *day) violation(name, format string, args ...any) {
	d.t.Helper()
	var recent []string
	for _, s := range d.spans {
		if time.Since(s.to) < 2*time.Hour {
			recent = append(recent, fmt.Sprintf("%s %s %s..%s", s.what, s.who, s.from.Format(time.TimeOnly), s.to.Format(time.TimeOnly)))
		}
	}
	text := fmt.Sprintf(format, args...) + d.waiting()
	d.t.Errorf("%s at %s, seed %d: %s\nrecent troubles: %s\n%s%s", name, time.Now().Format(time.DateTime), d.seed,
		text, strings.Join(recent, "; "), d.lastOf(text), tail(d.log.String(), 6000))
	d.t.FailNow()
}

// waiting says what lies in the consumers of the refreshers.
func (d *day) waiting() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var out strings.Builder
	for stream, durable := range map[string]string{events.StreamAuth: events.DurableAuth, events.StreamTokens: events.DurableDue} {
		cons, err := d.js.Consumer(ctx, stream, durable)
		if err != nil {
			continue
		}
		i := cons.CachedInfo()
		fmt.Fprintf(&out, "; %s: %d pending, %d at work or put off, %d of them again, %d pulls", durable, i.NumPending, i.NumAckPending, i.NumRedelivered, i.NumWaiting)
	}
	return out.String()
}

// lastOf returns what happened last to the account that a text names.
func (d *day) lastOf(text string) string {
	var out strings.Builder
	for _, p := range d.people {
		if !strings.Contains(text, p.appid) {
			continue
		}
		var lines []string
		for _, e := range d.sim.History() {
			if e.Authorizer == p.appid && e.Kind != wechatsim.EntryIssue && e.Kind != wechatsim.EntryInvalidate {
				lines = append(lines, fmt.Sprintf("%s %s %s%s %d %s", e.Time.Format(time.TimeOnly), e.Kind, e.API, e.InfoType, e.Errcode, e.Outcome))
			}
		}
		for line := range strings.Lines(d.log.String()) {
			if strings.Contains(line, p.appid) && !strings.Contains(line, `"debug"`) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(clock(a), clock(b)) })
		for _, line := range lines[max(0, len(lines)-25):] {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

// clock returns the time of day in a line.
func clock(line string) string {
	if _, after, ok := strings.Cut(line, `"time":"`); ok && len(after) > 19 {
		return after[11:19]
	}
	return line[:min(8, len(line))]
}

// sample looks at everything as a reader does.
func (d *day) sample() {
	now := time.Now()
	if d.natsDown {
		return
	}
	for _, i := range d.instances() {
		d.restartCrashed(i)
	}
	for _, p := range d.people {
		key := wxtoken.AuthorizerKey(testAppID, p.appid)
		token, err := d.client.Token(key)
		if err == nil {
			if token.Generation < p.lastSeen {
				d.violation("I4", "generation of %s went from %d to %d", p.appid, p.lastSeen, token.Generation)
			}
			p.lastSeen = token.Generation
		}
		accepted := err == nil && d.sim.Accepts(testAppID, p.appid, token.Value.Reveal())
		quiet := d.quiet(p, now)
		switch {
		case !p.live:
			if p.cancelled && err == nil && quiet > d.settle() {
				d.violation("I7", "%s cancelled at %s and its token is still there", p.appid, p.changed.Format(time.TimeOnly))
			}
		case err != nil && quiet > d.settle():
			d.violation("I1", "%s has no token for a reader: %v", p.appid, err)
		case err == nil && quiet > d.settle() && !accepted:
			d.violation("I1", "token of %s, generation %d, obtained %s, expires %s, is not accepted", p.appid, token.Generation,
				token.ObtainedAt.Format(time.TimeOnly), token.ExpiresAt.Format(time.TimeOnly))
		case err == nil && !now.Before(token.ExpiresAt) && !d.longOutage(p, now):
			d.violation("I2", "%s is read a token that expired at %s", p.appid, token.ExpiresAt.Format(time.TimeOnly))
		}
		if p.live && quiet > d.settle()+time.Minute && now.Minute()%10 == 0 && now.Second() < 15 && !d.maybeUncovered(p, now) {
			if err := d.covered(key); err != nil {
				d.violation("I11", "%s: %v", p.appid, err)
			}
		}
	}
	d.sampleTickets(now)
	if now.Second() < int(sampleEvery/time.Second) { // they come every ten minutes
		d.sampleTicket()
	}
}

// catchUp reads what happened on the platform since it was read last.
func (d *day) catchUp() {
	for _, e := range d.sim.HistorySince(d.read) {
		d.read = e.Seq
		switch {
		case e.Authorizer != "" && (e.Kind == wechatsim.EntryPush || e.Kind == wechatsim.EntryPushAnswer):
			d.about[e.Authorizer] = append(d.about[e.Authorizer], e)
		case e.Kind == wechatsim.EntryCall && (e.Outcome == wechatsim.OutcomeBusy || e.Outcome == wechatsim.OutcomeLost) &&
			(e.Authorizer != "" || e.API == "api_component_token"),
			d.noOverlap() && e.Kind == wechatsim.EntryIssue && e.What == "authorizer_access_token": // no reader has it yet
			d.unlucky[e.Authorizer] = e.Time
		}
	}
}

// quiet returns how long WeChat and everything else have let an account be, at the end of a look at it. An answer that was lost kills the
// token, at once or in five minutes. Nobody can have the new one before the next call that is not "busy"; where the refresh token died
// too, before three of them in a row.
func (d *day) quiet(p *person, now time.Time) time.Duration {
	d.catchUp()
	return min(d.quietFor(p.appid, now), now.Sub(p.changed), now.Sub(d.unlucky[p.appid]), now.Sub(d.unlucky[""]))
}

// longOutage reports whether the last life of a token had more trouble than it rides out.
func (d *day) longOutage(p *person, now time.Time) bool {
	var total time.Duration
	for _, s := range d.spans {
		if s.who != "" && s.who != p.appid {
			continue
		}
		if s.to.After(now.Add(-life)) && s.from.Before(now) {
			total += min(s.to.Sub(s.from), now.Sub(s.from))
		}
	}
	return total > rides
}

// maybeUncovered reports whether the account's schedule was taken away and its time has not come.
func (d *day) maybeUncovered(p *person, now time.Time) bool {
	return slices.ContainsFunc(d.uncovered, func(s span) bool { return s.who == p.appid && now.Before(s.to) })
}

// instances returns the refreshers that were started and not stopped.
func (d *day) instances() []*instance {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.live)
}

// drop forgets a refresher that is gone.
func (d *day) drop(i *instance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live = slices.DeleteFunc(d.live, func(other *instance) bool { return other == i })
}

// restartCrashed replaces a refresher that came to its end at a step.
func (d *day) restartCrashed(i *instance) {
	select {
	case <-i.crashed:
	default:
		return
	}
	d.happened[i.crashName]++
	d.wrong("refresher crashed", "", 0)
	i.stop()
	d.drop(i)
	d.later(time.Now().Add(time.Duration(1+d.rng.IntN(60))*time.Second), d.bringUp)
}

// bringUp starts a refresher, once NATS is there: what becomes of one that is started before is for TestProcesses.
func (d *day) bringUp() {
	if d.natsDown {
		d.later(time.Now().Add(time.Second), d.bringUp)
		return
	}
	d.start()
}

// calm ends all troubles and gives the system a quarter of an hour.
func (d *day) calm() {
	d.ending = true
	for len(d.todo) > 0 { // what was begun is ended
		a := d.todo[0]
		d.todo = d.todo[1:]
		a.do()
	}
	if d.natsDown {
		d.nats.Restart()
		d.natsDown = false
	}
	d.sim.SetDown(false)
	d.sim.Heal()
	if err := d.sim.StartTickets(testAppID); err != nil {
		d.t.Fatal(err)
	}
	for _, i := range d.instances() {
		d.restartCrashed(i)
	}
	d.todo, d.ending = nil, false
	if len(d.instances()) == 0 {
		d.start()
	}
	d.wrong("the day's end", "", 0)
	d.play(time.Now().Add(d.settle() + 15*time.Minute))
}
