//go:build unix

package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/preflight"
	"wxtoken/internal/seal"
	"wxtoken/wechatsim"
)

// userOf returns a user with the rights of a role and no others, and with the right to ask for them
// if it may ask.
func userOf(name, role string, mayAsk bool, without string) *server.User {
	p := &server.Permissions{Publish: &server.SubjectPermission{}, Subscribe: &server.SubjectPermission{}}
	for _, right := range events.Rights(role) {
		switch {
		case right.Subject == without && without != "":
		case right.Verb == events.MayPublish:
			p.Publish.Allow = append(p.Publish.Allow, right.Subject)
		case right.Verb == events.MaySubscribe:
			p.Subscribe.Allow = append(p.Subscribe.Allow, right.Subject)
		default:
			p.Response = &server.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}
		}
	}
	if mayAsk {
		p.Publish.Allow = append(p.Publish.Allow, events.SubjectUserInfo)
	}
	return &server.User{Username: name, Password: "secret-of-" + name, Permissions: p}
}

// natsWith starts a server with a monitoring port.
func natsWith(t *testing.T, change func(*server.Options)) *server.Server {
	t.Helper()
	opts := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT,
		JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	}
	change(opts)
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not get ready")
	}
	return srv
}

// checks runs a program with --check and returns its exit code and what it says. It fails the test
// if that holds a secret.
func checks(t *testing.T, program, natsURL string, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, program), append([]string{"--check"}, args...)...)
	cmd.Env = []string{
		"WXTOKEN_NATS_URL=" + natsURL, "WXTOKEN_COMPONENT_APPID=" + wechatsim.DemoAppID, "WXTOKEN_COMPONENT_APPSECRET=" + wechatsim.DemoAppSecret,
		"WXTOKEN_COMPONENT_TOKEN=" + wechatsim.DemoToken, "WXTOKEN_COMPONENT_AES_KEY=" + wechatsim.DemoEncodingAESKey,
	}
	output, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for _, secret := range []string{"SEKRET", "secret-of-", wechatsim.DemoAppSecret, "ticket@@@", "refreshtoken@@@"} {
		if bytes.Contains(output, []byte(secret)) {
			t.Errorf("%q in the output of %s --check:\n%s", secret, program, output)
		}
	}
	return cmd.ProcessState.ExitCode(), string(output)
}

// says reports whether a line of out begins with mark and name and matches the pattern, and the
// line after it the remedy, if one is wanted.
func says(out, mark, name, pattern, remedy string) bool {
	line := `(?m)^` + mark + ` +` + regexp.QuoteMeta(name) + ` +` + pattern + `.*`
	if remedy != "" {
		line += `\n +-> .*` + remedy
	}
	return regexp.MustCompile(line).MatchString(out)
}

// pause is the time between two looks that take a process each.
const pause = 300 * time.Millisecond

