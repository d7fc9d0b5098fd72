package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/internal/events"
	"wxtoken/internal/services"
	"wxtoken/wechatsim"
	"wxtoken/wxtokentest"
)

// TestV1 asks for tokens, accounts and links in every way that is wrong, and in those that are right.
func TestV1(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	merchant, other := wxtokentest.Merchant.String(), wxtokentest.OtherMerchant.String()
	link := func(more string) string { return fmt.Sprintf(`{"component":%q%s}`, component, more) }
	for name, row := range map[string]struct {
		key, method, path, body string
		status                  int
		says                    string
	}{
		"token":                    {shopKey, "GET", "tokens/" + merchant, "", 200, `"generation":1`},
		"component's token":        {allKey, "GET", "tokens/" + wxtokentest.Component.String(), "", 200, `"generation":1`},
		"a ticket":                 {realKey, "GET", "tokens/jsapi_ticket." + merchant[len("authorizer."):], "", 200, `"generation":1`},
		"a ticket, no right":       {allKey, "GET", "tokens/jsapi_ticket." + merchant[len("authorizer."):], "", 403, `the right \"real\"`},
		"a ticket refused":         {allKey, "POST", "tokens/jsapi_ticket." + merchant[len("authorizer."):] + "/refused", `{"generation":1}`, 403, `the right \"real\"`},
		"no key":                   {"", "GET", "tokens/" + merchant, "", 401, "want the header"},
		"wrong key":                {"wrong", "GET", "tokens/" + merchant, "", 401, "no service has this key"},
		"another's token":          {shopKey, "GET", "tokens/" + other, "", 404, "no account of this service"},
		"component's, no right":    {shopKey, "GET", "tokens/" + wxtokentest.Component.String(), "", 404, "no account of this service"},
		"unknown account":          {allKey, "GET", "tokens/authorizer." + component + ".wxnobody", "", 404, "no token for this key"},
		"malformed key":            {allKey, "GET", "tokens/wxa", "", 422, "malformed key"},
		"unknown parameter":        {allKey, "GET", "tokens/" + merchant + "?x=1", "", 422, "parameter"},
		"parameter of one account": {allKey, "GET", "accounts/" + merchant + "?x=1", "", 422, "parameter"},
		"parameter of events":      {allKey, "GET", "events?x=1", "", 422, "parameter"},
		"parameter of a link":      {allKey, "POST", "links?ref=1", link(""), 422, "parameter"},
		"bad wait":                 {allKey, "GET", "tokens/" + merchant + "?wait=2h", "", 422, "wait: want seconds"},
		"wait twice":               {allKey, "GET", "tokens/" + merchant + "?wait=1&wait=2", "", 422, "parameter"},
		"another method":           {allKey, "PUT", "tokens/" + merchant, "", 405, "openapi.json"},
		"another path":             {allKey, "GET", "else", "", 404, "openapi.json"},
		"refused, nothing":         {allKey, "POST", "tokens/" + merchant + "/refused", `{}`, 422, "want one of"},
		"refused, both":            {allKey, "POST", "tokens/" + merchant + "/refused", `{"generation":1,"access_token":"x"}`, 422, "want one of"},
		"refused, from the future": {allKey, "POST", "tokens/" + merchant + "/refused", `{"generation":9}`, 422, "the newest is"},
		"refused, no JSON":         {allKey, "POST", "tokens/" + merchant + "/refused", `x`, 422, "want a JSON object"},
		"refused, two":             {allKey, "POST", "tokens/" + merchant + "/refused", `{"generation":1}{}`, 422, "something follows"},
		"refused, unknown field":   {allKey, "POST", "tokens/" + merchant + "/refused", `{"refx":1}`, 422, `unknown field \"refx\"`},
		"refused, wrong type":      {allKey, "POST", "tokens/" + merchant + "/refused", `{"generation":-1}`, 422, "generation: want a whole number that is not negative"},
		"refused, token a number":  {allKey, "POST", "tokens/" + merchant + "/refused", `{"access_token":1234567}`, 422, "access_token: want a string"},
		"refused, an array":        {allKey, "POST", "tokens/" + merchant + "/refused", `[1]`, 422, "want a JSON object"},
		"link, wrong type":         {allKey, "POST", "links", link(`,"expires_in":"1800"`), 422, "expires_in: want a whole number"},
		"refused, another's":       {shopKey, "POST", "tokens/" + other + "/refused", `{"generation":1}`, 404, "no account of this service"},
		"refused, too large":       {allKey, "POST", "tokens/" + merchant + "/refused", strings.Repeat(" ", 70<<10), 413, "too large"},
		"accounts":                 {allKey, "GET", "accounts", "", 200, other},
		"its own accounts":         {shopKey, "GET", "accounts", "", 200, merchant},
		"accounts, no right":       {tokenKey, "GET", "accounts", "", 403, `no right \"accounts\"`},
		"accounts, bad limit":      {allKey, "GET", "accounts?limit=0", "", 422, "limit"},
		"accounts, bad state":      {allKey, "GET", "accounts?state=fine", "", 422, "want one of active"},
		"accounts, bad after":      {allKey, "GET", "accounts?after=x", "", 422, "after"},
		"one account":              {shopKey, "GET", "accounts/" + merchant, "", 200, `"state":"active"`},
		"another's account":        {shopKey, "GET", "accounts/" + other, "", 404, "no account of this service"},
		"link":                     {allKey, "POST", "links", link(`,"ref":"tenant-1"`), 201, `"url":"http`},
		"link to its account":      {shopKey, "POST", "links", link(`,"biz_appid":"` + wxtokentest.Merchant.Authorizer + `"`), 201, `"url":"http`},
		"link to anything":         {shopKey, "POST", "links", link(``), 403, "for its own"},
		"link, another component":  {allKey, "POST", "links", `{"component":"wxother"}`, 403, "for its own"},
		"link, no right":           {tokenKey, "POST", "links", link(``), 403, `no right \"links\"`},
		"link, bad life":           {allKey, "POST", "links", link(`,"expires_in":1`), 422, "expires_in"},
		"link, unknown field":      {allKey, "POST", "links", link(`,"refx":"1"`), 422, `unknown field \"refx\"`},
		"events, no right":         {tokenKey, "GET", "events", "", 403, `no right \"events\"`},
	} {
		t.Run(name, func(t *testing.T) {
			a := r.v1(row.key, row.method, row.path, row.body)
			if a.status != row.status || !strings.Contains(string(a.body), row.says) {
				t.Errorf("%d %s, want %d with %q", a.status, a.body, row.status, row.says)
			}
			want := "application/json; charset=utf-8"
			if row.status >= 400 {
				want = "application/problem+json"
				var p struct{ Status int }
				if err := json.Unmarshal(a.body, &p); err != nil || p.Status != row.status {
					t.Errorf("no problem: %s", a.body)
				}
			}
			if got := a.header.Get("Content-Type"); got != want {
				t.Errorf("Content-Type %s, want %s", got, want)
			}
			if strings.Contains(string(a.body), "SEKRET") && row.key != realKey {
				t.Errorf("a secret: %s", a.body)
			}
		})
	}
	if a := r.v1(shopKey, "GET", "accounts", ""); strings.Contains(string(a.body), other) {
		t.Errorf("another's account is listed: %s", a.body)
	}
	if a := r.call("GET", "/v1/accounts", nil, "Authorization", "Basic "+allKey); a.status != 401 || a.header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("%d %v", a.status, a.header)
	}
	for header, status := range map[string]int{
		"bearer " + shopKey: 200, "BEARER  " + shopKey: 200, "Bearer": 401, "Bearer " + shopKey + ", Bearer x": 401, shopKey: 401, "Bearer\t" + shopKey: 401,
	} {
		if a := r.call("GET", "/v1/accounts", nil, "Authorization", header); a.status != status {
			t.Errorf("%q: %d %s", header, a.status, a.body)
		}
	}
	twice, err := http.NewRequestWithContext(t.Context(), "GET", r.url+"/v1/accounts", nil)
	r.must(err)
	twice.Header["Authorization"] = []string{"Bearer " + shopKey, "Bearer " + allKey}
	if a := r.do(twice); a.status != 401 {
		t.Errorf("two keys: %d %s", a.status, a.body)
	}
	if a := r.call("GET", "/v1//accounts", nil); a.status != 404 {
		t.Errorf("a path in two ways: %d", a.status)
	}
}

