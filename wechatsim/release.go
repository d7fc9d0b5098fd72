package wechatsim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// lentAccount is an account that WeChat lends for the network release check
// ("releases_instructions").
type lentAccount struct {
	appID, originalID string
	miniProgram       bool
}

var lentAccounts = []lentAccount{
	{"wx570bc396a51b8ff8", "gh_3c884a361561", false},
	{"wx9252c5e0bb1836fc", "gh_c0f28a78b318", false},
	{"wx8e1097c5bc82cde9", "gh_3f222ed8d140", false},
	{"wx14550af28c71a144", "gh_26128078e9ab", false},
	{"wxa35b9c23cfe664eb", "gh_2b3713f184a6", false},
	{"wxd101a85aa106f53e", "gh_8dad206e9538", true},
	{"wxc39235c15087f6f3", "gh_905ae9d01059", true},
	{"wx7720d01d4b2a4500", "gh_393666f1fdf4", true},
	{"wx05d483572dcd5d8b", "gh_39abb5d4e1b7", true},
	{"wx5910277cae6fd970", "gh_7818dcb60240", true},
}

// ReleaseAccounts returns the appids of the accounts that ReleaseCheck knows: five official
// accounts, then five mini programs.
func ReleaseAccounts() []string {
	var appids []string
	for _, a := range lentAccounts {
		appids = append(appids, a.appID)
	}
	return appids
}

func lent(appid string) (lentAccount, bool) {
	for _, a := range lentAccounts {
		if a.appID == appid {
			return a, true
		}
	}
	return lentAccount{}, false
}

const (
	// customMessageWait is how long ReleaseCheck waits for the custom message. WeChat's own limit
	// is not published.
	customMessageWait = 30 * time.Second

	// releaseOpenID is the user who writes the messages of the release check.
	releaseOpenID = "oSimReleaseCheck"
)

// Step is one expectation of the platform, and whether it was met.
type Step struct {
	Step string `json:"step"`
	OK   bool   `json:"ok"`
	Why  string `json:"why,omitempty"` // not OK; without secrets
}

// ReleaseReport is the result of a ReleaseCheck.
type ReleaseReport struct {
	Component  string `json:"component"`
	Authorizer string `json:"authorizer"`
	OK         bool   `json:"ok"` // all steps are OK
	Steps      []Step `json:"steps"`
}

// customMessage is a message that an account sent with message/custom/send, in the clear.
type customMessage struct{ openID, msgType, text string }

// ReleaseCheck plays the network release check (全网发布接入检测, "releases_instructions") with one of
// ReleaseAccounts, the first one if authorizer is empty. The account authorizes, a ticket is
// pushed, an official account gets a text and an event that require a passive reply, each account
// gets a code that requires a custom message within the given time (0 means 30 s), and the account
// cancels. All steps are played, even if an earlier one failed.
//
// It needs Run, and waits until that is called. The error says why the check could not be played to
// its end.
func (p *Platform) ReleaseCheck(ctx context.Context, componentAppID, authorizer string, within time.Duration) (ReleaseReport, error) {
	account, known := lent(cmp.Or(authorizer, lentAccounts[0].appID))
	if !known {
		return ReleaseReport{}, fmt.Errorf("check release: %q is not one of the accounts that WeChat lends", authorizer)
	}
	p.mu.Lock()
	c, err := p.component(componentAppID)
	switch {
	case err != nil:
	case c.MessageURL == "":
		err = fmt.Errorf("component %q has no MessageURL", c.AppID)
	case c.authorizers[account.appID] != nil && c.authorizers[account.appID].authorized:
		err = fmt.Errorf("account %q authorizes component %q already: cancel it", account.appID, c.AppID)
	}
	if err != nil {
		p.mu.Unlock()
		return ReleaseReport{}, fmt.Errorf("check release: %w", err)
	}
	_, authorized := p.authorize(c, account.appID, "")
	a := c.authorizers[account.appID]
	sent := make(chan customMessage, 16) // messages beyond 16 unread ones are dropped
	a.sent = sent
	p.mu.Unlock()

	report := ReleaseReport{Component: c.AppID, Authorizer: account.appID, OK: true}
	add := func(step string, err error) {
		s := Step{Step: step, OK: err == nil}
		if err != nil {
			s.Why, report.OK = err.Error(), false
		}
		report.Steps = append(report.Steps, s)
	}
	// play pushes something and expects an answer: a text, or success if want is empty.
	play := func(step string, push func() *push, want string) {
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		job := push()
		p.mu.Unlock()
		add(step, p.wantAnswer(ctx, job, want))
	}
	say := func(m Message) func() *push {
		m.OpenID = releaseOpenID
		return func() *push { return p.pushMessage(c, a, m) }
	}

	play("authorized", func() *push { return authorized }, "")
	play(infoTicket, func() *push { return p.pushTicket(c) }, "")
	if !account.miniProgram {
		play("TESTCOMPONENT_MSG_TYPE_TEXT", say(Message{Content: "TESTCOMPONENT_MSG_TYPE_TEXT"}), "TESTCOMPONENT_MSG_TYPE_TEXT_callback")
		// From an older version of the page; the present one does not have it.
		play("LOCATION", say(Message{Event: "LOCATION"}), "LOCATIONfrom_callback")
	}
	var code string
	play("QUERY_AUTH_CODE", func() *push {
		code = p.issueCode(c, a)
		return say(Message{Content: "QUERY_AUTH_CODE:" + code})()
	}, "")
	if ctx.Err() == nil {
		add("custom_message", p.wantCustomMessage(ctx, sent, code+"_from_api", cmp.Or(within, customMessageWait)))
	}

	p.mu.Lock()
	a.sent = nil
	var cancelled *push
	if a.authorized {
		cancelled = p.cancel(c, a)
	}
	p.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		report.OK = false
		return report, fmt.Errorf("check release: %w", ctx.Err())
	case cancelled == nil:
		add("unauthorized", errors.New("the authorization was cancelled during the check"))
	default:
		add("unauthorized", p.wantAnswer(ctx, cancelled, ""))
	}
	return report, nil
}