// TestCheck runs --check against processes, a NATS server and a platform that are as they should
// be, and then spoils one thing after the other.
func TestCheck(t *testing.T) {
	t.Parallel()
	srv := natsWith(t, func(o *server.Options) {
		o.SyncAlways, o.JetStreamMaxStore = true, 4<<30
		o.Users = []*server.User{
			userOf("ingest", events.RoleIngest, true, ""), userOf("refresher", events.RoleRefresher, true, ""),
			userOf("poor", events.RoleRefresher, true, events.AllCredentials), userOf("narrow", events.RoleIngest, true, "wechat.reply.>"),
			userOf("mute", events.RoleRefresher, false, ""), {Username: "admin", Password: "secret-of-admin"},
		}
		narrow := o.Users[3].Permissions.Publish
		narrow.Allow = append(narrow.Allow, "wechat.reply.wx1.>")
	})
	monitor := "--nats-monitor-url=http://" + srv.MonitorAddr().String()

	// Before anything runs: nothing is there yet, and that is no fault of NATS.
	code, out := checks(t, "ingest", urlOf(srv, "ingest"))
	if code != 0 || !says(out, "warn", "stream AUTH", "is not there", "start a refresher") {
		t.Errorf("ingest before a refresher: exit code %d\n%s", code, out)
	}

	in := deployed(t, "ingest", srv, "--http-addr=127.0.0.1:0", "--component-token-file=../../deploy/sim/token", "--component-aes-key-file=../../deploy/sim/aes_key")
	public := "http://" + in.find(t, `"server":"pushes","addr":"([^"]+)"`)
	config := wechatsim.Demo(10*time.Second, 2, public)
	config.BusyRate, config.LostAnswerRate = 0, 0
	sim, err := wechatsim.New(config)
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewServer(sim.Handler())
	t.Cleanup(api.Close)
	first := []string{"--wechat-api-url=" + api.URL, "--public-url=" + public, monitor}
	code, out = checks(t, "refresher", urlOf(srv, "refresher"), first...)
	if code != 0 || !says(out, "ok", "stream KV_tokens", "is not there", "") || !says(out, "skip", "tickets", "no refresher has run", "") {
		t.Errorf("before the first start: exit code %d\n%s", code, out)
	}

	running := deployed(t, "refresher", srv, append(first, "--sweep-every=1s", "--component-appsecret-file=../../deploy/sim/appsecret")...)
	ops := running.find(t, `"server":"ops","addr":"([^"]+)"`)
	eventually(t, "the status of the component", func() error {
		code, out = checks(t, "refresher", urlOf(srv, "refresher"), first...)
		if code != 1 || !says(out, "FAIL", "tickets "+wechatsim.DemoAppID, "none received yet", "授权事件接收URL.*runbook: No ticket arrives") {
			time.Sleep(pause)
			return errors.New(out)
		}
		return nil
	})
	begin(t, sim)
	eventually(t, "that nothing is wrong", func() error {
		code, out = checks(t, "refresher", urlOf(srv, "refresher"), first...)
		if code != 0 || !says(out, "ok", "permissions", "2 accounts", "") {
			time.Sleep(pause)
			return errors.New(out)
		}
		return nil
	})
	for _, name := range []string{
		"settings", "nats", "nats rights", "clock, to NATS", "stream AUTH", "stream MESSAGES", "stream KV_tokens", "stream KV_status", "stream DEAD",
		"canary refresher", "nats sync_interval", "nats max_file_store", "wechat", "clock, to WeChat", "secret " + wechatsim.DemoAppID, "whitelist " + wechatsim.DemoAppID,
		"callback " + wechatsim.DemoAppID, "tickets " + wechatsim.DemoAppID, "permissions",
	} {
		if !says(out, "ok", name, "", "") {
			t.Errorf("%s is not ok:\n%s", name, out)
		}
	}
	if regexp.MustCompile(`(?m)^skip.*WXTOKEN_`).MatchString(out) {
		t.Errorf("a flag would turn a skip into an answer:\n%s", out)
	}
	if code, out := checks(t, "ingest", urlOf(srv, "ingest")); code != 0 || strings.Contains(out, "warn") {
		t.Errorf("ingest: exit code %d\n%s", code, out)
	}

	admin := natsdtest.JetStream(t, as(t, srv, "admin"))
	limit := func(age time.Duration) {
		stream, err := admin.Stream(t.Context(), events.StreamTokens)
		if err != nil {
			t.Fatal(err)
		}
		cfg := stream.CachedInfo().Config
		cfg.MaxAge = age
		if _, err := admin.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	status := func(key, value string) func() {
		return func() {
			statuses, err := admin.KeyValue(t.Context(), events.BucketStatus)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := statuses.PutString(t.Context(), key, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	serve := func(handler http.HandlerFunc) string {
		s := httptest.NewServer(handler)
		t.Cleanup(s.Close)
		return s.URL
	}
	platform, err := url.Parse(api.URL)
	if err != nil {
		t.Fatal(err)
	}
	late := func(by time.Duration) string { // the platform with another clock
		proxy := httputil.NewSingleHostReverseProxy(platform)
		proxy.ModifyResponse = func(r *http.Response) error {
			r.Header.Set("Date", time.Now().Add(-by).UTC().Format(http.TimeFormat))
			return nil
		}
		return serve(proxy.ServeHTTP)
	}
	careless := natsWith(t, func(o *server.Options) { o.JetStreamMaxStore = 1 << 55 })
	fail := func(code int, message string) func() {
		return func() {
			if err := sim.Fail(wechatsim.Fault{API: "api_start_push_ticket", Errcode: code, Errmsg: message}); err != nil {
				t.Fatal(err)
			}
		}
	}
	const component = wechatsim.DemoAppID
	_, stranger, err := seal.Make()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name                        string
		program, user               string
		args                        []string
		spoil, mend                 func()
		code                        int
		mark, line, pattern, remedy string
	}{
		{"wrong secret", "refresher", "refresher", []string{"--component-appsecret=SEKRETwrong"}, nil, nil,
			1, "FAIL", "secret " + component, `.*errcode 40125`, `AppSecret from WeChat's console.*--component-appsecret-file \(WXTOKEN_COMPONENT_APPSECRET_FILE\)`},
		{"not on the whitelist", "refresher", "refresher", nil, fail(61004, "access clientip is not registered requestIP: 203.0.113.7"), sim.Heal,
			1, "FAIL", "whitelist " + component, `.*errcode 61004`, `add 203\.0\.113\.7 on WeChat's console to 白名单IP地址列表`},
		{"not on the whitelist, in Chinese", "refresher", "refresher", []string{"--lang=zh"}, fail(61004, "access clientip is not registered requestIP: 203.0.113.7"), sim.Heal,
			1, "FAIL", "whitelist " + component, `.*errcode 61004`, `白名单IP地址列表里加上：203\.0\.113\.7；运维手册：`},
		{"a language that is none", "ingest", "ingest", []string{"--lang=fr"}, nil, nil,
			2, "  --lang", "(WXTOKEN_LANG):", `"fr" is not a language: want en, zh or auto`, ""},
		{"wrong appid", "refresher", "refresher", []string{"--component-appid=wx0123456789abcdef"}, nil, nil,
			1, "FAIL", "secret wx0123456789abcdef", `.*errcode 40013`, `--component-appid`},
		{"no WeChat", "refresher", "refresher", []string{"--wechat-api-url=http://127.0.0.1:1"}, nil, nil,
			1, "FAIL", "wechat", "no answer from http://127.0.0.1:1", `HTTPS_PROXY.*--wechat-api-url`},
		{"clock a minute off", "refresher", "refresher", []string{"--wechat-api-url=" + late(time.Minute)}, nil, nil,
			0, "warn", "clock, to WeChat", `(59|1m).* ahead`, "set this machine's clock"},
		{"clock an hour off", "refresher", "refresher", []string{"--wechat-api-url=" + late(-time.Hour)}, nil, nil,
			1, "FAIL", "clock, to WeChat", `(59m|1h).* behind: tokens are renewed too late or too early`, "set this machine's clock"},
		{"callback is nowhere", "refresher", "refresher", []string{"--public-url=http://127.0.0.1:1"}, nil, nil,
			1, "FAIL", "callback " + component, ".*does not answer.*refused", "start ingest and the proxy in front of it"},
		{"callback redirects", "refresher", "refresher", []string{"--public-url=" + serve(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.com"+r.URL.Path, http.StatusMovedPermanently)
		})}, nil, nil,
			1, "FAIL", "callback " + component, `.*redirects \(301\) to https://example\.com`, "WeChat follows no redirect"},
		{"callback is something else", "refresher", "refresher", []string{"--public-url=" + serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Allow", "POST")
			http.Error(w, "Not Allowed", http.StatusMethodNotAllowed)
		})}, nil, nil,
			1, "FAIL", "callback " + component, ".*405 by something that is not ingest", "have the proxy pass /wechat/"},
		{"ingest does not know the component", "refresher", "refresher", []string{"--component-appid=wx0123456789abcdef"}, nil, nil,
			1, "FAIL", "callback wx0123456789abcdef", ".*404 by an ingest that does not know this component", "add the component to the settings of ingest"},
		{"a component's calls are refused", "refresher", "refresher", []string{"--component-appid=wx0123456789abcdef"},
			status("component.wx0123456789abcdef", `{"state":"operator","last_error":{"code":61004,"message":"not registered requestIP: 203.0.113.8","api":"api_component_token","at":"2026-11-26T02:00:00Z"}}`), nil,
			1, "FAIL", "component wx0123456789abcdef", "state operator: api_component_token was answered errcode 61004", `add 203\.0\.113\.8 on WeChat's console`},
		{"a right is missing", "refresher", "poor", nil, nil, nil,
			1, "FAIL", "nats rights", `user "poor".* may not publish credential\.>$`, "deploy/nats/nats-server.conf"},
		{"a canary that may not be stored", "refresher", "poor", nil, nil, nil,
			1, "FAIL", "canary refresher", "publish credential.proof to KV_tokens: ", "runbook: A full disk under NATS"},
		{"a right in part", "ingest", "narrow", nil, nil, nil,
			0, "warn", "nats rights", `.*only in part publish wechat\.reply\.>`, "nothing, if that is intended"},
		{"a user who may not ask", "refresher", "mute", nil, nil, nil,
			0, "warn", "nats rights", "the server does not tell", `publish \$SYS\.REQ\.USER\.INFO`},
		{"ingest's user for a refresher", "refresher", "ingest", nil, nil, nil,
			1, "FAIL", "nats rights", `user "ingest" may not subscribe _INBOX_refresher\.>`, `the user of another program\? Give refresher its own, in --nats-url \(WXTOKEN_NATS_URL\)`},
		{"a refresher's user for ingest", "ingest", "refresher", nil, nil, nil,
			1, "FAIL", "nats rights", `user "refresher" may not subscribe _INBOX_ingest\.>`, `Give ingest its own`},
		{"no seal key anywhere", "ingest", "ingest", nil, nil, nil,
			0, "ok", "seal key", "none, neither here nor at the refreshers", ""},
		{"a seal key that no refresher knows", "ingest", "ingest", []string{"--seal-key=" + stranger}, nil, nil,
			1, "FAIL", "seal key", "no refresher could open what is sealed for " + stranger, `give ingest the public key of the refreshers' seed.*WXTOKEN_SEAL_KEY_FILE.*runbook: Change the seal key`},
		{"events that can't be opened", "refresher", "refresher", []string{"--component-appid=wx0123456789abcdef"},
			status("component.wx0123456789abcdef", `{"state":"operator","conditions":[{"type":"EventsOpened","status":"False","reason":"SealKeyUnknown","message":"sealed for X"}]}`), nil,
			1, "FAIL", "seal key wx0123456789abcdef", "sealed for X", "--seal-key-file"},
		{"a user who may do all", "refresher", "admin", nil, nil, nil,
			0, "warn", "nats rights", `user "admin".* may do everything`, "a user of its own"},
		{"a wrong password", "refresher", "", []string{"--nats-url=nats://refresher:SEKRET@" + srv.Addr().String()}, nil, nil,
			1, "FAIL", "nats", ".*(?i:authorization violation)", `check user and password in --nats-url \(WXTOKEN_NATS_URL\)`},
		{"no NATS", "ingest", "", []string{"--nats-url=nats://127.0.0.1:1"}, nil, nil,
			1, "FAIL", "nats", "no connection to nats://127.0.0.1:1", `start nats-server.*runbook: NATS is away`},
		{"a stream with a limit", "refresher", "refresher", nil, func() { limit(time.Hour) }, func() { limit(0) },
			1, "FAIL", "stream KV_tokens", "max_age 1h0m0s, want 0s", "restart a refresher"},
		{"a server that syncs late", "refresher", "refresher", []string{"--nats-monitor-url=http://" + careless.MonitorAddr().String()}, nil, nil,
			1, "FAIL", "nats sync_interval", "not always", "sync_interval: always"},
		{"a store larger than the disk", "refresher", "refresher", []string{"--nats-monitor-url=http://" + careless.MonitorAddr().String()}, nil, nil,
			1, "FAIL", "nats max_file_store", ".* and the disk under .* has", "max_file_store below the size of the disk.*runbook: A full disk under NATS"},
		{"no monitoring", "refresher", "refresher", []string{"--nats-monitor-url="}, nil, nil,
			0, "skip", "nats sync_interval", `not checked without --nats-monitor-url`, ""},
		{"a monitoring address of something else", "refresher", "refresher", []string{"--nats-monitor-url=" + public}, nil, nil,
			1, "FAIL", "nats sync_interval", ".*status 404", "--nats-monitor-url"},
		{"an account without permissions", "refresher", "refresher", nil,
			status("authorizer."+component+".wxbare", `{"state":"needs_authorization","conditions":[{"type":"Ready","status":"False","reason":"NoAPIPermission"}]}`),
			status("authorizer."+component+".wxbare", `{"state":"active"}`),
			0, "warn", "permissions", `3 accounts, 1 lack something: authorizer\.` + component + `\.wxbare \(no API permission\)`, "reauthorize_url.*权限集"},
	} {
		if row.spoil != nil {
			row.spoil()
		}
		var args []string
		if row.program == "refresher" {
			args = first
		}
		code, out := checks(t, row.program, urlOf(srv, row.user), append(slices.Clone(args), row.args...)...)
		if code != row.code || !says(out, row.mark, row.line, row.pattern, row.remedy) {
			t.Errorf("%s: exit code %d, want %d and %s  %s  %s -> %s:\n%s", row.name, code, row.code, row.mark, row.line, row.pattern, row.remedy, out)
		}
		if row.mend != nil {
			row.mend()
		}
	}

	// The same on the ops door. However often it is looked at, WeChat is asked once.
	before := sim.HistorySince(0)
	calls := func(since int) (n int) {
		for _, e := range sim.HistorySince(since) {
			if e.Kind == wechatsim.EntryCall && e.API == "api_start_push_ticket" {
				n++
			}
		}
		return n
	}
	last := before[len(before)-1].Seq
	client := &http.Client{Timeout: patience}
	for i := range 2 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ops+"/check", nil)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			request.Header.Set("Accept", "application/json")
			time.Sleep(5 * time.Second) // a report is shown for so long
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || answer.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("%v, %d, %v", err, answer.StatusCode, answer.Header)
		}
		if i == 0 {
			if !says(string(body), "ok", "permissions", "3 accounts", "") {
				t.Errorf("/check says\n%s", body)
			}
			continue
		}
		report, err := preflight.ReadJSON(body)
		if err != nil || report.Err(lang.English) != nil {
			t.Errorf("/check as JSON: %v, %v\n%s", err, report.Err(lang.English), body)
		}
	}
	if n := calls(int(last)); n != 1 {
		t.Errorf("WeChat was asked %d times for 2 reports, want once", n)
	}
}

