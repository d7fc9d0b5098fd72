package refresher_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/internal/store"
	"wxtoken/wechatsim"
)

const apiPreAuth = "api_create_preauthcode"

func TestConnectCreate(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) {
		withLinks(c)
		c.PublicURL = publicURL + "/"
	}})
	ids := map[string]bool{}
	for _, row := range []struct {
		question string
		life     time.Duration
	}{
		{`"component":"` + appid + `"`, 30 * time.Minute},
		{`"component":"` + appid + `","expires_in":60`, time.Minute},
		{`"component":"` + appid + `","expires_in":2592000`, 30 * 24 * time.Hour},
		{`"component":"` + appid + `","ref":"客户 7","return":"https://shop.example.com/done?x=1","auth_type":1,"biz_appid":"wx1","category_id_list":"1|18","move":true`, 30 * time.Minute},
		{`"component":"` + appid + `","return":"https://SHOP.example.com:8443/","category_id_list":[1,18],"auth_type":8`, 30 * time.Minute},
		{`"component":"` + appid + `","return":"http://localhost:3000/","category_id_list":""`, 30 * time.Minute},
	} {
		began := r.clock.Now()
		created, refused := request[map[string]any](r, events.SubjectConnectCreate, "{"+row.question+"}")
		if refused.code != "" {
			t.Errorf("%s: refused: %v", row.question, refused)
			continue
		}
		id, _ := created["id"].(string)
		if len(created) != 3 || len(id) < 22 || ids[id] || created["url"] != publicURL+"/connect/"+id {
			t.Errorf("%s: the answer is %v", row.question, created)
		}
		ids[id] = true
		ends, err := time.Parse(time.RFC3339, fmt.Sprint(created["expires_at"]))
		if life := ends.Sub(began); err != nil || life < row.life || life > row.life+within || ends.Location() != time.UTC {
			t.Errorf("%s: expires_at %v is %v from now, want %v", row.question, created["expires_at"], life, row.life)
		}
	}
	r.wantCalls(apiPreAuth, 0) // a code that nobody asked for would only grow old
}

