//go:build unix

package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/runbook"
	"wxtoken/internal/truth"
	"wxtoken/wechatsim"
)

// fault is an entry of the runbook, and what each place that an operator looks at has to say of it. Where a field is empty that place
// can't know.
type fault struct {
	name     string
	accounts int
	ingest   []string // variables of its own
	refresh  []string
	play     func(*site)

	ofAccount bool           // the status is that of the first account, not of the component
	state     wxtoken.State  // in the bucket status
	reason    wxtoken.Reason // of a condition there that does not hold
	page      string         // in the page's JSON
	metric    string         // in /metrics of the refresher, a pattern
	check     string         // name of a line of --check and of /check that is not ok
	ingests   string         // of ingest's --check
	alert     string         // that fires
	cause     wxtoken.Reason // of the notice
	entry     runbook.Entry  // in what check and notice say to do
	over      func(*site)    // ends it; nil: that is not played
}

const held = `wxtoken_held_back{component="` + wechatsim.DemoAppID + `",reason="%s"} 1`

// first is the account that single troubles are about.
var first = wxtoken.AuthorizerKey(wechatsim.DemoAppID, fmt.Sprintf("wxa%015d", 1))

func heal(s *site) { s.tell("/heal", "") }

// faults are all that are played.
func faults(t *testing.T) []fault {
	keys, _ := newKeys(t)
	_, other := newKeys(t)
	failing := func(form string) func(*site) { return func(s *site) { s.tell("/fail", form+"&for=1h") } }
	return []fault{
		{
			name: "quota gone", accounts: 3, play: func(s *site) { s.tell("/daily-limit", "api=api_authorizer_token&limit=0") },
			state: wxtoken.StateOperator, reason: wxtoken.HeldQuota, page: `QuotaGone`, metric: fmt.Sprintf(held, "QuotaGone"), check: "renewals",
			ingests: "renewals", alert: "HeldBack", cause: wxtoken.HeldQuota, entry: runbook.QuotaGone,
		},
		{
			name: "wrong secret", accounts: 3, play: func(s *site) { s.tell("/secret", "appsecret=fedcba9876543210fedcba9876543210") },
			state: wxtoken.StateOperator, reason: wxtoken.HeldRefused, page: `CallsRefused`, metric: fmt.Sprintf(held, "CallsRefused"), check: "renewals",
			ingests: "renewals", alert: "HeldBack", cause: wxtoken.HeldRefused, entry: runbook.SecretWrong,
			over: func(s *site) { s.tell("/secret", "appsecret="+wechatsim.DemoAppSecret) },
		},
		{
			name: "IP off the whitelist", accounts: 3, play: failing("errcode=61004&errmsg=access+clientip+is+not+registered+requestIP:+203.0.113.7"),
			state: wxtoken.StateOperator, reason: wxtoken.HeldRefused, page: `61004`, metric: fmt.Sprintf(held, "CallsRefused"), check: "renewals",
			ingests: "renewals", alert: "HeldBack", cause: wxtoken.HeldRefused, entry: runbook.ComponentOperator, over: heal,
		},
		{
			name: "no ticket", ingest: []string{"WXTOKEN_COMPONENT_TOKEN=not-the-one-of-the-console"}, play: func(*site) {},
			state: wxtoken.StateWaitingForTicket, reason: wxtoken.ReasonNoTicket, page: `waiting_for_ticket`, metric: fmt.Sprintf(held, "NoTicket"), check: "tickets",
			ingests: "renewals", alert: "NoTicket", cause: wxtoken.HeldNoTicket, entry: runbook.NoTicket,
		},
		{
			name: "WeChat away", accounts: 5, play: func(s *site) { s.tell("/down", "") },
			state: wxtoken.StateRenewingFailed, reason: wxtoken.HeldAway, page: `WeChatAway`, metric: fmt.Sprintf(held, "WeChatAway"), check: "renewals",
			ingests: "renewals", alert: "HeldBack", cause: wxtoken.HeldAway, entry: runbook.WeChatAway, over: func(s *site) { s.tell("/up", "") },
		},
		{
			name: "NATS away", accounts: 2, play: func(s *site) { s.nats.Stop() },
			metric: `wxtoken_nats_connected{role="refresher"} 0`, check: "nats", ingests: "nats", alert: "NATSAway",
			cause: wxtoken.HeldNATS, entry: runbook.NATSAway, over: func(s *site) { s.nats.Restart() },
		},
		{
			name: "mass refusals", accounts: 40, play: failing("api=api_authorizer_token&errcode=61023"),
			state: wxtoken.StateOperator, reason: wxtoken.ReasonManyAtOnce, page: `RefusalsDoubted`, metric: fmt.Sprintf(held, "RefusalsDoubted"), check: "renewals",
			ingests: "renewals", alert: "RefusalsDoubted", cause: wxtoken.HeldDoubted, entry: runbook.ManyRefused,
		},
		{
			name: "another seal key at ingest", ingest: []string{"WXTOKEN_SEAL_KEY=" + keys.Public()}, refresh: []string{"WXTOKEN_SEAL_KEY=" + other}, play: func(*site) {},
			state: wxtoken.StateOperator, reason: wxtoken.ReasonSealKeyUnknown, page: `"operator"`, metric: `wxtoken_sealed_unopened_total [1-9]`, check: "seal key",
			ingests: "seal key", alert: "EventsSealedForNobody", cause: truth.SealKeyUnknown, entry: runbook.SealKeyUnknown,
		},
		{
			name: "permission set missing", accounts: 3, play: failing("api=api_authorizer_token&errcode=48001&authorizer=" + first.Authorizer), ofAccount: true,
			state: wxtoken.StateOperator, reason: wxtoken.ReasonOperatorNeeded, page: `48001`, metric: `wxtoken_authorizers{[^}]*state="renewing_failed"} 1`,
			check: "permissions", alert: "PersonNeeded", cause: truth.PermissionMissing, entry: runbook.ComponentOperator, over: heal,
		},
		{
			name: "dead token of one account", accounts: 3, play: failing("api=api_authorizer_token&mode=busy&authorizer=" + first.Authorizer), ofAccount: true,
			state: wxtoken.StateRenewingFailed, page: `"renewing_failed"`, metric: `wxtoken_authorizers_token_invalid{[^}]*} 1`,
			check: "accounts", alert: "TokenDead", cause: truth.AccountTokenDead, entry: runbook.WeChatAway, over: heal,
		},
	}
}