// TestCheckAsksInItsLanguage: the process that runs may have another.
func TestCheckAsksInItsLanguage(t *testing.T) {
	t.Parallel()
	running, err := preflight.New(preflight.Target{Language: lang.English})
	if err != nil {
		t.Fatal(err)
	}
	door := httptest.NewServer(running.Handler(nil))
	t.Cleanup(door.Close)
	for language, want := range map[lang.Language]string{lang.English: "no fault", lang.Chinese: "没有错误"} {
		var out bytes.Buffer
		if err := askRunning(t.Context(), door.Listener.Addr().String(), &out, language); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, %s", language, err, out.String())
		}
	}
	door.Close()
	err = askRunning(t.Context(), door.Listener.Addr().String(), io.Discard, lang.Chinese)
	if err == nil || !strings.Contains(err.Error(), "--data-dir 正在使用") {
		t.Errorf("no process to ask: %v", err)
	}
}

// The users that are shipped may do what --check looks for.
func TestShippedRights(t *testing.T) {
	t.Parallel()
	for _, file := range []string{accounts, single} {
		t.Run(file, func(t *testing.T) { testRights(t, shipped(t, file)) })
	}
}

func testRights(t *testing.T, srv *server.Server) {
	for _, role := range []string{events.RoleIngest, events.RoleRefresher, events.RoleGateway} {
		for _, right := range events.Rights(role) {
			nc := as(t, srv, role)
			switch right.Verb {
			case events.MayPublish:
				if err := nc.Publish(concrete(right.Subject), nil); err != nil {
					t.Fatal(err)
				}
			case events.MaySubscribe:
				if _, err := nc.SubscribeSync(right.Subject); err != nil {
					t.Fatal(err)
				}
			}
			if err := nc.Flush(); err != nil || errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
				t.Errorf("%s may not %s %s: %v", role, right.Verb, right.Subject, nc.LastError())
			}
			nc.Close()
		}
	}
}

