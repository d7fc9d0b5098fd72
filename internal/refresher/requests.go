package refresher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// Operators, services, the operator's page and ingest ask the refreshers over NATS. Who may ask
// what is for NATS to say, by the rights of its users; here a request counts as permitted, but for
// two: the page's, where the person's role is looked at once more (ifPermitted), and a reply
// subject that is no inbox.
//
// No answer does long work. A wish for a token or for WeChat's list becomes a due message, and the
// answer says that it did: what is asked for then survives this process, and one story covers every
// renewal. Only what a person waits for at a page calls WeChat within the request: links, one
// account, quotas.
//
// A request is not stored: a refresher that dies has its requests time out at the asker, who asks
// again. So everything here may be asked twice.

const (
	// requestTime bounds the answer to one request. It is shorter than a call to WeChat may take
	// (callTimeout): most askers wait no longer, and the place is wanted by others.
	requestTime = 8 * time.Second
	// requestsAtOnce bounds how many are being answered. Links have bounds of their own: their
	// pages are open to the internet, and must not hold up a report of a refused token.
	requestsAtOnce = 64
	opensAtOnce    = 64
	createsAtOnce  = 16
	listsAtOnce    = 2
	// serviceVersion is that of the questions and answers, as NATS's service discovery shows it.
	serviceVersion = "1.0.0"
)

var errKey = events.BadRequest(lang.T("key: want component.<appid>, or authorizer, jsapi_ticket or wx_card_ticket.<component_appid>.<authorizer_appid>",
	"key：应为 component.<appid>，或以 authorizer、jsapi_ticket、wx_card_ticket 开头的 .<component_appid>.<authorizer_appid>"))

// door takes the requests of operators, services and ingest in, and gives the answers out. Any
// refresher may get any request: NATS hands each one to one of them.
//
// That is a queue group of NATS's: a process that died is out of it once its connection is closed,
// and until then its share of the requests times out.
type door struct {
	nc        *nats.Conn
	log       zerolog.Logger
	metrics   *metrics
	endpoints []endpoint
}

// asked is one request.
type asked struct {
	data []byte
	by   events.Asker
}

// answerer answers a request.
type answerer func(ctx context.Context, q asked) (reply any, err error)

// endpoint is what is answered on one subject. How many are answered at once is bounded by subject
// or group of subjects, not by the whole: reports of refused tokens must get through while a
// browser somewhere keeps opening links.
type endpoint struct {
	subject string
	free    chan struct{} // has room for as many as are answered at once
	patient bool          // a request that finds no room waits; else it is refused
	answer  answerer
}

// endpoints returns all that the refreshers answer.
//
// What the page may ask exists twice, on a subject for all and on one below wxtoken.console., where
// no user but the refreshers' may publish: so its header with the person's role can be believed.
// Both share one bound. Reports and mere looks leave no audit record, and have no subject for the
// page.
func (r *Refresher) endpoints() []endpoint {
	a, free, creates := r.answers, make(chan struct{}, requestsAtOnce), make(chan struct{}, createsAtOnce)
	own := []endpoint{
		{events.SubjectRenew, free, true, withRecord(a.journal, a.renew, recordOfRenew)},
		{events.SubjectReconcile, free, true, withRecord(a.journal, r.compare, recordOfReconcile)},
		{events.SubjectQuota, free, true, withRecord(a.journal, a.quota, recordOfClear)},
		{events.SubjectDead, free, true, withRecord(a.journal, a.dead, recordOfDead)},
		{events.SubjectReveal, free, true, a.reveal},
		{events.SubjectConnectCreate, creates, false, withRecord(a.journal, r.links.Create, recordOfLink)},
	}
	all := []endpoint{
		{events.SubjectReject, free, true, question(a.reject)},
		{events.SubjectAccount, free, true, question(a.account)},
		{events.SubjectConnectList, make(chan struct{}, listsAtOnce), true, question(r.links.List)},
		{events.SubjectConnectOpen, make(chan struct{}, opensAtOnce), false, ownQuestion(r.connectOpen)},
	}
	for _, e := range own {
		all = append(all, e)
		e.subject = events.ConsoleSubject(e.subject)
		e.answer = ifPermitted(e.answer)
		all = append(all, e)
	}
	return all
}

