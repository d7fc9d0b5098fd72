package refresher_test

import (
	"testing"
	"time"

	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

// TestConnectOver opens a link in each state in which it leads to WeChat no more: an ingest that asks why is told, and one of
// an earlier version gets 410.
func TestConnectOver(t *testing.T) {
	r := newRig(t, options{sim: wechatsim.Config{TwoCodes: true}, cfg: withLinks})
	why := func(q events.ConnectOpen, want string) events.ConnectOpened {
		t.Helper()
		r.wantOpenRefused(q, "410")
		q.Over = true
		opened := r.open(q)
		if opened.Over != want || opened.Session != "" || opened.PCLink != "" || opened.MobileLink != "" || opened.ReturnTo != "" || opened.Component != appid {
			t.Errorf("step %q: %+v, want it over because %q, and nothing to go on with", q.Step, opened, want)
		}
		return opened
	}
	landing := func(id string) events.ConnectOpen { return events.ConnectOpen{ID: id} }

	good := r.link(events.ConnectCreate{AuthType: 1, CategoryIDs: events.Category{1, 18}})
	opened := r.open(events.ConnectOpen{ID: good.ID, Over: true})
	if opened.Over != "" || opened.Session == "" || opened.AuthType != 1 || opened.CategoryIDs.String() != "1|18" || !opened.ExpiresAt.Equal(good.ExpiresAt) {
		t.Errorf("a good link: %+v", opened)
	}

	m := r.consents(alice, events.ConnectCreate{Return: "https://shop.example.com/done"})
	callback := events.ConnectOpen{ID: m.id, Step: events.StepCallback, Session: m.session, CodeSHA256: sha(m.redirect.Code)}
	r.open(callback)
	why(landing(m.id), events.OverBusy)
	other := callback
	other.CodeSHA256 = sha("another")
	why(other, events.OverBusy)
	stranger := other
	stranger.Session, stranger.Over = "x", true
	r.wantOpenRefused(stranger, "403")

	m.send(m.redirect)
	m.wantAuthorized(alice, "")
	ended := why(landing(m.id), events.OverEnded)
	if ended.State != events.ConnectAuthorized || ended.Authorizer != alice || ended.NickName == "" || ended.EndedAt.IsZero() || ended.Lapsed {
		t.Errorf("a link that worked: %+v", ended)
	}
	why(other, events.OverEnded)
	only := r.open(landing(r.link(events.ConnectCreate{BizAppID: alice}).ID))
	if only.BizAppID != alice || only.NickName != ended.NickName {
		t.Errorf("a link for an account: %+v", only)
	}

	r.keep()
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Cancel(appid, alice))
	r.send(r.next(events.KindUnauthorized))
	r.until("not cancelled", func() bool { return r.open(events.ConnectOpen{ID: m.id, Over: true}).Lapsed })
	if result := m.result(); result.State != events.ConnectAuthorized || !result.Lapsed {
		t.Errorf("the result of a link whose account has cancelled: %+v", result)
	}

	late := r.link(events.ConnectCreate{ExpiresIn: 60})
	session := r.open(landing(late.ID)).Session
	r.clock.forward(time.Hour)
	if expired := why(landing(late.ID), events.OverExpired); !expired.ExpiresAt.Equal(late.ExpiresAt) || expired.Authorizer != "" {
		t.Errorf("an expired link: %+v", expired)
	}
	why(events.ConnectOpen{ID: late.ID, Step: events.StepResult, Session: session}, events.OverExpired)
	why(events.ConnectOpen{ID: late.ID, Step: events.StepCallback, Session: session, CodeSHA256: sha("a")}, events.OverExpired)
	r.wantOpenRefused(events.ConnectOpen{ID: "nobody", Over: true}, "404")
}
