package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/seal"
	"wxtoken/wechatsim"
)

// examine checks at the day's end what is true of the whole history.
func (d *day) examine() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, p := range d.people {
		d.examinePerson(ctx, p)
	}
	d.examineEvents(ctx)
	d.examineCalls()
	d.examineSecrets(ctx)
}

// examinePerson: everybody has what is theirs, and the store has a refresh token that WeChat takes.
func (d *day) examinePerson(ctx context.Context, p *person) {
	key := wxtoken.AuthorizerKey(testAppID, p.appid)
	token, err := d.client.Token(key)
	status, statusErr := d.client.Status(ctx, key)
	if !p.live {
		if err == nil {
			d.violation("I7", "%s is cancelled and has a token at the day's end", p.appid)
		}
		return
	}
	lost := d.quietFor(p.appid, time.Now()) < 0 // a push that was lost may not have been made good yet
	d.catchUp()
	busy := time.Since(d.unlucky[p.appid]) < 70*time.Second // it is tried again once a minute
	switch {
	case lost:
	case err != nil || !d.sim.Accepts(testAppID, p.appid, token.Value.Reveal()):
		d.violation("I1", "%s has no good token at the day's end: %v", p.appid, err)
	case statusErr != nil || status.State != wxtoken.StateActive && !(busy && status.State == wxtoken.StateRenewingFailed):
		d.violation("status", "%s is %q at the day's end (%v), last error %+v", p.appid, status.State, statusErr, status.LastError)
	case status.Authorizer == nil || status.Authorizer.Profile["nick_name"] == nil:
		d.violation("status", "%s has no profile at the day's end", p.appid)
	case p.ref != "" && status.Authorizer.Ref != p.ref:
		d.violation("ref", "%s authorized through a link with ref %q, and has %q", p.appid, p.ref, status.Authorizer.Ref)
	}
	stream, err := d.js.Stream(ctx, events.StreamTokens)
	if err != nil {
		d.violation("I4", "%v", err)
	}
	m, err := stream.GetLastMsgForSubject(ctx, events.CredentialSubject(key))
	if err != nil {
		d.violation("I4", "credential of %s: %v", p.appid, err)
	}
	var cred struct {
		RefreshToken string `json:"refresh_token"`
		Generation   uint64 `json:"generation"`
	}
	data, err := d.seal.OpenOwn(m.Subject, m.Header, m.Data)
	if err != nil || seal.Sealed(m.Data) != (d.seal != nil) {
		d.violation("I12", "credential of %s: sealed %t, %v", p.appid, seal.Sealed(m.Data), err)
	}
	if err := json.Unmarshal(data, &cred); err != nil {
		d.violation("I4", "credential of %s: %v", p.appid, err)
	}
	// A call whose answer was lost may have brought another refresh token: that is found out by the next tries.
	if !lost && !busy && !d.sim.AcceptsRefresh(testAppID, p.appid, cred.RefreshToken) {
		d.violation("I4", "the refresh token of %s is not accepted at the day's end", p.appid)
	}
}

// examineEvents: a push that was answered with success is one event; one that was not is one or none.
func (d *day) examineEvents(ctx context.Context) {
	answered, tried := map[string]map[int]bool{}, map[string]map[int]bool{}
	add := func(m map[string]map[int]bool, kind string, push int) {
		if m[kind] == nil {
			m[kind] = map[int]bool{}
		}
		m[kind][push] = true
	}
	auth := []string{"component_verify_ticket", "authorized", "updateauthorized", "unauthorized"}
	for _, e := range d.sim.History() {
		kind := "other"
		if slices.Contains(auth, e.InfoType) {
			kind = "auth"
		}
		switch {
		case e.Kind == wechatsim.EntryPush && e.Outcome == wechatsim.OutcomeSent:
			add(tried, kind, e.Push)
		case e.Kind == wechatsim.EntryPushAnswer && e.Outcome == wechatsim.OutcomeSuccess:
			add(answered, kind, e.Push)
		}
	}
	stream, err := d.js.Stream(ctx, events.StreamAuth)
	if err != nil {
		d.violation("I3", "%v", err)
	}
	info, err := stream.Info(ctx)
	if err != nil {
		d.violation("I3", "%v", err)
	}
	// Each event that ever lay on the work queue took one sequence.
	stored := int(info.State.LastSeq)
	redirects := d.happened["redirected"] // each an event that was no push
	unreadable := int(d.unreadable.Load())
	if stored < len(answered["auth"])+redirects || stored > len(tried["auth"])+d.unlisted+unreadable {
		d.violation("I3", "%d pushes were answered with success and %d sent, and AUTH got %d events", len(answered["auth"]), len(tried["auth"]), stored)
	}
	if info.State.Msgs > 0 {
		d.violation("I3", "%d events lie unhandled on AUTH at the day's end", info.State.Msgs)
	}
	if dead, err := d.js.Stream(ctx, events.StreamDead); err != nil {
		d.violation("I3", "%v", err)
	} else if info, err := dead.Info(ctx); err != nil || int(info.State.Msgs) != unreadable {
		d.violation("I3", "%v, or %d events lie on DEAD, of %d that can't be read", err, info.State.Msgs, unreadable)
	}
}

