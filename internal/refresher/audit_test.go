package refresher_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/events"
)

// asPerson asks as the operator's page does, for a person.
func asPerson[A any](r *rig, name, role, subject string, question any) (answer A, refused refusal) {
	r.Helper()
	return askAs[A](r, events.ConsoleSubject(subject), question, nats.Header{events.HeaderActor: {name}, events.HeaderRole: {role}})
}

func askAs[A any](r *rig, subject string, question any, header nats.Header) (answer A, refused refusal) {
	r.Helper()
	data, err := json.Marshal(question)
	r.must(err)
	m, err := r.nc.RequestMsgWithContext(r.Context(), &nats.Msg{Subject: subject, Data: data, Header: header})
	r.must(err)
	refused = refusal{m.Header.Get(micro.ErrorCodeHeader), m.Header.Get(micro.ErrorHeader)}
	if refused.code == "" {
		r.must(json.Unmarshal(m.Data, &answer))
	}
	return answer, refused
}

// audit returns the records, oldest first, and looks that no secret is among them.
func (r *rig) audit() (all []events.Audit) {
	r.Helper()
	for _, m := range r.lying(events.StreamJournal) {
		if !strings.HasPrefix(m.Subject, "journal.audit.") {
			continue
		}
		for _, secret := range r.sim.Secrets() {
			if strings.Contains(string(m.Data), secret) {
				r.Errorf("a record shows a secret: %s", m.Data)
			}
		}
		var a events.Audit
		r.must(json.Unmarshal(m.Data, &a))
		if a.At.IsZero() || m.Subject != events.JournalSubject(events.JournalAudit, a.Component, a.Action) {
			r.Errorf("record on %s: %+v", m.Subject, a)
		}
		all = append(all, a)
	}
	return all
}

// brief is what matters of a record.
func brief(a events.Audit) string {
	return strings.TrimSpace(fmt.Sprintf("%s by %s %s/%s: %s %s %s %d %s", a.Action, a.By, a.Actor, a.Role, a.Component, a.Key, a.Outcome, a.Status, compact(a.Parameters)))
}

func compact(parameters map[string]any) string {
	if len(parameters) == 0 {
		return ""
	}
	text, _ := json.Marshal(parameters) // what came from JSON goes into it
	return string(text)
}