// TestV1Token reads the same token again, waits for the next, and uses it.
func TestV1Token(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	path := "tokens/" + wxtokentest.Merchant.String()
	first := r.v1(allKey, "GET", path, "")
	etag := first.header.Get("ETag")
	now := r.k.Token(wxtokentest.Merchant)
	if expires, err := time.Parse(time.RFC3339, first.get("expires_at")); err != nil || expires.After(now.ExpiresAt) || now.ExpiresAt.Sub(expires) > time.Second {
		t.Errorf("expires_at %s, %v, want %s", first.get("expires_at"), err, now.ExpiresAt)
	}
	if !strings.HasPrefix(first.header.Get("Cache-Control"), "private, max-age=") || etag == "" {
		t.Errorf("%v", first.header)
	}
	known := func(wait string) answer {
		return r.call("GET", "/v1/"+path+"?wait="+wait, nil, "Authorization", "Bearer "+allKey, "If-None-Match", etag)
	}
	if a := known("0"); a.status != http.StatusNotModified || len(a.body) > 0 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := known("1"); a.status != http.StatusNotModified {
		t.Errorf("after a second: %d %s", a.status, a.body)
	}
	for tags, status := range map[string]int{"W/" + etag: 304, `"x", ` + etag: 304, "*": 304, `"x"`: 200, strings.Trim(etag, `"`): 200, "": 200} {
		a := r.call("GET", "/v1/"+path+"?wait=0", nil, "Authorization", "Bearer "+allKey, "If-None-Match", tags)
		if a.status != status || a.header.Get("ETag") != etag || !strings.HasPrefix(a.header.Get("Cache-Control"), "private") || a.header.Get("Vary") != "Authorization" {
			t.Errorf("who knows %s: %d %v", tags, a.status, a.header)
		}
	}
	renewed := make(chan answer, 1)
	go func() { renewed <- known("60s") }()
	r.k.Renew(wxtokentest.Merchant)
	if a := <-renewed; a.status != 200 || a.get("generation") != "2" || a.header.Get("ETag") == etag {
		t.Errorf("%d %s", a.status, a.body)
	} else if use := r.call("GET", "/cgi-bin/user/info?access_token="+a.get("access_token"), nil); use.get("errcode") != "0" {
		t.Errorf("the token does not work: %s", use.body)
	}
	if a := r.v1(realKey, "GET", path, ""); a.get("access_token") != r.k.Token(wxtokentest.Merchant).Value.Reveal() {
		t.Error("who may have WeChat's own does not get it")
	}
	go func() {
		renewed <- r.call("GET", "/v1/"+path+"?wait=60", nil, "Authorization", "Bearer "+realKey, "If-None-Match", r.v1(realKey, "GET", path, "").header.Get("ETag"))
	}()
	time.Sleep(100 * time.Millisecond) // it waits, or else it is refused all the same
	r.write(strings.Replace(file(), services.Digest(realKey), services.Digest("another"), 1))
	r.until("a key that is gone is taken", func() bool { return r.v1(realKey, "GET", path, "").status == http.StatusUnauthorized })
	r.k.Renew(wxtokentest.Merchant)
	if a := <-renewed; a.status != http.StatusUnauthorized {
		t.Errorf("who lost the key while it waited: %d", a.status)
	}
}