// leastBackoff is the least time between a call that failed and the next one for the same account.
const leastBackoff = 400 * time.Millisecond

// examineCalls: nobody costs more calls than their troubles explain.
func (d *day) examineCalls() {
	calls := map[string]int{}
	busy := map[string]time.Time{} // when an account's refresh was answered with -1, until the next thing that happens to it
	for _, e := range d.sim.History() {
		switch {
		case e.Kind == wechatsim.EntryAuthorize || e.Kind == wechatsim.EntryCancel:
			delete(busy, e.Authorizer)
		case e.Kind == wechatsim.EntryCall && e.API == refresh:
			if at, ok := busy[e.Authorizer]; ok && e.Time.Sub(at) < leastBackoff {
				d.violation("I6", "%s was refreshed again %s after WeChat had said that it is busy", e.Authorizer, e.Time.Sub(at))
			}
			delete(busy, e.Authorizer)
			if e.Outcome == wechatsim.OutcomeBusy {
				busy[e.Authorizer] = e.Time
			}
		}
		if e.Kind == wechatsim.EntryCall && e.Outcome != wechatsim.OutcomeDown {
			switch e.API {
			case refresh:
				calls[e.Authorizer]++
			case "api_component_token":
				calls["component"]++
			}
		}
	}
	// A life less a third less the jitter, and a call for each trouble that may have cost one.
	ideal := int((dayLength+15*time.Minute)/(life*61/100)) + 1
	shared := 0
	var away time.Duration
	for _, s := range d.spans {
		if s.who == "" {
			shared++
			away += s.to.Sub(s.from)
		}
	}
	// While something is wrong, an account is tried once a minute at most.
	allowed := ideal + 3*shared + int(away/time.Minute)
	more := 1 + 4*d.busyRate()
	for _, p := range d.people {
		if limit := int(more * float64(allowed+3*p.calls)); calls[p.appid] > limit {
			d.violation("I6", "%s cost %d calls, at most %d are explained", p.appid, calls[p.appid], limit)
		}
	}
	if limit := int(more * float64(allowed)); calls["component"] > limit {
		d.violation("I6", "the component token cost %d calls, at most %d are explained", calls["component"], limit)
	}
}

// examineSecrets: no secret that the platform ever made is in a log line, on MESSAGES, in a status
// or in a metric.
func (d *day) examineSecrets(ctx context.Context) {
	var all strings.Builder
	all.WriteString(d.log.String())
	for _, i := range d.instances() {
		families, err := i.reg.Gather()
		if err != nil {
			d.violation("I12", "%v", err)
		}
		for _, f := range families {
			all.WriteString(f.String())
		}
	}
	for _, name := range []string{events.StreamMessages, "KV_" + events.BucketStatus} {
		d.dump(ctx, name, &all)
	}
	if d.seal != nil || d.unreadable.Load() == 0 { // unsealed, a document that can't be read lies there as it came
		d.dump(ctx, events.StreamDead, &all)
	}
	if d.seal != nil {
		d.dump(ctx, events.StreamTokens, &all, events.AllCredentials)
	}
	// The platform marks every secret that it makes, and so do the settings of this test.
	for _, secret := range append(d.sim.Secrets(), testSecret, testToken, testAESKey) {
		if !strings.Contains(secret, "SEKRET") {
			d.violation("I12", "a secret without the mark that is searched for")
		}
	}
	text := all.String()
	for _, mark := range []string{"SEKRET", "U0VLUkVU", "NFS1JFV", "TRUtSRV"} { // in the clear, and in base64 at each alignment
		if at := strings.Index(text, mark); at >= 0 {
			d.violation("I12", "a secret was shown: ...%s...", text[max(0, at-200):min(len(text), at+100)])
		}
	}
	if len(d.sim.Secrets()) < accounts {
		d.violation("I12", "the platform made only %d secrets: nothing was searched for", len(d.sim.Secrets()))
	}
}

// dump writes all that lies in a stream, or on some of its subjects.
func (d *day) dump(ctx context.Context, name string, to *strings.Builder, subjects ...string) {
	cons, err := d.js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{FilterSubjects: subjects})
	if err != nil {
		d.violation("dump", "%v", err)
	}
	for {
		batch, err := cons.FetchNoWait(100)
		if err != nil {
			d.violation("dump", "%v", err)
		}
		n := 0
		for m := range batch.Messages() {
			n++
			to.WriteString(m.Subject())
			for k, v := range m.Headers() {
				to.WriteString(k + ": " + strings.Join(v, ",") + "\n")
			}
			to.Write(m.Data())
		}
		if n == 0 {
			if err := batch.Error(); err != nil && !errors.Is(err, jetstream.ErrNoMessages) {
				d.violation("dump", "%v", err)
			}
			return
		}
	}
}

// busyRate is the share of calls that WeChat answers with -1 on this day.
func (d *day) busyRate() float64 {
	if d.noOverlap() {
		return 0.05 // an answer that is lost has killed the token: the next calls decide for how long
	}
	return []float64{0.05, 0.05, 0.2, 0.5}[d.seed%4]
}