// concrete returns a subject that a pattern stands for.
func concrete(pattern string) string {
	return strings.NewReplacer("*", "x", ">", "x.y").Replace(pattern)
}

// What --check needs to skip nothing stands in the commands and settings that the documents have
// operators copy.
func TestCheckAsDocumented(t *testing.T) {
	t.Parallel()
	for file, command := range map[string]string{
		"docs/deploy.md":       `(?m)^ *WXTOKEN_NATS_URL=\S+ bin/refresher (?:.*\\\n)*.*$`,
		"docs/deploy.zh-CN.md": `(?m)^ *WXTOKEN_NATS_URL=\S+ bin/refresher (?:.*\\\n)*.*$`,
		"docs/operations.md":   `(?m)^ *refresher --check.*$`,
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(command).FindAllString(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s has no command of the refresher", file)
		}
		for _, one := range found {
			if !strings.Contains(one, "--public-url=https://") || !strings.Contains(one, "--nats-monitor-url=http://127.0.0.1:8222") {
				t.Errorf("%s: lines of --check would be skipped with\n%s", file, one)
			}
		}
	}
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"WXTOKEN_PUBLIC_URL", "WXTOKEN_NATS_MONITOR_URL"} {
		if !regexp.MustCompile(`(?m)^    echo "` + name + `=http.*" >>?/etc/wxtoken/refresher\.env$`).Match(text) {
			t.Errorf("the systemd units are set up without %s", name)
		}
	}
}