// TestV1Refused goes through the whole ritual, by generation and by token.
func TestV1Refused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	path := "tokens/" + wxtokentest.Merchant.String()
	ours := r.v1(allKey, "GET", path, "").get("access_token")
	real := r.k.Token(wxtokentest.Merchant).Value.Reveal()
	r.k.Reject(wxtokentest.Merchant)
	a := r.v1(allKey, "POST", path+"/refused", `{"generation":1}`)
	if a.status != 200 || a.get("generation") != "2" || !r.k.Accepts(r.k.Token(wxtokentest.Merchant)) {
		t.Fatalf("%d %s", a.status, a.body)
	}
	var record events.AccountAnswer
	m, err := r.k.Connect(nats.UserInfo("operator", "operator"), nats.CustomInboxPrefix("_INBOX_operator")).Request(
		events.SubjectAccount, fmt.Appendf(nil, `{"key":%q}`, wxtokentest.Merchant), patience)
	r.must(err)
	r.must(json.Unmarshal(m.Data, &record))
	if record.History[0].ReportedBy != "gateway/all" {
		t.Errorf("its history: %s", m.Data)
	}
	for name, row := range map[string]struct{ key, body string }{
		"by generation, late":       {allKey, `{"generation":1}`},
		"a token of ours, late":     {allKey, fmt.Sprintf(`{"access_token":%q}`, ours)},
		"a token of WeChat's, late": {realKey, fmt.Sprintf(`{"access_token":%q}`, real)},
		"a token that is unknown":   {realKey, `{"access_token":"80_unknown"}`},
	} {
		if a := r.v1(row.key, "POST", path+"/refused", row.body); a.status != 200 || a.get("generation") != "2" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := r.v1(allKey, "POST", path+"/refused", `{"generation":2}`); a.status != http.StatusConflict {
		t.Errorf("a token that is seconds old: %d %s", a.status, a.body)
	}
	forOther := r.v1(allKey, "GET", "tokens/"+wxtokentest.OtherMerchant.String(), "").get("access_token")
	if a := r.v1(allKey, "POST", path+"/refused", fmt.Sprintf(`{"access_token":%q}`, forOther)); a.status != http.StatusUnprocessableEntity {
		t.Errorf("another account's: %d %s", a.status, a.body)
	}
	if g := r.k.Token(wxtokentest.Merchant).Generation; g != 2 {
		t.Errorf("generation %d", g)
	}
}

