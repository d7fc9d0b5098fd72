package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/internal/doors"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/natsd"
	"wxtoken/internal/preflight"
	"wxtoken/internal/seal"
	"wxtoken/internal/settings"
)

// target says what --check and /check check. Before the start there are no connections and no server.
func (s *config) target(ingest, refresher *nats.Conn, srv *natsd.Server, keys *seal.Keys, components func() []settings.Component) preflight.Target {
	t := preflight.Target{
		NATS: refresher, NATSURL: s.NatsURL, Streams: events.StreamNames(), Setup: s.Refresher.Setup(),
		WechatURL: s.Refresher.WechatAPIURL, PublicURL: s.Refresher.PublicURL, Statuses: true, Language: s.Language(),
		Components: components,
	}
	if s.GatewayAddr != "" {
		t.BesideNATS = doors.Probes(s.Gateway, s.Redis)
	}
	if refresher != nil {
		t.Probes = []preflight.Probe{preflight.CanaryOfIngest(ingest), preflight.CanaryOfRefresher(refresher), preflight.SealKey(refresher, keys)}
		if s.Notify.NotifyFile != "" {
			t.Probes = append(t.Probes, preflight.Notices(refresher, s.Notify.NotifyFile))
		}
	}
	switch {
	case srv == nil && s.Sim:
		t.WechatURL = "" // the fake platform does not run yet
	case srv != nil:
		t.Server = &preflight.Server{StoreDir: s.DataDir, MaxStore: srv.MaxStore(), SyncAlways: srv.SyncAlways()}
	}
	return t
}

// check runs --check: in the process that runs with these settings if there is one, else with what can be checked before
// the start.
func check(ctx context.Context, cfg *config, out io.Writer) error {
	if natsd.InUse(cfg.DataDir) {
		return askRunning(ctx, cfg.OpsAddr, out, cfg.Language())
	}
	target := cfg.target(nil, nil, nil, nil, func() []settings.Component { return cfg.components })
	return preflight.Print(ctx, target, out, cfg.startLines()...)
}

// askWithin bounds the wait for the report of the running process.
const askWithin = 30 * time.Second

// askRunning has the running process run the checks, since no other process can look into its NATS server.
func askRunning(ctx context.Context, addr string, out io.Writer, l lang.Language) error {
	hint := lang.T("--data-dir is in use, so wxtoken runs: --ops-addr must be the one that it was started with",
		"--data-dir 正在使用，说明 wxtoken 在运行：--ops-addr 必须和它启动时的一样").In(l)
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/check", nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", addr, err)
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Accept-Language", string(l))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy either
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the running process: %w (%s)", err, hint)
	}
	body, err := io.ReadAll(answer.Body)
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return fmt.Errorf("ask the running process: %w", err)
	}
	report, err := preflight.ReadJSON(body)
	if err != nil {
		return fmt.Errorf("ask the process at %s: %w (%s)", addr, err, hint)
	}
	return report.Print(out, l)
}

// startLines checks what the process needs to start: its directory and its addresses.
func (s *config) startLines() (report preflight.Report) {
	line := preflight.Line{Mark: preflight.OK, Name: "data directory", Saw: lang.T("%s does not exist yet, and will be made",
		"%s 还不存在，启动时会建立", s.DataDir)}
	another := lang.T("choose another with %s", "用 %s 换一个目录", settings.Name("data-dir"))
	switch info, err := os.Stat(s.DataDir); {
	case err == nil && !info.IsDir():
		line.Mark, line.Saw, line.Remedy = preflight.Fail, lang.T("%s is not a directory",
			"%s 不是目录", s.DataDir), another
	case err == nil:
		line.Saw = lang.T("%s exists, and no process uses it", "%s 已存在，没有进程在用", s.DataDir)
		probe, err := os.CreateTemp(s.DataDir, ".check-")
		if err != nil {
			line.Mark, line.Saw, line.Remedy = preflight.Fail, lang.T("nothing can be written: %v",
				"无法写入：%v", err),
				lang.T("give the directory to the user that runs wxtoken, or %s",
					"把目录交给运行 wxtoken 的用户，或%s", another)
			break
		}
		_, _ = probe.Close(), os.Remove(probe.Name())
	case !errors.Is(err, os.ErrNotExist):
		line.Mark, line.Saw, line.Remedy = preflight.Fail, lang.Same(err.Error()), another
	}
	report = append(report, line)
	natsAddr, _ := s.nats().ListenAddr() // it was validated
	for _, a := range []struct{ flag, addr string }{
		{"nats-url", natsAddr}, {"http-addr", s.HTTPAddr}, {"ops-addr", s.OpsAddr}, {"gateway-addr", s.GatewayAddr},
	} {
		if a.addr == "" { // no gateway
			continue
		}
		listener, err := net.Listen("tcp", a.addr)
		if err != nil {
			report = append(report, preflight.Line{Mark: preflight.Fail, Name: "address", Saw: lang.Same(err.Error()),
				Remedy: lang.T("stop the program that listens there, or choose another address with %s",
					"停掉占用这个地址的程序，或用 %s 换一个", settings.Name(a.flag))})
			continue
		}
		_ = listener.Close()
		report = append(report, preflight.Line{Mark: preflight.OK, Name: "address", Saw: lang.T("%s is free",
			"%s 空闲", a.addr)})
	}
	return report
}
