package wechatsim

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxControlBody bounds the body of a control request, in bytes.
const maxControlBody = 1 << 20

// verb is one action of the control door.
type verb struct {
	method string
	path   string
	form   string // an example of its form, as for curl -d
	help   string
	run    func(*Platform, *http.Request) (any, error) // the answer is written as JSON; nil as {"ok":true}
}

// verbs are all actions of the control door, in the order of its help.
var verbs = []verb{
	{"POST", "/authorize", "authorizer=wxa000000000000001", `an account authorizes: listed, "authorized" is pushed with a code`,
		func(p *Platform, r *http.Request) (any, error) {
			return nil, p.Authorize(r.FormValue("component"), r.FormValue("authorizer"))
		}},
	{"POST", "/reauthorize", "authorizer=wxa000000000000001", `it changes its permissions: new refresh token, "updateauthorized"`,
		func(p *Platform, r *http.Request) (any, error) {
			return nil, p.Reauthorize(r.FormValue("component"), r.FormValue("authorizer"))
		}},
	{"POST", "/register", "authorizer=wxa000000000000009", `quick registration of a mini program: "notify_third_fasteregister" with a code`,
		func(p *Platform, r *http.Request) (any, error) {
			return nil, p.Register(r.FormValue("component"), r.FormValue("authorizer"))
		}},
	{"POST", "/consent", "authorizer=wxa000000000000008&pre_auth_code=preauthcode@@@...&redirect_uri=https://example.com/back", "it authorizes through a link; answers where the browser goes",
		func(p *Platform, r *http.Request) (any, error) {
			location, err := p.Consent(r.FormValue("component"), r.FormValue("authorizer"), r.FormValue("pre_auth_code"), r.FormValue("redirect_uri"))
			return map[string]string{"location": location}, err
		}},
	{"POST", "/invalidate", "authorizer=wxa000000000000001", "its access tokens die at once; without authorizer, the component's",
		func(p *Platform, r *http.Request) (any, error) {
			return nil, p.Invalidate(r.FormValue("component"), r.FormValue("authorizer"))
		}},
	{"POST", "/push", "infotype=component_verify_ticket", "a new ticket now; with another infotype, that event, other fields of the form as its elements",
		func(p *Platform, r *http.Request) (any, error) { return nil, p.controlPush(r) }},
	{"POST", "/push", "authorizer=wxa000000000000001&content=hello", "a text message to an account; event=subscribe for an event, also openid, msgtype, msgid, mode=plain or compat (default security), json=1",
		nil},
	{"POST", "/push", "document=<xml>...</xml>", "a document as it is, encrypted; with authorizer to the message URL",
		nil},
	{"POST", "/verify-url", "authorizer=wxa000000000000001", "asks its message URL for an echostr, without authorizer the auth URL; answers whether it came back",
		func(p *Platform, r *http.Request) (any, error) {
			return p.VerifyURL(r.Context(), r.FormValue("component"), r.FormValue("authorizer"))
		}},
	{"POST", "/release-check", "authorizer=wx570bc396a51b8ff8&within=3s", "plays the network release check with one of WeChat's ten accounts; answers what worked, after waiting for the custom message (30s without within)",
		func(p *Platform, r *http.Request) (any, error) {
			within, err := formDuration(r, "within")
			if err != nil {
				return nil, err
			}
			return p.ReleaseCheck(r.Context(), r.FormValue("component"), r.FormValue("authorizer"), within)
		}},
	{"POST", "/cancel", "authorizer=wxa000000000000001", `it cancels: its tokens die, "unauthorized" is pushed`,
		func(p *Platform, r *http.Request) (any, error) {
			return nil, p.Cancel(r.FormValue("component"), r.FormValue("authorizer"))
		}},
	{"POST", "/drop-pushes", "infotype=unauthorized&times=1", "the next pushes of an InfoType get lost; without infotype, any",
		func(p *Platform, r *http.Request) (any, error) {
			times, err := formInt(r, "times", 1)
			if err == nil && times < 1 {
				err = errors.New("times: want 1 or more")
			}
			if err == nil {
				p.DropPushes(r.FormValue("infotype"), times)
			}
			return nil, err
		}},
	{"POST", "/odd-pushes", "infotype=component_verify_ticket&times=12", "the next pushes of an InfoType are odd, each in another way; without infotype, any; oddity=comment for one way",
		func(p *Platform, r *http.Request) (any, error) {
			times, err := formInt(r, "times", 1)
			if err != nil {
				return nil, err
			}
			return nil, p.OddPushes(r.FormValue("infotype"), times, Oddity(r.FormValue("oddity")))
		}},
	{"POST", "/stop-tickets", "", "no regular tickets any more",
		func(p *Platform, r *http.Request) (any, error) { return nil, p.StopTickets(r.FormValue("component")) }},
	{"POST", "/start-tickets", "", "regular tickets again",
		func(p *Platform, r *http.Request) (any, error) { return nil, p.StartTickets(r.FormValue("component")) }},
	{"POST", "/secret", "appsecret=0123456789abcdef0123456789abcdef", "another AppSecret; the old one is refused at once",
		func(p *Platform, r *http.Request) (any, error) {
			return nil, p.SetSecret(r.FormValue("component"), r.FormValue("appsecret"))
		}},
	{"POST", "/fail", "api=api_authorizer_token&errcode=61023&times=2", "calls fail; mode: errcode (default), busy, lost, drop, html, body, slow, no_refresh, empty_refresh, raw; also authorizer, component, errmsg, status, body, delay=3s, for=1m",
		func(p *Platform, r *http.Request) (any, error) { return nil, p.controlFail(r) }},
	{"POST", "/daily-limit", "api=api_create_preauthcode&limit=100", "calls a day of each appid, beyond them 45009; limit=-1 for none",
		func(p *Platform, r *http.Request) (any, error) {
			limit, err := formInt(r, "limit", -1)
			if err != nil {
				return nil, err
			}
			return nil, p.SetDailyLimit(r.FormValue("api"), limit)
		}},
	{"POST", "/down", "", "every call is cut off",
		func(p *Platform, _ *http.Request) (any, error) { p.SetDown(true); return nil, nil }},
	{"POST", "/up", "", "calls are taken again",
		func(p *Platform, _ *http.Request) (any, error) { p.SetDown(false); return nil, nil }},
	{"POST", "/heal", "", "ends every trouble of /fail, /drop-pushes, /odd-pushes and /down",
		func(p *Platform, _ *http.Request) (any, error) { p.Heal(); return nil, nil }},
	{"GET", "/history", "", "what happened, JSON lines; ?since=<seq> for what is newer, ?kind=push,call for some kinds", nil},
	{"DELETE", "/history", "", "forgets it",
		func(p *Platform, _ *http.Request) (any, error) { p.ClearHistory(); return nil, nil }},
	{"GET", "/truth", "", "what is true now, of every account; ?sha256=<hex> judges one access token",
		func(p *Platform, r *http.Request) (any, error) {
			if digest := r.FormValue("sha256"); digest != "" {
				return p.Judge(digest), nil
			}
			return p.Truths(), nil
		}},
}