// TestV1RefusedWhileHeldBack: who reports a token while the day's quota is gone is told until when, at once.
func TestV1RefusedWhileHeldBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.must(r.k.WeChat.SetDailyLimit("api_authorizer_token", 0))
	operator := r.k.Connect(nats.UserInfo("operator", "operator"), nats.CustomInboxPrefix("_INBOX_operator"))
	ask := func(subject, question string) string {
		t.Helper()
		m, err := operator.Request(subject, []byte(question), patience)
		r.must(err)
		return string(m.Data)
	}
	ask(events.SubjectRenew, fmt.Sprintf(`{"key":%q}`, wxtokentest.OtherMerchant))
	r.until("nothing holds renewals back", func() bool {
		return strings.Contains(ask(events.SubjectQuota, fmt.Sprintf(`{"component":%q,"own":true}`, component)), "paused_until")
	})
	a := r.v1(allKey, "POST", "tokens/"+wxtokentest.Merchant.String()+"/refused", `{"generation":1}`)
	if detail := a.get("detail"); a.status != http.StatusServiceUnavailable || !strings.HasPrefix(detail, "reported: not before 20") || !strings.Contains(detail, "quota is gone") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestV1Accounts finds accounts by ref, text, state, page by page.
func TestV1Accounts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var appids []string
	for i := range 5 {
		appid := fmt.Sprintf("wxb00000000000%04d", i)
		appids = append(appids, appid)
		r.k.Authorize(appid)
	}
	list := func(query string) (keys []string, next string) {
		t.Helper()
		a := r.v1(allKey, "GET", "accounts?"+query, "")
		var page struct {
			Accounts []struct{ Appid string }
			Next     string
		}
		if err := json.Unmarshal(a.body, &page); err != nil || a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		for _, one := range page.Accounts {
			keys = append(keys, one.Appid)
		}
		return keys, page.Next
	}
	r.until("not all are listed", func() bool { keys, _ := list("q=WXB0"); return slices.Equal(keys, appids) })
	r.until("not by nickname", func() bool {
		keys, _ := list("q=%E8%B4%A6%E5%8F%B7+wxb000000000000003")
		return slices.Equal(keys, appids[3:4])
	})
	first, next := list("q=wxb&limit=2")
	second, next2 := list("q=wxb&limit=2&after=" + next)
	third, end := list("q=wxb&limit=2&after=" + next2)
	if !slices.Equal(slices.Concat(first, second, third), appids) || end != "" {
		t.Errorf("%v %v %v, then %q", first, second, third, end)
	}
	r.k.Revoke(wxtokentest.OtherMerchant)
	r.until("not by state", func() bool {
		keys, _ := list("state=revoked")
		return slices.Equal(keys, []string{wxtokentest.OtherMerchant.Authorizer})
	})
	if keys, _ := list("ref=nobody"); len(keys) > 0 {
		t.Errorf("by a ref that nobody has: %v", keys)
	}
	if keys, _ := list("component=wxother"); len(keys) > 0 {
		t.Errorf("of another component: %v", keys)
	}
}

// event is one event of a stream.
type event struct{ id, name, data string }

// follow opens a stream of events.
func (r *rig) follow(ctx context.Context, key, since string) <-chan event {
	r.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", r.url+"/v1/events", nil)
	r.must(err)
	req.Header.Set("Authorization", "Bearer "+key)
	if since != "" {
		req.Header.Set("Last-Event-ID", since)
	}
	res, err := r.http.Do(req)
	r.must(err)
	if res.StatusCode != 200 {
		r.Fatalf("no stream: %d", res.StatusCode)
	}
	out := make(chan event, 1000)
	go func() {
		defer close(out)
		defer func() { _ = res.Body.Close() }()
		var e event
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				e.id = value
			case "event":
				e.name = value
			case "data":
				e.data = value
			case "":
				if e.id != "" {
					out <- e
				}
				e = event{}
			}
		}
	}()
	return out
}

// wanted is an event that a test waits for: its name, and a part of its data.
type wanted struct{ name, part string }