func TestConnectCreateRefuses(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	type fields map[string]any
	for _, row := range []struct {
		fields fields
		code   string
	}{
		{fields{"component": "wxffffffffffffffff"}, "404"},
		{fields{"component": ""}, "404"},
		{fields{"component": 7}, "400"},
		{fields{"ref": strings.Repeat("r", 257)}, "400"},
		{fields{"ref": "a\nb"}, "400"},
		{fields{"ref": "a\x7fb"}, "400"},
		{fields{"auth_type": 7}, "400"},
		{fields{"auth_type": 9}, "400"},
		{fields{"auth_type": -1}, "400"},
		{fields{"auth_type": "3"}, "400"},
		{fields{"biz_appid": "wx1&auth_type=1"}, "400"},
		{fields{"biz_appid": "wx 1"}, "400"},
		{fields{"category_id_list": "1|x"}, "400"},
		{fields{"category_id_list": "1,2"}, "400"},
		{fields{"category_id_list": "0"}, "400"},
		{fields{"category_id_list": []int{1, -2}}, "400"},
		{fields{"category_id_list": []string{"1"}}, "400"},
		{fields{"category_id_list": 7}, "400"},
		{fields{"category_id_list": make([]int, 201)}, "400"},
		{fields{"expires_in": -1}, "400"},
		{fields{"expires_in": 59}, "400"},
		{fields{"expires_in": 2592001}, "400"},
		{fields{"expires_in": 18446744134}, "400"}, // in nanoseconds it is a minute more than an int64 holds, twice
		{fields{"expires_in": "60"}, "400"},
		{fields{"move": "yes"}, "400"},
		{fields{"return": "https://evil"}, "400"},
		{fields{"return": "https://evil/?https://shop.example.com/"}, "400"},
		{fields{"return": "https://evil#shop.example.com"}, "400"},
		{fields{"return": "https://evil.shop.example.com/"}, "400"},
		{fields{"return": "https://shop.example.com.evil/"}, "400"},
		{fields{"return": "https://shop.example.com.:443/"}, "400"},
		{fields{"return": "https://evilshop.example.com/"}, "400"},
		{fields{"return": "//evil"}, "400"},
		{fields{"return": "//shop.example.com/"}, "400"},
		{fields{"return": `/\evil`}, "400"},
		{fields{"return": `\\evil`}, "400"},
		{fields{"return": `https:\\shop.example.com`}, "400"},
		{fields{"return": `https://shop.example.com\@evil/`}, "400"},
		{fields{"return": `https://evil\.shop.example.com/`}, "400"},
		{fields{"return": `https://shop.example.com/\evil`}, "400"},
		{fields{"return": "/done"}, "400"},
		{fields{"return": "done"}, "400"},
		{fields{"return": "javascript:alert(1)"}, "400"},
		{fields{"return": "javascript://shop.example.com/%0aalert(1)"}, "400"},
		{fields{"return": "JaVaScRiPt:alert(1)"}, "400"},
		{fields{"return": "data:text/html,x"}, "400"},
		{fields{"return": "%2f%2fevil"}, "400"},
		{fields{"return": "https:%2f%2fevil"}, "400"},
		{fields{"return": "https://%2f%2fevil"}, "400"},
		{fields{"return": "https://good@evil"}, "400"},
		{fields{"return": "https://shop.example.com@evil/"}, "400"},
		{fields{"return": "https://user@shop.example.com/"}, "400"},
		{fields{"return": "https://user:word@shop.example.com/"}, "400"},
		{fields{"return": "https://@shop.example.com/"}, "400"},
		{fields{"return": "https://"}, "400"},
		{fields{"return": "https:///shop.example.com"}, "400"},
		{fields{"return": "https:shop.example.com"}, "400"},
		{fields{"return": "https://shop.example.com:x/"}, "400"},
		{fields{"return": "https://[shop.example.com]:443/"}, "400"},
		{fields{"return": "https://shop.example.com/\r\nSet-Cookie: a=b"}, "400"},
		{fields{"return": " https://shop.example.com/"}, "400"},
		{fields{"return": "http://shop.example.com/"}, "400"}, // the code's news in the clear
		{fields{"return": "http://localhost.evil/"}, "400"},
		{fields{"return": "ftp://shop.example.com/"}, "400"},
		{fields{"return": "https://shop.example.com/" + strings.Repeat("a", 4096)}, "400"},
	} {
		question := fields{"component": appid}
		maps.Copy(question, row.fields)
		wantRefused(r, events.SubjectConnectCreate, question, row.code)
	}
	for _, text := range []string{"", "not JSON", "[]", `"x"`, "{"} {
		wantRefused(r, events.SubjectConnectCreate, text, "400")
	}
}

func TestNoLinksWithoutPublicURL(t *testing.T) {
	r := newRig(t, options{})
	wantRefused(r, events.SubjectConnectCreate, events.ConnectCreate{Component: appid}, "503")
}

// wechatLink returns the query of a link that leads to WeChat, after a look at the rest of it.
func (r *rig) wechatLink(link, host, fragment string) url.Values {
	r.Helper()
	u, err := url.Parse(link)
	r.must(err)
	if u.Scheme != "https" || u.Host != host || u.Fragment != fragment {
		r.Errorf("the link leads to %s://%s#%s", u.Scheme, u.Host, u.Fragment)
	}
	return u.Query()
}