func (r *rig) wantAudit(want ...string) {
	r.Helper()
	var got []string
	for _, a := range r.audit() {
		got = append(got, brief(a))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		r.Errorf("records\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestAudit has things done, by the page and without it, and reads who had.
func TestAudit(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	r.authorize(alice)
	of := "operator"
	if v, no := asPerson[events.Verdict](r, "li", of, events.SubjectRenew, events.Renew{Key: aliceKey}); v.Outcome == "" {
		t.Error(no)
	}
	r.drained()
	if _, no := asPerson[events.Reconciling](r, "li", of, events.SubjectReconcile, events.ReconcileRequest{Component: appid}); no.code != "" {
		t.Error(no)
	}
	if _, no := asPerson[events.QuotaAnswer](r, "li", of, events.SubjectQuota, events.QuotaRequest{Component: appid}); no.code != "" {
		t.Error(no)
	}
	if _, no := asPerson[events.QuotaAnswer](r, "li", of, events.SubjectQuota, events.QuotaRequest{Component: appid, Clear: true, Confirm: appid}); no.code != "" {
		t.Error(no)
	}
	if _, no := asPerson[events.ConnectCreated](r, "小李", of, events.SubjectConnectCreate, events.ConnectCreate{Component: appid, Ref: "tenant-17", BizAppID: alice, Move: true}); no.code != "" {
		t.Error(no)
	}
	r.link(events.ConnectCreate{Ref: "a backend's"}) // no record
	if _, no := asPerson[events.Verdict](r, "wang", "reader", events.SubjectRenew, events.Renew{Key: aliceKey}); no.code != "403" {
		t.Errorf("a reader: %v", no)
	}
	if _, no := askAs[events.Verdict](r, events.ConsoleSubject(events.SubjectRenew), events.Renew{Key: aliceKey}, nil); no.code != "403" {
		t.Errorf("nobody: %v", no)
	}
	r.verdict(events.SubjectRenew, events.Renew{Key: bobKey}, wxtoken.OutcomeUnknownKey)
	if v, no := askAs[events.Verdict](r, events.SubjectRenew, events.Renew{Key: bobKey},
		nats.Header{events.HeaderActor: {"zhao\a" + strings.Repeat("o", 100)}, events.HeaderRole: {"admin"}}); v.Outcome != wxtoken.OutcomeUnknownKey {
		t.Error(no)
	}
	wantRefused(r, events.SubjectReconcile, `{"component":"wxother"}`, "404")
	wantRefused(r, events.SubjectRenew, `{}`, "400")
	r.wantAudit(
		"renew by console li/operator: "+appid+" "+aliceKey.String()+" "+string(r.audit()[0].Outcome)+" 0",
		"reconcile by console li/operator: "+appid+"  reconciling 0",
		"clear_quota by console li/operator: "+appid+"  done 0",
		`link by console 小李/operator: `+appid+`  done 0 {"biz_appid":"`+alice+`","move":true,"ref":"tenant-17"}`,
		"renew by nats /: "+appid+" "+bobKey.String()+" unknown_key 0",
		"renew by nats zhao"+strings.Repeat("o", 60)+"/: "+appid+" "+bobKey.String()+" unknown_key 0",
		"reconcile by nats /: wxother  refused 404",
	)
	if last := r.audit()[6]; last.Inbox != "_INBOX" || !strings.Contains(last.Detail, "wxother") {
		t.Errorf("record %+v", last)
	}
}

// TestReveal shows a token to an admin, and to nobody else, and never without a record.
func TestReveal(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	want := r.token(aliceKey)
	question := events.RevealRequest{Key: aliceKey}
	shown, no := asPerson[events.Revealed](r, "wang", "admin", events.SubjectReveal, question)
	if shown.Value != want.Value.Reveal() || shown.Generation != want.Generation || !shown.ExpiresAt.Equal(want.ExpiresAt) || shown.Key != aliceKey {
		t.Errorf("generation %d, %v", shown.Generation, no)
	}
	for role, code := range map[string]string{"operator": "403", "reader": "403", "": "403", "Admin": "403"} {
		if shown, no := asPerson[events.Revealed](r, "li", role, events.SubjectReveal, question); no.code != code || shown.Value != "" {
			t.Errorf("%q: %v", role, no)
		}
	}
	// Who may ask without the page is decided by the rights of NATS.
	if shown, no := askAs[events.Revealed](r, events.SubjectReveal, question, nil); shown.Value != want.Value.Reveal() {
		t.Error(no)
	}
	wantRefused(r, events.SubjectReveal, `{}`, "400")
	wantRefused(r, events.SubjectReveal, events.RevealRequest{Key: bobKey}, "404")
	key := appid + " " + aliceKey.String()
	r.wantAudit(
		"reveal by console wang/admin: "+key+" revealed 0",
		"reveal by console li/operator: "+key+" refused 403",
		"reveal by nats /: "+key+" revealed 0",
		"reveal by nats /: "+appid+" "+bobKey.String()+" refused 404",
	)

	// Without JOURNAL nothing is revealed; a renewal is for the log.
	r.must(r.js.DeleteStream(t.Context(), events.StreamJournal))
	shown, no = asPerson[events.Revealed](r, "wang", "admin", events.SubjectReveal, question)
	if shown.Value != "" || no.code != "503" || !strings.Contains(no.text, "not revealed") || strings.Contains(no.text, want.Value.Reveal()) {
		t.Errorf("without a record: %v", no)
	}
	if v, no := asPerson[events.Verdict](r, "li", "operator", events.SubjectRenew, events.Renew{Key: bobKey}); v.Outcome != wxtoken.OutcomeUnknownKey {
		t.Errorf("a renewal: %v %v", v, no)
	}
	if r.log.count("failed to store audit record", `"action":"renew"`, bobKey.String(), `"actor":"li"`) != 1 {
		t.Error("the log does not tell")
	}
}

// bury puts an event on DEAD, sealed as a refresher buries it.
func (r *rig) bury(a events.Auth) (sequence uint64) {
	r.Helper()
	e, err := a.Event("a push that was dead", "/auth")
	r.must(err)
	m := e.Msg()
	dead := nats.NewMsg(events.DeadSubject(m.Subject))
	for name, values := range m.Header {
		if !strings.HasPrefix(name, "Nats-") {
			dead.Header[name] = values
		}
	}
	dead.Header.Set(events.HeaderReason, "an older program could not process it")
	dead.Data = m.Data
	r.seal.SealFor(m.Subject, dead)
	ack, err := r.js.PublishMsg(r.Context(), dead)
	r.must(err)
	return ack.Sequence
}

// TestDead has dead letters tried again, and dropped.
func TestDead(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.keep()
	r.must(r.sim.Cancel(appid, alice))
	cancelled := r.next(events.KindUnauthorized)
	cancelled.CreateTime = r.clock.Now().Add(time.Minute).UTC()
	sequence := r.bury(cancelled)
	subject := events.AuthSubject(appid, events.KindUnauthorized)

	// Two at once have it tried again once.
	var both sync.WaitGroup
	codes := make(chan string, 2)
	for range 2 {
		both.Go(func() {
			answer, no := asPerson[events.DeadAnswer](r, "li", "operator", events.SubjectDead, events.DeadRequest{Sequence: sequence, Do: events.DoReplay})
			if no.code == "" && (answer.Outcome != "replayed" || answer.Subject != subject) {
				t.Errorf("answer %+v", answer)
			}
			codes <- no.code
		})
	}
	both.Wait()
	if a, b := <-codes, <-codes; a != "" && b != "" || a != "" && a != "404" || b != "" && b != "404" {
		t.Errorf("answered with %q and %q", a, b)
	}
	r.eventually(func() error {
		if _, ok, err := r.store.Token(t.Context(), aliceKey); err != nil || ok {
			return fmt.Errorf("the token is still there (%w)", err)
		}
		return nil
	})
	r.drained()
	if n := r.log.count("message handled", subject); n != 1 {
		t.Errorf("handled %d times, want 1", n)
	}
	if left := r.lying(events.StreamDead); len(left) != 0 {
		t.Errorf("%d lie on DEAD still", len(left))
	}
	ask := func(q events.DeadRequest) (events.DeadAnswer, refusal) {
		return asPerson[events.DeadAnswer](r, "li", "operator", events.SubjectDead, q)
	}
	// What comes back has a new sequence, and may be tried again.
	broken := r.bury(events.Auth{Kind: "no such kind", Component: appid, CreateTime: cancelled.CreateTime})
	if _, no := ask(events.DeadRequest{Sequence: broken, Do: events.DoReplay}); no.code != "" {
		t.Error(no)
	}
	var again uint64
	r.eventually(func() error {
		left := r.lying(events.StreamDead)
		if len(left) != 1 {
			return fmt.Errorf("%d lie on DEAD", len(left))
		}
		again = left[0].Sequence
		return nil
	})
	if answer, no := ask(events.DeadRequest{Sequence: again, Do: events.DoDiscard}); answer.Outcome != "discarded" {
		t.Error(no)
	}
	if _, no := ask(events.DeadRequest{Sequence: again, Do: events.DoDiscard}); no.code != "404" {
		t.Errorf("a second time: %v", no)
	}
	for other, why := range map[string]string{
		events.DeadWebhookSubject("shop", "wechat.message."+appid+"."+alice+".text"): "webhooks",
		"dead." + events.DueSubject(aliceKey):                                        "wxtoken.renew",
		"dead.wechat.message." + appid + "." + alice + ".text":                       "wechat.auth",
		"dead." + events.CanarySubject:                                               "wechat.auth",
		"dead.$KV.tokens." + aliceKey.String():                                       "wechat.auth",
	} {
		ack, err := r.js.Publish(t.Context(), other, []byte("x"))
		r.must(err)
		if _, no := ask(events.DeadRequest{Sequence: ack.Sequence, Do: events.DoReplay}); no.code != "409" || !strings.Contains(no.text, why) {
			t.Errorf("%s: %v", other, no)
		}
		if answer, no := ask(events.DeadRequest{Sequence: ack.Sequence, Do: events.DoDiscard}); answer.Outcome != "discarded" {
			t.Errorf("%s: %v", other, no)
		}
	}
	for _, question := range []string{`{"sequence":1}`, `{"sequence":1,"do":"delete"}`, `{"do":"replay"}`, `{"sequence":-1,"do":"replay"}`, `{"sequence":"1","do":"replay"}`} {
		wantRefused(r, events.SubjectDead, question, "400")
	}
	var replays, discards, refusals int
	for _, a := range r.audit() {
		switch {
		case a.Action == events.ActionReplay && a.Outcome == "replayed":
			replays++
		case a.Action == events.ActionDiscard && a.Outcome == "discarded":
			discards++
		case a.Outcome == events.OutcomeRefused:
			refusals++
		}
	}
	if replays < 2 || replays > 3 || discards != 6 {
		t.Errorf("%d replays, %d discards, %d refusals recorded", replays, discards, refusals)
	}
	first := r.audit()[slices.IndexFunc(r.audit(), func(a events.Audit) bool { return a.Outcome == "replayed" })]
	if first.Parameters["subject"] != subject || first.Parameters["sequence"] != float64(sequence) || first.Component != appid {
		t.Errorf("record %+v", first)
	}
}

// TestCompareOne asks WeChat for one account.
func TestCompareOne(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	ask := func(authorizer, want string) {
		t.Helper()
		answer, no := asPerson[events.Reconciling](r, "li", "operator", events.SubjectReconcile, events.ReconcileRequest{Component: appid, Authorizer: authorizer})
		if answer.Outcome != want {
			t.Errorf("outcome %q (%v), want %q", answer.Outcome, no, want)
		}
	}
	before := r.calls(apiInfo, alice)
	ask(alice, events.ReconcileUnchanged)
	if n := r.calls(apiInfo, alice); n != before+1 {
		t.Errorf("WeChat was asked %d times, want once", n-before)
	}
	lists := r.calls(apiList)
	ask(bob, events.ReconcileListed)
	r.until("the list is read", func() bool { return r.calls(apiList) > lists })
	wantRefused(r, events.SubjectReconcile, `{"component":"`+appid+`","authorizer":"a b"}`, "400")
	wantRefused(r, events.SubjectReconcile, `{"component":"wxother","authorizer":"`+alice+`"}`, "404")

	// Another keeper has renewed: WeChat tells a refresh token that is not the one here.
	cred := r.credential(aliceKey)
	told := cred.RefreshToken
	_, err := r.store.Save(t.Context(), cred.RefreshTokenTold("refreshtoken@@@an-older-one"))
	r.must(err)
	ask(alice, events.ReconcileRecovered)
	if got := r.credential(aliceKey).RefreshToken; got != told {
		t.Error("the refresh token that WeChat tells is not stored")
	}

	r.keep() // the push that says so
	r.must(r.sim.Cancel(appid, alice))
	ask(alice, events.ReconcileCancelled)
	r.state(aliceKey, wxtoken.StateRevoked)
	if record := r.audit()[len(r.audit())-1]; record.Key != aliceKey.String() || record.Outcome != events.ReconcileCancelled {
		t.Errorf("record %+v", record)
	}
}