// await waits until all events that are wanted have come, in whatever order, and returns the last one.
func (r *rig) await(events <-chan event, all ...wanted) event {
	r.Helper()
	late := time.After(patience)
	for {
		select {
		case e, open := <-events:
			if !open {
				r.Fatalf("the stream ended before %v", all)
			}
			if strings.Contains(e.data, "SEKRET") || strings.Contains(e.data, `"value"`) {
				r.Errorf("a secret: %s", e.data)
			}
			all = slices.DeleteFunc(all, func(w wanted) bool { return w.name == e.name && strings.Contains(e.data, w.part) })
			if len(all) == 0 {
				return e
			}
		case <-late:
			r.Fatalf("no event %v", all)
		}
	}
}

// TestEvents follows tokens, states and losses, goes on where it was cut off, and ends with the right to follow.
func TestEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cut := context.WithCancel(t.Context())
	defer cut()
	all, shop := r.follow(ctx, allKey, ""), r.follow(ctx, shopKey, "")
	r.k.Renew(wxtokentest.OtherMerchant)
	r.await(all, wanted{"token", wxtokentest.OtherMerchant.String()})
	r.k.Renew(wxtokentest.Merchant)
	last := r.await(shop, wanted{"token", `"generation":2`})
	if strings.Contains(last.data, wxtokentest.OtherMerchant.String()) {
		t.Errorf("another's event: %s", last.data)
	}
	cut()
	for range all {
	}
	r.k.Renew(wxtokentest.Merchant) // nobody listens
	r.k.Revoke(wxtokentest.OtherMerchant)
	again := r.follow(t.Context(), allKey, last.id)
	r.await(again, wanted{"token", `"generation":3`}, wanted{"state", `"revoked"`})
	r.k.Authorize("wxb000000000000001")
	r.await(again, wanted{"state", "wxb000000000000001"})
	if a := r.call("GET", "/v1/events", nil, "Authorization", "Bearer "+allKey, "Last-Event-ID", "nonsense"); a.status != 422 {
		t.Errorf("%d %s", a.status, a.body)
	}
	keyless := r.follow(t.Context(), shopKey, "")
	read := func() int { return strings.Count(r.log.String(), "services read") }
	before := read()
	r.write(strings.Replace(strings.Replace(file(), `"accounts","events"]`, `"accounts"]`, 1), services.Digest(shopKey), services.Digest("another"), 1))
	r.until("the services are not read again", func() bool { return read() > before })
	r.k.Renew(wxtokentest.Merchant)
	for e := range again {
		if strings.Contains(e.data, `"generation":4`) {
			t.Error("a service that may no longer follow is told")
		}
	}
	for e := range keyless {
		if strings.Contains(e.data, `"generation":4`) {
			t.Error("who has a key that is gone is told")
		}
	}
	if err := r.k.WeChat.Invalidate(wechatsim.DemoAppID, wxtokentest.Merchant.Authorizer); err != nil {
		t.Error(err)
	}
}

// TestQuietOverHTTP2 has a stream of events stay open over HTTP/2 while nothing happens, and tell what does then.
func TestQuietOverHTTP2(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	door := httptest.NewUnstartedServer(r.g.Handler())
	door.EnableHTTP2 = true
	door.StartTLS()
	defer door.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", door.URL+"/v1/events", nil)
	r.must(err)
	req.Header.Set("Authorization", "Bearer "+allKey)
	res, err := door.Client().Do(req)
	r.must(err)
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewScanner(res.Body)
	read := func(until string) {
		t.Helper()
		for lines.Scan() && lines.Text() != until {
		}
		if res.ProtoMajor != 2 || lines.Err() != nil || lines.Text() != until {
			t.Fatalf("%s, the last of it %q: %v", res.Proto, lines.Text(), lines.Err())
		}
	}
	read(": still here")
	r.k.Renew(wxtokentest.Merchant)
	read("event: token")
}

// TestEndsWithStreams ends a gateway with a stream and a wait open: both end with it, and it ends in order.
func TestEndsWithStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stream := r.follow(t.Context(), allKey, "")
	path := "/v1/tokens/" + wxtokentest.Merchant.String()
	etag := r.call("GET", path, nil, "Authorization", "Bearer "+allKey).header.Get("ETag")
	waited := make(chan answer, 1)
	go func() {
		waited <- r.call("GET", path+"?wait=60", nil, "Authorization", "Bearer "+allKey, "If-None-Match", etag)
	}()
	<-stream                // its first mark
	time.Sleep(time.Second) // the wait is under way
	r.stop()
	for range stream {
	}
	if a := <-waited; a.status != http.StatusNotModified {
		t.Errorf("%d %s", a.status, a.body)
	}
}