// Control returns the control door. A client that reaches it can do everything, so serve it on a
// loopback address only. GET / lists its verbs, each with a curl line.
func (p *Platform) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", controlHelp)
	mux.HandleFunc("GET /history", p.controlHistory)
	for _, v := range verbs {
		if v.run == nil {
			continue
		}
		mux.HandleFunc(v.method+" "+v.path, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxControlBody)
			answer, err := v.run(p, r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			if answer == nil {
				answer = map[string]bool{"ok": true}
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(answer)
		})
	}
	return mux
}

func controlHelp(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "wechatsim, a fake WeChat Open Platform. NOT FOR PRODUCTION.\n"+
		"Add component=<appid> to a form if there is more than one component.\n"+
		"Authorization links work in a browser, at the address of the platform's API.\n")
	for _, v := range verbs {
		fmt.Fprintf(w, "\n# %s\n%s\n", v.help, v.curl(r.Host))
	}
}

// curl returns the curl line for the verb.
func (v verb) curl(host string) string {
	line := "curl"
	switch {
	case v.form != "":
		for part := range strings.SplitSeq(v.form, "&") {
			flag := " -d '"
			if strings.Contains(part, "<") {
				flag = " --data-urlencode '"
			}
			line += flag + part + "'"
		}
	case v.method != "GET":
		line += " -X " + v.method
	}
	return line + " http://" + host + v.path
}