func TestConnectLanding(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	created := r.link(events.ConnectCreate{
		Ref: "7", AuthType: 2, BizAppID: alice, CategoryIDs: events.Category{1, 18}, ExpiresIn: 7200,
	})
	first := r.open(events.ConnectOpen{ID: created.ID})
	if first.State != events.ConnectPending || first.Component != appid || first.URL != created.URL || len(first.Session) < 22 {
		t.Errorf("the landing page gets %+v", first)
	}
	pc := r.wechatLink(first.PCLink, "mp.weixin.qq.com", "")
	mobile := r.wechatLink(first.MobileLink, "open.weixin.qq.com", "wechat_redirect")
	for _, v := range []url.Values{pc, mobile} {
		for name, want := range map[string]string{
			"component_appid": appid, "redirect_uri": created.URL + "/callback", "auth_type": "2", "biz_appid": alice,
			"category_id_list": "1|18", "pre_auth_code": pc.Get("pre_auth_code"),
		} {
			if got := v.Get(name); got != want || len(v[name]) != 1 {
				t.Errorf("%s is %q, want %q", name, v[name], want)
			}
		}
	}
	if mobile.Get("action") != "bindcomponent" || mobile.Get("no_scan") != "1" {
		t.Errorf("the mobile link is %s", first.MobileLink)
	}

	r.clock.forward(4 * time.Minute)
	again := r.open(events.ConnectOpen{ID: created.ID, Step: events.StepLanding})
	if again.Session == first.Session {
		t.Error("two browsers have one session")
	}
	if again.Session = first.Session; !reflect.DeepEqual(again, first) {
		t.Error("a reload shows another page")
	}
	r.wantCalls(apiPreAuth, 1)
	r.clock.forward(2 * time.Minute)
	later := r.open(events.ConnectOpen{ID: created.ID})
	fresh := r.wechatLink(later.PCLink, "mp.weixin.qq.com", "").Get("pre_auth_code")
	if fresh == pc.Get("pre_auth_code") {
		t.Error("a code near its end is shown again")
	}
	r.wantCalls(apiPreAuth, 2)

	// The merchant who has the first page still open is known by its code, too.
	location, err := r.sim.Consent(appid, alice, pc.Get("pre_auth_code"), created.URL+"/callback")
	if err == nil {
		r.until("not authorized", func() bool {
			return r.open(events.ConnectOpen{ID: created.ID, Step: events.StepResult, Session: first.Session}).State == events.ConnectAuthorized
		})
	}
	r.must(err)
	if !strings.HasPrefix(location, created.URL+"/callback?auth_code=") {
		t.Error("WeChat sends the browser elsewhere")
	}
}

func TestConnectLandingWhileWeChatIsAway(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	id := r.link(events.ConnectCreate{}).ID
	r.fail(wechatsim.Fault{API: apiPreAuth, Errcode: 45009, Errmsg: "reach max api daily quota limit preauthcode@@@SEKRET-of-nobody", Times: 1})
	r.wantOpenRefused(events.ConnectOpen{ID: id}, "503")
	r.clock.forward(25 * time.Hour)
	id = r.link(events.ConnectCreate{}).ID
	r.fail(wechatsim.Fault{API: apiPreAuth, Mode: wechatsim.FaultBody, Body: `{"pre_auth_code":""}`, Times: 1})
	r.wantOpenRefused(events.ConnectOpen{ID: id}, "503")
}

