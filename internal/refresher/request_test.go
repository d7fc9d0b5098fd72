package refresher_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
)

// The address of ingest and the host of the caller, as the refreshers of the tests know them.
const (
	publicURL  = "https://auth.example.com"
	returnHost = "shop.example.com"
)

// withLinks has the refreshers of a rig make links.
func withLinks(c *refresher.Config) {
	c.PublicURL, c.ReturnHosts = publicURL, []string{returnHost, "localhost"}
}

// refusal is how a request is refused.
type refusal struct{ code, text string }

// request asks the refreshers, as soon as one listens. question is the text of a request, or what becomes its JSON. It
// fails the test if the answer shows a secret of the platform.
func request[A any](r *rig, subject string, question any) (answer A, refused refusal) {
	r.Helper()
	data, ok := question.(string)
	if !ok {
		encoded, err := json.Marshal(question)
		r.must(err)
		data = string(encoded)
	}
	m, err := r.request(subject, []byte(data))
	r.must(err)
	refused = refusal{m.Header.Get(micro.ErrorCodeHeader), m.Header.Get(micro.ErrorHeader)}
	shown := string(m.Data) + refused.text
	for _, secret := range r.sim.Secrets() {
		// The link that leads to WeChat carries a pre-auth code: that is what it is for.
		if strings.Contains(shown, secret) && !strings.HasPrefix(secret, "preauthcode@@@") {
			r.Errorf("the answer to %s shows a secret: %.40s", subject, shown)
		}
	}
	if refused.code == "" {
		r.must(json.Unmarshal(m.Data, &answer))
		return answer, refused
	}
	var body events.Refusal
	if err := json.Unmarshal(m.Data, &body); err != nil || strconv.Itoa(body.Error.Code) != refused.code || body.Error.Description != refused.text {
		r.Errorf("%s is refused with %v in the headers, and %q in the body (%v)", subject, refused, m.Data, err)
	}
	return answer, refused
}