func (p *Platform) controlHistory(w http.ResponseWriter, r *http.Request) {
	since, err := formInt(r, "since", 0)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var kinds []string
	if text := r.FormValue("kind"); text != "" {
		kinds = strings.Split(text, ",")
	}
	w.Header().Set("Content-Type", "application/jsonl")
	encoder := json.NewEncoder(w)
	for _, e := range p.HistorySince(since) {
		if kinds == nil || slices.Contains(kinds, string(e.Kind)) {
			_ = encoder.Encode(e)
		}
	}
}

// controlPush is /push. The fields tell which of its forms is meant.
func (p *Platform) controlPush(r *http.Request) error {
	component, authorizer, infoType := r.FormValue("component"), r.FormValue("authorizer"), r.FormValue("infotype")
	switch {
	case r.FormValue("document") != "":
		return p.PushRaw(component, authorizer, r.FormValue("document"))
	case infoType == infoTicket:
		return p.PushTicket(component)
	case infoType != "":
		var fields []string
		for name := range r.Form {
			if name != "component" && name != "infotype" {
				fields = append(fields, name)
			}
		}
		slices.Sort(fields)
		var namesAndValues []string
		for _, name := range fields {
			namesAndValues = append(namesAndValues, name, r.FormValue(name))
		}
		return p.PushInfo(component, infoType, namesAndValues...)
	case authorizer != "":
		id, err := formInt(r, "msgid", 0)
		if err != nil {
			return err
		}
		asJSON, err := strconv.ParseBool(cmp.Or(r.FormValue("json"), "0"))
		if err != nil {
			return errors.New("json: want 1 or 0")
		}
		return p.PushMessage(component, authorizer, Message{
			OpenID: r.FormValue("openid"), MsgType: r.FormValue("msgtype"), Event: r.FormValue("event"),
			Content: r.FormValue("content"), MsgID: int64(id), Mode: Mode(r.FormValue("mode")), JSON: asJSON,
		})
	}
	return errors.New("push: want infotype, or authorizer with content or event, or document")
}

func (p *Platform) controlFail(r *http.Request) error {
	f := Fault{
		API: r.FormValue("api"), Component: r.FormValue("component"), Authorizer: r.FormValue("authorizer"),
		Mode: FaultMode(r.FormValue("mode")), Errmsg: r.FormValue("errmsg"), Body: r.FormValue("body"),
	}
	var faults []error
	for _, n := range []struct {
		name string
		to   *int
	}{{"errcode", &f.Errcode}, {"times", &f.Times}, {"status", &f.Status}} {
		var err error
		*n.to, err = formInt(r, n.name, 0)
		faults = append(faults, err)
	}
	for _, d := range []struct {
		name string
		to   *time.Duration
	}{{"for", &f.For}, {"delay", &f.Delay}} {
		var err error
		*d.to, err = formDuration(r, d.name)
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	return p.Fail(f)
}

// formDuration returns 0 for a field that is absent.
func formDuration(r *http.Request, name string) (time.Duration, error) {
	text := r.FormValue(name)
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s: want a duration such as 3s or 2m", name)
	}
	return d, nil
}

func formInt(r *http.Request, name string, absent int) (int, error) {
	text := r.FormValue(name)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s: want a number", name)
	}
	return n, nil
}