// sha returns the hex SHA-256 of a secret.
func sha(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func TestConnectSteps(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	for _, id := range []string{"", "nobody", "../x", "a.b", "*", strings.Repeat("A", 65)} {
		for _, step := range []string{"", events.StepLanding, events.StepCallback, events.StepResult} {
			r.wantOpenRefused(events.ConnectOpen{ID: id, Step: step, Session: "s", CodeSHA256: sha("c")}, "404")
		}
	}
	id := r.link(events.ConnectCreate{}).ID
	session := r.open(events.ConnectOpen{ID: id}).Session
	other := r.open(events.ConnectOpen{ID: r.link(events.ConnectCreate{}).ID}).Session
	for _, wrong := range []string{"", "x", other, session + "x", session[1:], strings.ToLower(session),
		strings.Split(session, ".")[0], "." + strings.Split(session, ".")[1], strings.Split(session, ".")[0] + "." + strings.Split(other, ".")[1]} {
		r.wantOpenRefused(events.ConnectOpen{ID: id, Step: events.StepCallback, Session: wrong, CodeSHA256: sha("a")}, "403")
		r.wantOpenRefused(events.ConnectOpen{ID: id, Step: events.StepResult, Session: wrong}, "403")
	}
	for _, bad := range []string{"", "a", strings.Repeat("g", 64), sha("a") + "0", sha("a")[1:]} {
		r.wantOpenRefused(events.ConnectOpen{ID: id, Step: events.StepCallback, Session: session, CodeSHA256: bad}, "400")
	}
	r.wantOpenRefused(events.ConnectOpen{ID: id, Step: "another", Session: session}, "400")
	if s := r.open(events.ConnectOpen{ID: id, Step: events.StepResult, Session: session}).State; s != events.ConnectPending {
		t.Errorf("after nothing but bad requests the state is %q", s)
	}

	callback := events.ConnectOpen{ID: id, Step: events.StepCallback, Session: session, CodeSHA256: sha("a")}
	for range 2 { // the back button
		if s := r.open(callback).State; s != events.ConnectExchanging {
			t.Errorf("after the redirect the state is %q", s)
		}
	}
	callback.CodeSHA256 = sha("b")
	r.wantOpenRefused(callback, "410")
	r.wantOpenRefused(events.ConnectOpen{ID: id}, "410") // used
	if s := r.open(events.ConnectOpen{ID: id, Step: events.StepResult, Session: session}).State; s != events.ConnectExchanging {
		t.Errorf("the state is %q", s)
	}

	id = r.link(events.ConnectCreate{ExpiresIn: 60}).ID
	session = r.open(events.ConnectOpen{ID: id}).Session
	r.clock.forward(61 * time.Second)
	r.wantOpenRefused(events.ConnectOpen{ID: id}, "410") // expired
	// A merchant who is at WeChat by then still comes through, as long as the pre-auth code works.
	r.open(events.ConnectOpen{ID: id, Step: events.StepCallback, Session: session, CodeSHA256: sha("a")})
	id = r.link(events.ConnectCreate{ExpiresIn: 60}).ID
	session = r.open(events.ConnectOpen{ID: id}).Session
	r.clock.forward(time.Hour)
	r.wantOpenRefused(events.ConnectOpen{ID: id, Step: events.StepCallback, Session: session, CodeSHA256: sha("a")}, "410")
	r.wantOpenRefused(events.ConnectOpen{ID: id, Step: events.StepResult, Session: session}, "410")
}

// TestConnectOpenedByTwo opens a link many times at once, through two refreshers.
func TestConnectOpenedByTwo(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	r.start()
	id := r.link(events.ConnectCreate{}).ID
	r.fail(wechatsim.Fault{API: apiPreAuth, Mode: wechatsim.FaultSlow, Delay: 200 * time.Millisecond})
	question, err := json.Marshal(events.ConnectOpen{ID: id})
	r.must(err)
	answers := make([]string, 20)
	var asking sync.WaitGroup
	for i := range answers {
		asking.Go(func() {
			m, err := r.request(events.SubjectConnectOpen, question)
			if err != nil {
				t.Error(err)
				return
			}
			var opened events.ConnectOpened
			if err := json.Unmarshal(m.Data, &opened); err != nil || opened.Session == "" {
				t.Errorf("the answer is %q", m.Data)
			}
			answers[i] = opened.PCLink
		})
	}
	asking.Wait()
	for _, a := range answers {
		if a != answers[0] || !strings.Contains(a, "pre_auth_code") {
			t.Fatalf("the same link gives different pages: %q and %q", answers[0], a)
		}
	}
	r.wantOpenRefused(events.ConnectOpen{ID: id, Step: events.StepResult}, "403")
	if n := r.calls(apiPreAuth); n > 2 {
		t.Errorf("%d calls for one link, want one of each refresher at most", n)
	}
}

// TestConnectOpenedByMany opens a link many times at once while WeChat is slow.
func TestConnectOpenedByMany(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	id := r.link(events.ConnectCreate{}).ID
	r.fail(wechatsim.Fault{API: apiPreAuth, Mode: wechatsim.FaultSlow, Delay: 300 * time.Millisecond})
	var asking sync.WaitGroup
	for range 40 {
		asking.Go(func() { r.open(events.ConnectOpen{ID: id}) })
	}
	asking.Wait()
	r.wantCalls(apiPreAuth, 1)
}

// TestPagesStarveNobody fills a refresher with landing pages: a report of a refused token is answered all the same, and who
// is one too many is told so at once.
func TestPagesStarveNobody(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	id := r.link(events.ConnectCreate{}).ID
	r.fail(wechatsim.Fault{API: apiPreAuth, Mode: wechatsim.FaultSlow, Delay: 3 * time.Second})
	question, err := json.Marshal(events.ConnectOpen{ID: id})
	r.must(err)
	inbox := r.nc.NewInbox()
	answers, err := r.nc.SubscribeSync(inbox)
	r.must(err)
	for range 100 {
		r.must(r.nc.PublishRequest(events.SubjectConnectOpen, inbox, question))
	}
	wantRefused(r, events.SubjectReject, "{}", "400")
	for range 100 - 64 {
		m, err := answers.NextMsg(within)
		r.must(err)
		if code := m.Header.Get(micro.ErrorCodeHeader); code != "503" {
			t.Fatalf("a page was answered %q first", code)
		}
	}
	if text := r.log.String(); strings.Contains(text, `"level":"warn","error":"too many at once"`) {
		t.Error("the log warns of what anybody can bring about")
	}
}

// TestConnectIDIsNowhere looks for the id of a link where more than the refreshers may look.
func TestConnectIDIsNowhere(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	id := r.link(events.ConnectCreate{}).ID
	r.open(events.ConnectOpen{ID: id})
	stream, err := r.js.Stream(t.Context(), events.StreamTokens)
	r.must(err)
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(events.AllCredentials))
	r.must(err)
	if n := len(info.State.Subjects); n < 3 {
		t.Errorf("%d subjects", n)
	}
	for subject := range info.State.Subjects {
		if strings.Contains(subject, id) {
			t.Error("a subject names the link")
		}
	}
	c, _, err := r.store.Connect(t.Context(), id)
	r.must(err)
	c.Revision--
	if _, err = r.store.SaveConnect(t.Context(), c, r.clock.Now()); !errors.Is(err, store.ErrLost) || strings.Contains(err.Error(), id) {
		t.Error("no error, or one that names the link")
	}
	if strings.Contains(r.log.String(), id) {
		t.Error("the log names the link")
	}
}