// TestTruth plays the entries of the runbook on real processes, with two refreshers, and asks all places where an operator looks: status,
// page, metrics, --check of both sides, /check, the alerts and the notice say the same, and the notice and its end come once.
func TestTruth(t *testing.T) {
	t.Parallel()
	p := build(t)
	slots := make(chan struct{}, 5)
	var running sync.WaitGroup
	for _, tr := range faults(t) {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			t.Run(tr.name, func(t *testing.T) { tr.told(t, p) })
		})
	}
	running.Wait()
}

// receiver keeps the notices that it gets.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []events.Notice
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		n, err := events.ParseNotice(body)
		if leak := leaked(string(body)); err != nil || leak != "" {
			t.Errorf("a notice that can't be read, or shows a secret: %v %s %s", err, leak, body)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, n)
	}))
	t.Cleanup(r.Close)
	return r
}

// toldTo has the refreshers that are started from now on tell a receiver.
func (s *site) toldTo() *receiver {
	s.t.Helper()
	to, file := newReceiver(s.t), filepath.Join(s.t.TempDir(), "notify.json")
	text := fmt.Sprintf(`{"receivers":[{"name":"ops","kind":"webhook","url":%q,"secret":"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}]}`, to.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.settings = append(s.settings, "WXTOKEN_NOTIFY_FILE="+file)
	return to
}

// of returns the notices about a cause.
func (r *receiver) of(cause wxtoken.Reason, phase events.Phase) (all []events.NoticeData) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.got {
		if n.Data.Cause == string(cause) && n.Data.Phase == phase {
			all = append(all, n.Data)
		}
	}
	return all
}