// wantAnswer waits for the last answer to a push and returns what is wrong with it. want is the
// Content of the expected text reply, or empty if no reply is expected.
func (p *Platform) wantAnswer(ctx context.Context, job *push, want string) error {
	var a answer
	select {
	case a = <-job.done:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.closed:
		return errors.New("the platform ended")
	}
	switch {
	case a.outcome != OutcomeSuccess:
		return errors.New(withoutSecret(a.text))
	case want == "" && a.msgType != "":
		return errors.New("answered with a reply: want success or nothing")
	case want != "" && a.msgType == "":
		return fmt.Errorf("answered without a reply: want the text %q", want)
	case want != "" && (a.msgType != "text" || a.content != want):
		return fmt.Errorf("replied with %s %q: want the text %q", a.msgType, withoutSecret(a.content), want)
	}
	return nil
}

// wantCustomMessage waits until an account has sent a text to the user of the release check.
func (p *Platform) wantCustomMessage(ctx context.Context, sent <-chan customMessage, text string, within time.Duration) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	others := 0
	for {
		select {
		case m := <-sent:
			if m == (customMessage{releaseOpenID, "text", text}) {
				return nil
			}
			others++
		case <-timer.C:
			return fmt.Errorf("not sent within %s, but %d others", within, others)
		case <-ctx.Done():
			return ctx.Err()
		case <-p.closed:
			return errors.New("the platform ended")
		}
	}
}

// VerifyURL sends an echostr to a push address, as WeChat does when the address is saved on the
// console ("message-push"): to the MessageURL of authorizer, or to the AuthURL if authorizer is
// empty. No page says whether WeChat does this for components. It is recorded in the history. The
// error says why nothing was sent.
func (p *Platform) VerifyURL(ctx context.Context, componentAppID, authorizer string) (Step, error) {
	p.mu.Lock()
	c, err := p.component(componentAppID)
	switch {
	case err != nil:
	case authorizer != "" && c.MessageURL == "":
		err = fmt.Errorf("component %q has no MessageURL", c.AppID)
	}
	if err != nil {
		p.mu.Unlock()
		return Step{}, fmt.Errorf("verify url: %w", err)
	}
	_, _, query := p.stamp(c)
	echo := strconv.FormatInt(1+p.rng.Int64N(1<<62), 10)
	p.mu.Unlock()

	target := c.AuthURL
	if authorizer != "" {
		target = c.messageURL(authorizer)
	}
	entry := Entry{Kind: EntryVerify, Component: c.AppID, Authorizer: claimed(authorizer), Outcome: OutcomeFailed}
	text, err := p.exchange(ctx, http.MethodGet, withQuery(target, query+"&echostr="+echo), "", "", &entry.Status)
	switch {
	case err != nil:
		entry.Text = err.Error()
	case entry.Status != http.StatusOK:
		entry.Outcome, entry.Text = OutcomeRefused, "status is not 200"
	case string(text) != echo:
		entry.Outcome, entry.Text = OutcomeRefused, "body is not the echostr"
		if strings.TrimSpace(string(text)) == echo {
			entry.Text = "white space around the echostr"
		}
	default:
		entry.Outcome = OutcomeSuccess
	}
	p.mu.Lock()
	p.record(entry)
	p.mu.Unlock()
	return Step{Step: "echostr", OK: entry.Outcome == OutcomeSuccess, Why: entry.Text}, nil
}