// TestConnectAfterNonsense has somebody open the link of another and come back with a code that is none.
func TestConnectAfterNonsense(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	stranger := r.open(events.ConnectOpen{ID: m.id}).Session
	nonsense := m.redirect
	nonsense.Code = "queryauthcode@@@nonsense"
	callback := events.ConnectOpen{ID: m.id, Step: events.StepCallback, Session: stranger, CodeSHA256: sha(nonsense.Code)}
	r.open(callback)
	r.wantOpenRefused(events.ConnectOpen{ID: m.id, Step: events.StepCallback, Session: m.session, CodeSHA256: sha(m.redirect.Code)}, "410") // not judged yet
	r.send(nonsense)
	r.until("the code is no good, and nobody says so", func() bool {
		c, _, err := r.store.Connect(t.Context(), m.id)
		return err == nil && !c.SpentAt.IsZero()
	})
	m.comesBack()
	m.wantAuthorized(alice, "7")
	r.wantOpenRefused(callback, "410")
}

// TestConnectAfterFailure brings a code to a link whose push came to nothing.
func TestConnectAfterFailure(t *testing.T) {
	r := newRig(t, options{sim: wechatsim.Config{TwoCodes: true}, cfg: withLinks})
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	r.fail(wechatsim.Fault{API: apiExchange, Errcode: 61003, Times: 1})
	m.send(m.push)
	m.ended(events.ConnectFailed)
	m.comesBack()
	m.wantAuthorized(alice, "7")
}