// serve answers requests until ctx ends, then finishes those that it is at. A service that can't be
// set up is tried again each second: the renewals need none of it, and go on.
func (d *door) serve(ctx, work context.Context) {
	for ctx.Err() == nil {
		err := d.serveOnce(ctx, work)
		if ctx.Err() != nil {
			return
		}
		d.log.Warn().Err(err).Dur("delay", time.Second).Msg("failed to serve requests")
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// serveOnce answers requests until ctx ends or the service can't be set up.
//
// NATS calls the handlers one after the other, on one goroutine for each subject, so each request
// is answered in a goroutine of its own. At the end that needs care: after Stop the service may
// still hand over requests that it had received. The flag stopped, under mu, divides them: what
// began before it was set is waited for, and what comes later is refused, so that no goroutine is
// started once Wait has begun.
func (d *door) serveOnce(ctx, work context.Context) error {
	service, err := micro.AddService(d.nc, micro.Config{
		Name: events.ServiceName, Version: serviceVersion,
		Description: "keeper of WeChat access tokens",
		ErrorHandler: func(_ micro.Service, e *micro.NATSError) {
			d.log.Warn().Str("subject", e.Subject).Str("error", e.Description).Msg("failed to answer request")
		},
	})
	if err != nil {
		return fmt.Errorf("set up the service %s: %w", events.ServiceName, err)
	}
	var mu sync.Mutex
	var stopped bool // nothing more is begun
	var working sync.WaitGroup
	defer func() {
		_ = service.Stop() // with the connection gone there is nothing to stop
		mu.Lock()
		stopped = true // what the service still has in hand after Stop is refused
		mu.Unlock()
		working.Wait()
	}()
	begin := func(f func()) (begun bool) {
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			working.Go(f)
		}
		return !stopped
	}
	for _, e := range d.endpoints {
		name := strings.ReplaceAll(strings.TrimPrefix(e.subject, events.ServiceName+"."), ".", "-")
		err = errors.Join(err, service.AddEndpoint(name, micro.HandlerFunc(func(q micro.Request) {
			// Not answered at all: the answer to such a request is what does the harm.
			if !isInbox(q.Reply()) {
				d.log.Error().Str("subject", q.Subject()).Msg("request rejected: its reply subject is not an inbox")
				return
			}
			select {
			// This runs on the goroutine on which NATS hands out what comes on the subject. To wait
			// in it holds up this subject only; what comes meanwhile waits in the subscription. For
			// a page of a link that is no good, since a stranger can send thousands: it is refused
			// at once (TestPagesStarveNobody).
			case e.free <- struct{}{}:
			default:
				if !e.patient {
					d.refuse(q, errBusy)
					return
				}
				e.free <- struct{}{} // those at work end within requestTime
			}
			if !begin(func() {
				defer func() { <-e.free }()
				d.answer(work, q, e.answer)
			}) {
				<-e.free
				// The connection may be gone.
				_ = refuse(q, http.StatusServiceUnavailable, lang.Of(errStopping))
			}
		}), micro.WithEndpointSubject(e.subject)))
	}
	if err != nil {
		return fmt.Errorf("set up the service %s: %w", events.ServiceName, err)
	}
	<-ctx.Done()
	return nil
}

// isInbox reports whether a subject is one on which a requester waits. NATS lets a requester name
// any subject for the answer, and the rights of the requester are not looked at there: the answer
// is published with this process's rights, which may write tokens. In the shipped settings the
// accounts are a wall against that (docs/adr/0025); with all users in one account this look is all
// that there is for requests.
func isInbox(reply string) bool {
	return strings.HasPrefix(reply, "_INBOX") || strings.HasPrefix(reply, "_R_") // from another account
}

// question reads a request of type Q for an answer of type A. A field that Q does not have is
// refused: "refx" would make a link without a ref, and the caller would hear of it when the
// merchant has authorized.
func question[Q, A any](answer func(context.Context, Q) (A, error)) answerer {
	return func(ctx context.Context, request asked) (any, error) {
		var q Q
		if err := readQuestion(request.data, &q, true); err != nil {
			return nil, err
		}
		return answer(ctx, q)
	}
}

// ownQuestion is question for a request of ingest's, which may be newer than this refresher and say
// more.
func ownQuestion[Q, A any](answer func(context.Context, Q) (A, error)) answerer {
	return func(ctx context.Context, request asked) (any, error) {
		var q Q
		if err := readQuestion(request.data, &q, false); err != nil {
			return nil, err
		}
		return answer(ctx, q)
	}
}

func readQuestion(data []byte, q any, strict bool) error {
	if !json.Valid(data) {
		return events.BadRequest(lang.T("the request is not JSON", "请求不是 JSON"))
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if strict {
		decoder.DisallowUnknownFields()
	}
	err := decoder.Decode(q)
	if err == nil {
		return nil
	}
	if errors.Is(err, wxtoken.ErrBadKey) { // without what stood there: it may be a token, by mistake
		return errKey
	}
	if name, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown { // it has no type
		return events.BadRequest(lang.T("unknown field %s: want %s", "未知的字段 %s：可用的有 %s", events.Clip(name), fieldsOf(q)))
	}
	if wrong := events.WrongType(err); !wrong.IsZero() {
		return events.BadRequest(wrong)
	}
	if refused, ok := errors.AsType[*events.RequestError](err); ok { // by a field's own type
		return refused
	}
	return events.BadRequest(lang.T("the request can't be read: %s", "无法解析请求：%s", events.Clip(err.Error())))
}

// fieldsOf names the fields that a question may have.
func fieldsOf(q any) string {
	var names []string
	for field := range reflect.TypeOf(q).Elem().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// answer answers one request. A requester that waits for something that may come is told to ask
// again (503). An error without a status of its own is such a case: NATS that does not answer, say.
func (d *door) answer(ctx context.Context, q micro.Request, answer answerer) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	reply, err := d.guardedAnswer(ctx, q, answer)
	if err != nil {
		d.refuse(q, err)
		return
	}
	if err := q.RespondJSON(reply); err != nil {
		d.log.Warn().Err(err).Str("subject", q.Subject()).Msg("failed to answer request")
	}
}

// errBusy is compared by its address: the log is kept quiet of what a flood brings about.
var errBusy = events.Refused(http.StatusServiceUnavailable, lang.T("too many at once", "同时的请求过多"))

func (d *door) refuse(q micro.Request, cause error) {
	code, known := http.StatusServiceUnavailable, new(events.RequestError)
	if errors.As(cause, &known) {
		code = known.Code
	}
	d.metrics.requests.WithLabelValues(q.Subject(), strconv.Itoa(code)).Inc()
	level := zerolog.WarnLevel
	switch {
	case known == errBusy, code < http.StatusInternalServerError && q.Subject() == events.SubjectConnectOpen:
		level = zerolog.DebugLevel // anybody on the internet can bring it about; ingest has a line for it
	case code < http.StatusInternalServerError:
		level = zerolog.InfoLevel // the asker's fault
	}
	d.log.WithLevel(level).Err(cause).Str("subject", q.Subject()).Int("status", code).Msg("request refused")
	if err := refuse(q, code, lang.Of(cause)); err != nil {
		d.log.Warn().Err(err).Str("subject", q.Subject()).Msg("failed to answer request")
	}
}

// refuse answers that there is no answer, in the headers of the micro service and in the body.
func refuse(q micro.Request, code int, why lang.Text) error {
	body, err := json.Marshal(events.Refusal{Error: *events.Refused(code, why)})
	if err != nil {
		return err
	}
	// Not q.Error: it leaves a note for the caller of the handler, which does not wait for
	// this goroutine.
	headers := micro.Headers{micro.ErrorHeader: {why.EN}, micro.ErrorCodeHeader: {strconv.Itoa(code)}}
	return q.Respond(body, micro.WithHeaders(headers))
}

// guardedAnswer turns a panic into an error: one bad request must not stop the others.
//
// Unlike a message, a request that panicked is not given to another refresher: it would panic
// there.
func (d *door) guardedAnswer(ctx context.Context, q micro.Request, answer answerer) (reply any, err error) {
	defer func() {
		if recover() != nil { // its value is not logged: it may hold anything
			d.metrics.panics.Inc()
			d.log.Error().Str("subject", q.Subject()).Bytes("stack", debug.Stack()).Msg("handler panicked")
			err = events.Refused(http.StatusInternalServerError, lang.T("the handler panicked", "程序出错（panic），见日志"))
		}
	}()
	request := asked{q.Data(), events.AskerOf(q.Subject(), q.Reply(), q.Headers().Get)}
	if reply, err = answer(ctx, request); err == nil {
		d.metrics.requests.WithLabelValues(q.Subject(), "200").Inc()
	}
	return reply, err
}

// answers are those to operators and services.
type answers struct {
	store          *store.Store
	view           *store.View
	component      func(appid string) (*component, bool)
	early          *early
	reconcileEvery time.Duration
	js             jetstream.JetStream
	journal        journal
	log            zerolog.Logger
	metrics        *metrics
	now            func() time.Time
}

// reject answers wxtoken.reject: WeChat refused a token that a service used. A report of an old
// token is told that there is a newer one; of all reports of the current one the first has it
// renewed. The answer comes at once, and the service sees the new token in its view when it is
// there.
//
// The report is believed as far as it names the token that is current. Whether WeChat really
// refused it is not asked. What keeps services from renewing all day is the cool-down, and 24 a day
// for each key (TestRejectedByMany, TestRejectedAllDay).
func (a *answers) reject(ctx context.Context, q events.Reject) (events.Verdict, error) {
	switch {
	case q.Key == (wxtoken.Key{}):
		return events.Verdict{}, errKey
	case (q.Revision == 0) == (q.TokenSHA256 == ""):
		return events.Verdict{}, events.BadRequest(lang.T("want key and one of revision and token_sha256", "应有 key，以及 revision 和 token_sha256 之一"))
	case q.TokenSHA256 != "" && !events.IsDigest(q.TokenSHA256):
		return events.Verdict{}, events.BadRequest(lang.T("token_sha256: want the hex SHA-256 of the token", "token_sha256：应为令牌的 SHA-256（十六进制）"))
	}
	if err := wxtoken.CheckName(q.By); err != nil {
		return events.Verdict{}, events.BadRequest(lang.T("by: %s", "by：不是可用的名称：%s", err))
	}
	v, err := a.judgeReport(ctx, q)
	if err != nil {
		return events.Verdict{}, err
	}
	a.metrics.reports.WithLabelValues(string(v.Outcome)).Inc()
	a.log.Info().Stringer("key", q.Key).Str("outcome", string(v.Outcome)).Str("by", q.By).Msg("refused token reported")
	// The wish is stored by now and lasts. Where the next token can't be had within half a minute,
	// an answer that says "renewing" would have the service wait in vain: it is told until when.
	if v.Outcome == wxtoken.OutcomeRenewing {
		if err := a.notYet(q.Key, replaceWait); err != nil {
			return events.Verdict{}, err
		}
	}
	return v, nil
}

// judgeReport decides about a report. The view is asked first: it may lag, but that a token is old
// it knows for certain, and after a renewal most reports are about the old one. Else the token is
// read, and read again if it was renewed in between, so that the answer can name the current
// revision.
func (a *answers) judgeReport(ctx context.Context, q events.Reject) (events.Verdict, error) {
	if _, ok := a.component(q.Key.Component); !ok {
		return events.Verdict{Outcome: wxtoken.OutcomeUnknownKey}, nil
	}
	if e, ok := a.view.Get(q.Key); ok && q.Revision > 0 && q.Revision < e.Token.Revision {
		return events.Verdict{Outcome: wxtoken.OutcomeAlreadyRenewed, Revision: e.Token.Revision}, nil
	}
	var v events.Verdict
	// A token that can't be read has no value to compare, and is current if the revision is.
	for range 3 {
		t, ok, err := a.store.Token(ctx, q.Key)
		if err != nil && !errors.Is(err, wxtoken.ErrBadToken) {
			return events.Verdict{}, err
		}
		if !ok {
			return events.Verdict{Outcome: wxtoken.OutcomeUnknownKey}, nil
		}
		current := q.Revision == t.Revision
		if q.TokenSHA256 != "" {
			current = strings.EqualFold(q.TokenSHA256, events.Digest(t.Value.Reveal()))
		}
		if !current {
			return events.Verdict{Outcome: wxtoken.OutcomeAlreadyRenewed, Revision: t.Revision}, nil
		}
		outcome, err := a.early.replace(ctx, t, events.ReasonRefused, q.By)
		if err != nil || outcome == wxtoken.OutcomeUnknownKey {
			return events.Verdict{Outcome: outcome}, err
		}
		if v = (events.Verdict{Outcome: outcome, Revision: t.Revision}); outcome != wxtoken.OutcomeAlreadyRenewed {
			break
		}
		// Renewed in this moment: the answer names the new one.
	}
	return v, nil
}

// renew answers wxtoken.renew: an operator wants the next token of a key now. It does not renew by
// itself. It makes a due message like the schedule does, so that one story covers every renewal.
func (a *answers) renew(ctx context.Context, q events.Renew) (events.Verdict, error) {
	if q.Key == (wxtoken.Key{}) {
		return events.Verdict{}, errKey
	}
	cred, err := a.store.Credential(ctx, q.Key)
	if err != nil {
		return events.Verdict{}, err
	}
	if _, ok := a.component(q.Key.Component); !ok || !cred.Renewable() {
		return events.Verdict{Outcome: wxtoken.OutcomeUnknownKey}, nil
	}
	t, _, err := a.store.Token(ctx, q.Key)
	if err != nil && !errors.Is(err, wxtoken.ErrBadToken) {
		return events.Verdict{}, err
	}
	if t.Key == (wxtoken.Key{}) {
		t.Key, t.Generation = q.Key, cred.Generation // there is none, or none that can be read
	}
	outcome, err := a.early.replace(ctx, t, events.ReasonAsked, "")
	if err != nil {
		return events.Verdict{}, err
	}
	a.log.Info().Stringer("key", q.Key).Str("outcome", string(outcome)).Msg("renewal asked for")
	if outcome == wxtoken.OutcomeRenewing {
		if err := a.notYet(q.Key, 0); err != nil {
			return events.Verdict{}, err
		}
	}
	return events.Verdict{Outcome: outcome, Revision: t.Revision}, nil
}

// notNow returns an error for a request while something keeps WeChat from being asked by a call of
// api, with until when and why. A wait of up to patience is none.
func notNow(c *component, api wechat.API, patience time.Duration) error {
	until, why := c.gate.NotBefore(api, patience)
	if until.IsZero() {
		return nil
	}
	return events.Refused(http.StatusServiceUnavailable, lang.T("not before %s: %s", "%s 之前不行：%s", wechat.Stamp(until), why))
}

// replaceWait is how long who reported a refused token waits for the next one.
const replaceWait = 30 * time.Second

// notYet is notNow for the next token of a key, which is fetched by itself once nothing holds it
// back.
func (a *answers) notYet(key wxtoken.Key, patience time.Duration) error {
	c, ok := a.component(key.Component)
	if !ok {
		return nil
	}
	err := notNow(c, renewals[key.Kind].api, patience)
	if err == nil {
		return nil
	}
	return events.Refused(http.StatusServiceUnavailable, lang.T("%v; it is renewed by itself then", "%v；届时会自动续期", err))
}

// reconcile answers wxtoken.reconcile for a component. It is refused while the list can't be
// called, and nothing is kept of the wish then (TestReconcileRefused).
func (a *answers) reconcile(ctx context.Context, q events.ReconcileRequest) (events.Reconciling, error) {
	c, ok := a.component(q.Component)
	if !ok {
		return events.Reconciling{}, events.UnknownComponent(q.Component)
	}
	if err := notNow(c, wechat.APIAuthorizerList, 0); err != nil {
		return events.Reconciling{}, err
	}
	if err := a.store.ScheduleReconcile(ctx, q.Component, a.reconcileEvery, true); err != nil {
		return events.Reconciling{}, err
	}
	a.log.Info().Str("component", q.Component).Msg("reconcile asked for")
	return events.Reconciling{Outcome: events.ReconcileListed}, nil
}

// connectOpen answers wxtoken.connect.open: what ingest asks about a link, or before it starts.
func (r *Refresher) connectOpen(ctx context.Context, q events.ConnectOpen) (events.ConnectOpened, error) {
	switch q.Step {
	case events.StepSeal:
		return sealOf(r.seal, q.SealKey), nil
	case events.StepHeld:
		return events.ConnectOpened{Held: r.heldConditions(ctx)}, nil
	}
	return r.links.Open(ctx, q)
}
