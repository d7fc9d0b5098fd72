package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

const (
	// ticketAccounts is how many accounts have a jsapi_ticket kept.
	ticketAccounts = 4
	// ticketGap is how long a reader may be without a ticket at the end of one: WeChat makes no new one earlier.
	ticketGap = time.Minute
)

// lifeTroubles are what merchants, services and operators do beside all that goes wrong.
var lifeTroubles = []trouble{
	{"token refused and reported", func(d *day) {
		p := d.anyone()
		if !p.live || d.sim.Invalidate(testAppID, p.appid) != nil {
			return
		}
		p.calls++
		d.wrong("token refused", p.appid, time.Minute)
		d.report(p)
	}},
	{"authorized by link", func(d *day) { d.byLink(d.anyone()) }},
	{"quota gone, cleared by the operator", func(d *day) {
		if d.happened["quota gone, cleared by the operator"] > 3 {
			return // WeChat allows ten clearings a month, and an answer that is lost costs one
		}
		if err := d.sim.Fail(wechatsim.Fault{API: refresh, Errcode: 45009, Times: 1, For: time.Minute}); err != nil {
			d.t.Fatal(err)
		}
		if p := d.anyone(); p.live { // who meets it
			p.calls++
			_, _ = d.ask(events.SubjectRenew, events.Renew{Key: wxtoken.AuthorizerKey(testAppID, p.appid)})
		}
		during := d.upTo(10 * time.Minute)
		d.wrong("quota gone", "", during+time.Minute)
		d.later(time.Now().Add(during), d.clearQuota)
	}},
	{"renewal asked for", func(d *day) {
		if p := d.anyone(); p.live {
			p.calls++
			_, _ = d.ask(events.SubjectRenew, events.Renew{Key: wxtoken.AuthorizerKey(testAppID, p.appid)})
		}
	}},
	{"old ticket pushed again", func(d *day) {
		var old string // the first one: a push that somebody recorded
		for _, secret := range d.sim.Secrets() {
			if strings.HasPrefix(secret, "ticket@@@") {
				old = secret
				break
			}
		}
		document := fmt.Sprintf("<xml><AppId>%s</AppId><CreateTime>%d</CreateTime><InfoType>component_verify_ticket</InfoType>"+
			"<ComponentVerifyTicket>%s</ComponentVerifyTicket></xml>", testAppID, time.Now().Add(-time.Duration(1+d.rng.IntN(20))*time.Minute).Unix(), old)
		if err := d.sim.PushRaw(testAppID, "", document); err != nil {
			d.t.Fatal(err)
		}
		d.unlisted++
	}},
	{"reconcile asked for", func(d *day) {
		_, _ = d.ask(events.SubjectReconcile, events.ReconcileRequest{Component: testAppID})
	}},
	{"everybody's refresh token refused", func(d *day) {
		d.fail(wechatsim.Fault{API: refresh, Errcode: 61023, Times: 1 << 20}, 2*time.Minute)
		// Those that were tried before so many were refused wait out their ladder.
		d.wrong("ladder", "", 15*time.Minute)
	}},
}

// ask makes a request of the refreshers. An error of theirs, or none there, is an error.
func (d *day) ask(subject string, q any) ([]byte, error) {
	data, err := json.Marshal(q)
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	answer, err := d.reader().RequestWithContext(ctx, subject, data)
	if err != nil {
		return nil, err
	}
	if text := answer.Header.Get(micro.ErrorHeader); text != "" {
		return nil, errors.New(text)
	}
	return answer.Data, nil
}

// report is what a service does whose call was refused: it reports the token, and again until there is another.
func (d *day) report(p *person) {
	again := func() { d.later(time.Now().Add(65*time.Second), func() { d.report(p) }) }
	token, err := d.client.Token(wxtoken.AuthorizerKey(testAppID, p.appid))
	if err != nil || d.sim.Accepts(testAppID, p.appid, token.Value.Reveal()) || !p.live {
		return
	}
	d.wrong("token refused", p.appid, 70*time.Second)
	if d.natsDown {
		again()
		return
	}
	for range 3 { // of as many services
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		outcome, err := d.client.Report(ctx, token)
		cancel()
		if err == nil {
			d.happened["reported: "+string(outcome)]++
		}
	}
	again()
}

func (d *day) clearQuota() {
	if d.natsDown {
		d.later(time.Now().Add(time.Minute), d.clearQuota)
		d.wrong("quota gone", "", 2*time.Minute)
		return
	}
	data, err := d.ask(events.SubjectQuota, events.QuotaRequest{Component: testAppID, Clear: true, Confirm: testAppID})
	var answer events.QuotaAnswer
	if err == nil {
		err = json.Unmarshal(data, &answer)
	}
	if err != nil || !answer.Cleared {
		d.later(time.Now().Add(time.Minute), d.clearQuota)
		d.wrong("quota gone", "", 2*time.Minute)
		return
	}
	d.wrong("quota cleared", "", time.Minute)
	d.happened["quota cleared"]++
}