func (tr fault) told(t *testing.T, p programs) {
	s := newSite(t, p, tr.accounts)
	to := s.toldTo()
	s.settings = append(s.settings, "WXTOKEN_SWEEP_EVERY=1s", "WXTOKEN_PUBLIC_URL=http://127.0.0.1:1")
	in, one, two := s.ingest(tr.ingest...), s.refresher(tr.refresh...), s.refresher(tr.refresh...)
	if tr.accounts > 0 {
		poll(t, func() error { return s.allAccepted(nil, 1) })
	}
	tr.play(s)
	poll(t, func() error { return tr.inStatus(s) })
	poll(t, func() error { return tr.onPage(one) })
	poll(t, func() error {
		_, body := request(t, http.MethodGet, "http://"+one.addr("ops")+"/metrics", "")
		if !regexp.MustCompile("(?m)^" + plain(tr.metric)).MatchString(body) {
			return fmt.Errorf("/metrics has no %s:\n%s", tr.metric, matching(body, "wxtoken_(held|auth|seal|nats_conn)"))
		}
		return nil
	})
	poll(t, func() error { return tr.checked(s.check("refresher", tr.refresh...), tr.check, true) })
	poll(t, func() error { return tr.atCheck(one) })
	if tr.ingests != "" {
		poll(t, func() error { return tr.checked(s.check("ingest", tr.ingest...), tr.ingests, false) })
	}
	poll(t, func() error {
		scrapes := map[string]string{} // a counter is at the refresher that made the call
		for _, p := range []*process{in, one, two} {
			_, scrapes[p.name] = request(t, http.MethodGet, "http://"+p.addr("ops")+"/metrics", "")
		}
		return fires(t, tr.alert, scrapes)
	})
	times := 1
	if tr.cause == wxtoken.HeldNATS {
		times = 2 // each refresher for itself
	}
	poll(t, func() error {
		told := to.of(tr.cause, events.PhaseBegan)
		if len(told) < times {
			return fmt.Errorf("%s was told %d times", tr.cause, len(told))
		}
		if d := told[0]; !strings.Contains(d.Do.EN, tr.entry.Heading().EN) || !strings.Contains(d.Do.ZH, tr.entry.Heading().ZH) || d.What.EN == "" || d.Since.IsZero() {
			return fmt.Errorf("the notice says %+v", d)
		}
		return nil
	})
	if tr.over == nil {
		return
	}
	tr.over(s)
	poll(t, func() error {
		if n := len(to.of(tr.cause, events.PhaseOver)); n < times {
			return fmt.Errorf("%s is over, and that was told %d times", tr.cause, n)
		}
		return nil
	})
	for _, phase := range []events.Phase{events.PhaseBegan, events.PhaseOver} {
		if all := to.of(tr.cause, phase); len(all) != times {
			t.Errorf("%s %s was told %d times, want %d: %+v", tr.cause, phase, len(all), times, all)
		}
	}
}

// plain makes a pattern of what a line of /metrics is to be, in which [^}]* and [1-9] alone are patterns.
func plain(metric string) string {
	quoted := regexp.QuoteMeta(metric)
	for _, pattern := range []string{"[^}]*", "[1-9]"} {
		quoted = strings.ReplaceAll(quoted, regexp.QuoteMeta(pattern), pattern)
	}
	return quoted
}

// matching returns the lines of a text that begin with a pattern.
func matching(text, pattern string) string {
	return strings.Join(regexp.MustCompile("(?m)^"+pattern+".*$").FindAllString(text, -1), "\n")
}

// inStatus looks into the bucket.
func (tr fault) inStatus(s *site) error {
	if tr.state == "" {
		return nil
	}
	key := wxtoken.ComponentKey(wechatsim.DemoAppID)
	if tr.ofAccount {
		key = first
	}
	m, err := s.last("KV_"+events.BucketStatus, "$KV."+events.BucketStatus+"."+key.String())
	if err != nil {
		return err
	}
	var st wxtoken.Status
	if err := json.Unmarshal(m.Data, &st); err != nil {
		return err
	}
	says := func(c wxtoken.Condition) bool {
		return c.Status == "False" && c.Reason == tr.reason && !c.Since.IsZero()
	}
	if st.State != tr.state || tr.reason != "" && !slices.ContainsFunc(st.Conditions, says) {
		return fmt.Errorf("the status says %s", m.Data)
	}
	return nil
}

