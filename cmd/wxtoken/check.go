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

	"wxtoken/internal/events"
	"wxtoken/internal/natsd"
	"wxtoken/internal/preflight"
	"wxtoken/internal/refresher"
	"wxtoken/internal/seal"
)

// target is what --check and /check look at. Before the start there are neither connections nor a server.
func (s *settings) target(ingest, keeper *nats.Conn, srv *natsd.Server, keys *seal.Keys, components func() []refresher.Component) preflight.Target {
	t := preflight.Target{
		NATS: keeper, NATSURL: s.NatsURL, Streams: events.StreamNames(), Setup: s.Refresher.Setup(),
		WechatURL: s.Refresher.WechatAPIURL, PublicURL: s.Refresher.PublicURL, Statuses: true,
		Components: func() []preflight.Component { return checked(components()) },
	}
	if keeper != nil {
		t.Probes = []preflight.Probe{preflight.CanaryOfIngest(ingest), preflight.CanaryOfRefresher(keeper), preflight.SealKey(keeper, keys)}
	}
	switch {
	case srv == nil && s.Sim:
		t.WechatURL = "" // the fake platform is not there yet
	case srv != nil:
		t.Server = &preflight.Server{StoreDir: s.DataDir, MaxStore: srv.MaxStore(), SyncAlways: srv.SyncAlways()}
	}
	return t
}

// checked returns the components as the checks want them.
func checked(components []refresher.Component) (out []preflight.Component) {
	for _, c := range components {
		out = append(out, preflight.Component(c))
	}
	return out
}

// check is --check: of the process that runs with these settings if there is one, else of what can be seen before the start.
func check(ctx context.Context, cfg *settings, out io.Writer) error {
	if natsd.InUse(cfg.DataDir) {
		return ask(ctx, cfg.OpsAddr, out)
	}
	target := cfg.target(nil, nil, nil, nil, func() []refresher.Component { return called(cfg.components) })
	return preflight.Print(ctx, target, out, cfg.ground()...)
}

// askWithin bounds the wait for the report of another process.
const askWithin = 30 * time.Second

// ask has the process that runs make the checks, since nobody else can look into its server.
func ask(ctx context.Context, addr string, out io.Writer) error {
	const hint = "--data-dir is in use, so wxtoken runs: --ops-addr must be the one that it was started with"
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/check", nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", addr, err)
	}
	request.Header.Set("Accept", "application/json")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // and no proxy
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the process that runs: %w: %s", err, hint)
	}
	body, err := io.ReadAll(answer.Body)
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return fmt.Errorf("ask the process that runs: %w", err)
	}
	report, err := preflight.ReadJSON(body)
	if err != nil {
		return fmt.Errorf("ask the process at %s: %w: %s", addr, err, hint)
	}
	return report.Print(out)
}

// ground looks at what the process will stand on: its directory and its addresses.
func (s *settings) ground() (report preflight.Report) {
	line := preflight.Line{Mark: preflight.OK, Name: "data directory", Saw: s.DataDir + " is not there yet, and will be made"}
	switch info, err := os.Stat(s.DataDir); {
	case err == nil && !info.IsDir():
		line.Mark, line.Saw, line.Remedy = preflight.Fail, s.DataDir+" is no directory", "choose another with --data-dir (WXTOKEN_DATA_DIR)"
	case err == nil:
		line.Saw = s.DataDir + " is there, and nobody uses it"
		probe, err := os.CreateTemp(s.DataDir, ".check-")
		if err != nil {
			line.Mark, line.Saw, line.Remedy = preflight.Fail, fmt.Sprintf("nothing can be written: %v", err), "give the directory to the user that runs wxtoken, or choose another with --data-dir (WXTOKEN_DATA_DIR)"
			break
		}
		_, _ = probe.Close(), os.Remove(probe.Name())
	case !errors.Is(err, os.ErrNotExist):
		line.Mark, line.Saw, line.Remedy = preflight.Fail, err.Error(), "choose another with --data-dir (WXTOKEN_DATA_DIR)"
	}
	report = append(report, line)
	natsAddr, _ := s.nats().ListenAddr() // it was validated
	for _, a := range []struct{ flag, variable, addr string }{
		{"nats-url", "WXTOKEN_NATS_URL", natsAddr}, {"http-addr", "WXTOKEN_HTTP_ADDR", s.HTTPAddr}, {"ops-addr", "WXTOKEN_OPS_ADDR", s.OpsAddr},
	} {
		listener, err := net.Listen("tcp", a.addr)
		if err != nil {
			report = append(report, preflight.Line{Mark: preflight.Fail, Name: "address", Saw: err.Error(),
				Remedy: fmt.Sprintf("end whatever listens there, or choose another with --%s (%s)", a.flag, a.variable)})
			continue
		}
		_ = listener.Close()
		report = append(report, preflight.Line{Mark: preflight.OK, Name: "address", Saw: a.addr + " is free"})
	}
	return report
}