func (r *rig) request(subject string, data []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		m, err := r.nc.RequestWithContext(ctx, subject, data)
		if !errors.Is(err, nats.ErrNoResponders) {
			return m, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// wantRefused fails the test unless a request is refused with the given code, and says so in words.
func wantRefused(r *rig, subject string, question any, code string) {
	r.Helper()
	answer, refused := request[any](r, subject, question)
	switch {
	case refused.code != code:
		r.Errorf("%s %v: code %q (%s), want %q; answer %v", subject, question, refused.code, refused.text, code, answer)
	case refused.text == "" || strings.ContainsAny(refused.text, "\r\n"):
		r.Errorf("%s %v: refused with the text %q", subject, question, refused.text)
	}
}

// link asks for an authorization link.
func (r *rig) link(q events.ConnectCreate) events.ConnectCreated {
	r.Helper()
	q.Component = appid
	created, refused := request[events.ConnectCreated](r, events.SubjectConnectCreate, q)
	if refused.code != "" {
		r.Fatalf("no link: %v", refused)
	}
	return created
}

// open does one step of a link, as ingest does.
func (r *rig) open(q events.ConnectOpen) events.ConnectOpened {
	r.Helper()
	opened, refused := request[events.ConnectOpened](r, events.SubjectConnectOpen, q)
	if refused.code != "" {
		r.Fatalf("step %q of the link: %v", q.Step, refused)
	}
	return opened
}

// wantOpenRefused fails the test unless a step of a link is refused with the given code.
func (r *rig) wantOpenRefused(q events.ConnectOpen, code string) {
	r.Helper()
	wantRefused(r, events.SubjectConnectOpen, q, code)
}

// A field that a question does not have is refused by its name, and nothing is done.
func TestUnknownFields(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	for _, row := range []struct{ subject, question, names string }{
		{events.SubjectConnectCreate, `{"component":"` + appid + `","refx":"tenant-17"}`, `"refx": want component, ref, return`},
		{events.SubjectConnectCreate, `{"component":"` + appid + `","category_id_list":[1],"x":{"ref":1}}`, `"x"`},
		{events.SubjectConnectCreate, `{"component":"` + appid + `","Ref ":"tenant-17"}`, `"Ref "`},
		{events.SubjectReject, `{"key":"` + componentKey.String() + `","revison":1}`, `"revison": want key, revision, token_sha256`},
		{events.SubjectReject, `{"key":"` + componentKey.String() + `","token":"80_SEKRET"}`, `"token"`},
		{events.SubjectRenew, `{"key":"` + componentKey.String() + `","force":true}`, `"force": want key`},
		{events.SubjectReconcile, `{"component":"` + appid + `","full":true}`, `"full"`},
		{events.SubjectQuota, `{"component":"` + appid + `","clear":true,"confirmed":"` + appid + `"}`, `"confirmed": want component, clear, confirm`},
		{events.SubjectQuota, `{"` + strings.Repeat("x", 300) + `":1}`, `"` + strings.Repeat("x", 63)},
		{events.SubjectRenew, `{"key":"` + componentKey.String() + `"} {"force":true}`, "not JSON"},
	} {
		_, refused := request[any](r, row.subject, row.question)
		if refused.code != "400" || !strings.Contains(refused.text, row.names) || strings.Contains(refused.text, "SEKRET") || len(refused.text) > 300 {
			t.Errorf("%s %s: refused with %v, want 400 and %s", row.subject, row.question, refused, row.names)
		}
	}
	// ingest may be newer than a refresher while both are replaced.
	id := r.link(events.ConnectCreate{}).ID
	if _, refused := request[events.ConnectOpened](r, events.SubjectConnectOpen, `{"id":"`+id+`","later":true}`); refused.code != "" {
		t.Errorf("a page of a newer ingest is refused: %v", refused)
	}
}

// A field of a wrong type is named, with what it should be, and without what it was.
func TestWrongTypes(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	create := func(field string) string { return `{"component":"` + appid + `",` + field + `}` }
	for _, row := range []struct{ subject, question, says string }{
		{events.SubjectConnectCreate, create(`"expires_in":"SEKRET"`), "expires_in: want a whole number"},
		{events.SubjectConnectCreate, create(`"expires_in":1.5`), "expires_in: want a whole number"},
		{events.SubjectConnectCreate, create(`"expires_in":1e99`), "expires_in: want a whole number"},
		{events.SubjectConnectCreate, create(`"move":"yes"`), "move: want true or false"},
		{events.SubjectConnectCreate, create(`"ref":17`), "ref: want a string"},
		{events.SubjectConnectCreate, create(`"ref":{"a":1}`), "ref: want a string"},
		{events.SubjectConnectCreate, create(`"category_id_list":{}`), "category_id_list: want an array of numbers, or numbers with | between them"},
		{events.SubjectConnectCreate, create(`"category_id_list":"1|SEKRET"`), "category_id_list: want an array of numbers, or numbers with | between them"},
		{events.SubjectReject, `{"key":"` + componentKey.String() + `","revision":-1}`, "revision: want a whole number that is not negative"},
		{events.SubjectReject, `{"key":"` + componentKey.String() + `","token_sha256":123456789}`, "token_sha256: want a string"},
		{events.SubjectRenew, `{"key":5}`, "key: want a string"},
		{events.SubjectRenew, `{"key":"80_SEKRET"}`, "key: want component.<appid>, or"},
		{events.SubjectDead, `{"sequence":"1","do":"discard"}`, "sequence: want a whole number that is not negative"},
		{events.SubjectQuota, create(`"clear":1`), "clear: want true or false"},
		{events.SubjectReconcile, `["SEKRET"]`, "want a JSON object"},
		{events.SubjectReconcile, `"SEKRET"`, "want a JSON object"},
	} {
		_, refused := request[any](r, row.subject, row.question)
		if refused.code != "400" || !strings.Contains(refused.text, row.says) || strings.Contains(refused.text, "SEKRET") || strings.Contains(refused.text, "Go ") {
			t.Errorf("%s %s: refused with %v, want 400 and %s", row.subject, row.question, refused, row.says)
		}
	}
}

// TestAccountTold tells what is recorded of a key: how its last tokens came about, and no secret.
func TestAccountTold(t *testing.T) {
	r := newRig(t, options{idle: true})
	r.start()
	r.ticket()
	r.authorize(alice)
	key := wxtoken.AuthorizerKey(appid, alice)
	r.eventually(func() error { return r.accepted(alice) })
	r.drained()
	for range 9 {
		g := r.token(key).Generation
		r.poke(key)
		r.generation(key, g+1)
	}
	told, refused := request[events.AccountAnswer](r, events.SubjectAccount, events.AccountRequest{Key: key})
	if refused.code != "" || told.Key != key || told.Generation < 10 || len(told.History) != 8 || told.AuthorizedAt.IsZero() {
		t.Fatalf("%v %+v", refused, told)
	}
	for i, p := range told.History {
		if p.Generation != told.Generation-uint64(i) || p.Reason == "" || p.At.IsZero() || p.By == "" {
			t.Errorf("%d: %+v", i, p)
		}
	}
	for question, code := range map[string]string{`{}`: "400", `{"key":"x"}`: "400", `{"key":"authorizer.` + appid + `.wxstranger"}`: "404"} {
		if _, refused := request[events.AccountAnswer](r, events.SubjectAccount, question); refused.code != code {
			t.Errorf("%s: %v", question, refused)
		}
	}
	quota, refused := request[events.QuotaAnswer](r, events.SubjectQuota, events.QuotaRequest{Component: appid, Own: true})
	if refused.code != "" || len(quota.APIs) == 0 || quota.APIs[0].QuotaLeft != nil || quota.APIs[0].Error != "" {
		t.Errorf("%v %+v", refused, quota)
	}
	r.wantCalls("openapi/quota/get", 0)
}