// onPage looks at the page as a program does: at its beginning, and at the list of accounts.
func (tr fault) onPage(p *process) error {
	if tr.page == "" {
		return nil
	}
	status, body := request(p.t, http.MethodGet, "http://"+p.addr("ops")+"/?format=json", "")
	if tr.ofAccount {
		_, accounts := request(p.t, http.MethodGet, "http://"+p.addr("ops")+"/accounts?format=json", "")
		body += accounts
	}
	if status != http.StatusOK || !strings.Contains(body, tr.page) {
		return fmt.Errorf("the page says %d %s", status, body)
	}
	return nil
}

// check runs --check of a program beside those that run, and returns what it prints.
func (s *site) check(program string, env ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(string(s.programs), program), "--check", "--lang=en")
	cmd.Env = append(append(slices.Clone(s.settings), "WXTOKEN_NATS_URL="+s.url(program)), env...)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	if leak := leaked(string(out)); leak != "" {
		s.t.Errorf("%s --check shows a secret: %s", program, leak)
	}
	return string(out)
}

// checked looks for a line of a name that is not ok, with its entry of the runbook below it.
func (tr fault) checked(said, name string, entry bool) error {
	lines := strings.Split(said, "\n")
	for i, line := range lines {
		if !regexp.MustCompile(`^(FAIL|warn) +` + name + `\b`).MatchString(line) {
			continue
		}
		if entry && (i+1 == len(lines) || !strings.Contains(lines[i+1], tr.entry.Heading().EN)) {
			continue
		}
		return nil
	}
	return fmt.Errorf("--check has no line %q with %q:\n%s", name, tr.entry.Heading().EN, said)
}

// atCheck looks at /check of a process that runs.
func (tr fault) atCheck(p *process) error {
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+p.addr("ops")+"/check", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Language", "zh")
	res, err := (&http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	var lines []struct{ Mark, Name, Saw, Remedy string }
	if err := json.NewDecoder(res.Body).Decode(&lines); err != nil {
		return err
	}
	for _, line := range lines {
		if (line.Mark == "FAIL" || line.Mark == "warn") && strings.HasPrefix(line.Name, tr.check) && strings.Contains(line.Remedy, tr.entry.Heading().ZH) {
			return nil
		}
	}
	return fmt.Errorf("/check has no %q with %q: %+v", tr.check, tr.entry.Heading().ZH, lines)
}

var sample = regexp.MustCompile(`^(wxtoken_\w+?)(?:\{(.*)\})? ([-+.\deE]+)$`)

// fires has promtool judge an alert by what was scraped: as if a gauge had been so for half an hour, and counters had risen in the last
// few minutes of it. Times are moved to 1970, where promtool lives.
func fires(t *testing.T, alert string, scrapes map[string]string) error {
	t.Helper()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("no promtool (Debian's package prometheus): the alert is not asked")
		return nil
	}
	rules, err := filepath.Abs("../../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	const evaluated = 30 * 60 // seconds
	var b strings.Builder
	fmt.Fprintf(&b, "rule_files: [%q]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n", rules)
	for instance, text := range scrapes {
		for line := range strings.Lines(text) {
			m := sample.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil || strings.HasSuffix(m[1], "_bucket") {
				continue
			}
			value, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				return err
			}
			values := fmt.Sprintf("%gx31", value)
			switch {
			case strings.HasSuffix(m[1], "_timestamp_seconds") && value > 0:
				values = fmt.Sprintf("%.3fx31", value-float64(time.Now().UnixMilli())/1000+evaluated)
			case strings.HasSuffix(m[1], "_total"):
				values = fmt.Sprintf("0x26 %gx5", value)
			}
			labels := `instance="` + instance + `"`
			if m[2] != "" {
				labels += "," + m[2]
			}
			fmt.Fprintf(&b, "      - {series: '%s{%s}', values: '%s'}\n", m[1], strings.ReplaceAll(labels, "'", "''"), values)
		}
	}
	fmt.Fprintf(&b, "    promql_expr_test:\n      - expr: 'clamp_max(count(ALERTS{alertname=%q, alertstate=\"firing\"}), 1)'\n        eval_time: %ds\n        exp_samples: [{labels: '{}', value: 1}]\n", alert, evaluated)
	test := filepath.Join(t.TempDir(), "test.yml")
	if err := os.WriteFile(test, []byte(b.String()), 0o600); err != nil {
		return err
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", test).CombinedOutput(); err != nil {
		return fmt.Errorf("%s does not fire: %s", alert, out)
	}
	return nil
}