// byLink has a merchant authorize through a link: a backend asks for it, a browser opens it, WeChat sends the browser back.
func (d *day) byLink(p *person) {
	ref := "ref-" + p.appid
	data, err := d.ask(events.SubjectConnectCreate, events.ConnectCreate{Component: testAppID, Ref: ref, BizAppID: p.appid})
	if err != nil {
		return // nobody there, or no token: a merchant would come back later
	}
	var link events.ConnectCreated
	if err := json.Unmarshal(data, &link); err != nil {
		d.t.Fatal(err)
	}
	page, cookies, _, err := d.browse(link.URL, nil)
	if err != nil || !strings.Contains(page, "pre_auth_code=") {
		return
	}
	_, query, _ := strings.Cut(page, "componentloginpage?")
	query, _, _ = strings.Cut(query, `"`)
	v, err := url.ParseQuery(strings.ReplaceAll(query, "&amp;", "&"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.catchUp()
	before := d.read
	location, err := d.sim.Consent(testAppID, p.appid, v.Get("pre_auth_code"), v.Get("redirect_uri"))
	if err != nil {
		d.t.Fatalf("consent with what the page gave: %v", err)
	}
	p.live, p.changed, p.cancelled, p.ref = true, time.Now(), false, ref
	p.calls += 3
	d.waitForPush(p)
	if d.rng.IntN(4) == 0 {
		d.happened["redirect lost"]++ // the merchant closed the browser
		return
	}
	d.unlisted++
	_, _, status, err := d.browse(location, cookies)
	if err == nil && status != http.StatusSeeOther && status != http.StatusServiceUnavailable {
		d.violation("link", "the callback of %s was answered with %d", p.appid, status)
	}
	pushed := func(e wechatsim.Entry) bool { return e.Kind == wechatsim.EntryPushAnswer && e.Authorizer == p.appid }
	switch {
	case status != http.StatusSeeOther:
	case slices.ContainsFunc(d.sim.HistorySince(before), pushed):
		d.happened["redirected after the push"]++ // which may have ended the link: then the code is no news
	default:
		d.happened["redirected"]++
	}
}

// browse gets a page of ingest as a browser does, without following a redirect.
func (d *day) browse(address string, cookies []*http.Cookie) (page string, set []*http.Cookie, status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, c := range cookies {
		request.AddCookie(c)
	}
	client := &http.Client{Transport: d.http, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return "", nil, 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), response.Cookies(), response.StatusCode, err
}

// sampleTicket looks whether the ticket that the component is renewed with grows older.
func (d *day) sampleTicket() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := d.lookUp(ctx)
	if err != nil {
		return // NATS is being restarted
	}
	m, err := s.stream.GetLastMsgForSubject(ctx, events.CredentialSubject(wxtoken.ComponentKey(testAppID)))
	if err != nil {
		return
	}
	var c struct {
		TicketCreatedAt time.Time `json:"ticket_created_at"`
	}
	data, err := d.seal.OpenOwn(m.Subject, m.Header, m.Data)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		d.t.Fatal(err)
	}
	if c.TicketCreatedAt.Before(d.ticketCreated) {
		d.violation("I9", "the ticket in use was made at %s, the one before at %s", c.TicketCreatedAt.Format(time.TimeOnly), d.ticketCreated.Format(time.TimeOnly))
	}
	d.ticketCreated = c.TicketCreatedAt
}

// sampleTickets looks at the jsapi_tickets as a reader does.
func (d *day) sampleTickets(now time.Time) {
	for i, p := range d.people[:ticketAccounts] {
		key := wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: testAppID, Authorizer: p.appid}
		t, err := d.client.Token(key)
		good := err == nil && d.sim.AcceptsAccountTicket(testAppID, p.appid, "jsapi", t.Value.Reveal())
		quiet := d.quiet(p, now)
		if good {
			d.ticketSeen[i] = now
		}
		switch {
		case !p.live && p.cancelled && err == nil && quiet > d.settle():
			d.violation("I7", "%s cancelled at %s and its jsapi_ticket is still there", p.appid, p.changed.Format(time.TimeOnly))
		case p.live && !good && quiet > d.settle()+ticketGap && now.Sub(d.ticketSeen[i]) > d.settle()+ticketGap:
			d.violation("T1", "%s has no good jsapi_ticket: %v, expires %s", p.appid, err, t.ExpiresAt.Format(time.TimeOnly))
		}
	}
}
