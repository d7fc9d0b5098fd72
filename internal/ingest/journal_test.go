package ingest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
)

// runJournal runs the part of an Ingest that writes records until the test ends, or the function is called, which returns
// when the last is written.
func runJournal(t *testing.T, r *rig) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.ingest.Run(ctx) })
	end = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(end)
	return end
}

// records returns what lies on the journal, by result.
func (r *rig) records(t *testing.T) map[string][]events.Push {
	t.Helper()
	all := map[string][]events.Push{}
	for _, m := range r.messages(t, events.StreamTraffic) {
		var p events.Push
		if err := json.Unmarshal(m.Data, &p); err != nil {
			t.Fatal(err)
		}
		if want := events.JournalSubject(events.JournalPush, p.Component, p.Result); m.Subject != want {
			t.Errorf("a record on %s, want %s", m.Subject, want)
		}
		if ttl := m.Header.Get(jetstream.MsgTTLHeader); ttl != "168h0m0s" {
			t.Errorf("a record is kept for %q", ttl)
		}
		all[p.Result] = append(all[p.Result], p)
	}
	return all
}

// TestJournal: a record of each kind of push that an operator may ask about, and nothing of what it says.
func TestJournal(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	end := runJournal(t, r)

	componentPush(t, authPath, authorizedEvent("authorized")).serveDirectly(r) // a good one: no record
	componentPush(t, authPath, authorizedEvent("authorized")).serveDirectly(r)
	componentPush(t, authPath, eventAt(now.Add(-25*time.Hour), "unauthorized", "<AuthorizerAppid>"+authorizer+"</AuthorizerAppid>")).serveDirectly(r)
	componentPush(t, msgPath, messageOf("text", "<Content>SEKRET</Content><Content>twice</Content>")).serveDirectly(r)
	forged := componentPush(t, msgPath, messageOf("text", "<Content>SEKRET</Content>"))
	forged.query.Set("msg_signature", strings.Repeat("a", 40))
	forged.serveDirectly(r)
	elsewhere := &call{method: http.MethodPost, path: "/wechat/wxSEKRETno0such000/auth", query: url.Values{"SEKRET": {"SEKRET"}}}
	elsewhere.serveDirectly(r)
	(&call{method: http.MethodGet, path: authPath}).serveDirectly(r) // a look: no record
	end()

	all := r.records(t)
	for _, row := range []struct {
		result  string
		want    events.Push
		oddness string
	}{
		{result: "duplicate", want: events.Push{Component: component, Path: authPath, Kind: "authorized", Status: 200, Subject: "wechat.auth." + component + ".authorized"}},
		{result: "stale", want: events.Push{Component: component, Path: authPath, Kind: "unauthorized", Status: 200, Reason: "stale", Subject: "wechat.auth." + component + ".unauthorized"}},
		{
			result: "odd", oddness: "twice", want: events.Push{
				Component: component, AppID: authorizer, Path: msgPath, Kind: "message", Status: 200,
				Subject: "wechat.message." + component + "." + authorizer + ".text",
			},
		},
	} {
		if len(all[row.result]) != 1 {
			t.Errorf("%s: %d records, want 1", row.result, len(all[row.result]))
			continue
		}
		got := all[row.result][0]
		if got.EventID == "" || got.Bytes == 0 || got.Method != http.MethodPost || got.From != "192.0.2.0/24" || !got.At.Equal(now) {
			t.Errorf("%s: %+v", row.result, got)
		}
		if !strings.Contains(strings.Join(got.Oddities, " "), row.oddness) || row.oddness == "" && got.Oddities != nil {
			t.Errorf("%s: oddities %q", row.result, got.Oddities)
		}
		got = events.Push{Component: got.Component, AppID: got.AppID, Path: got.Path, Kind: got.Kind, Status: got.Status, Reason: got.Reason, Subject: got.Subject}
		if a, b := mustJSON(t, got), mustJSON(t, row.want); a != b {
			t.Errorf("%s: %s, want %s", row.result, a, b)
		}
	}
	// Two were refused in one second: of this component, and of none that there is. A stranger's words make no subject.
	for _, p := range all["rejected"] {
		switch {
		case p.Component == component && p.Reason == "signature" && p.Status == 403 && p.AppID == authorizer:
		case p.Component == "" && p.Reason == "path" && p.Status == 404 && p.Path == elsewhere.path:
		default:
			t.Errorf("refused: %+v", p)
		}
	}
	if len(all["rejected"]) != 2 || len(all) != 4 {
		t.Errorf("%d records of refused pushes, %d results", len(all["rejected"]), len(all))
	}
	for _, m := range r.messages(t, events.StreamTraffic) {
		text := strings.ReplaceAll(string(m.Data), elsewhere.path, "")
		if strings.Contains(m.Subject+text, "SEKRET") {
			t.Errorf("a record shows what was pushed: %s %s", m.Subject, m.Data)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestJournalFlood: a flood of refused pushes is one record in a second, and none is uncounted.
func TestJournalFlood(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	const all = 500
	began := time.Now()
	end := runJournal(t, r)
	for range all {
		(&call{method: http.MethodPost, path: authPath}).serveDirectly(r)
	}
	end()
	took := time.Since(began)
	records, counted := r.records(t)["rejected"], 0
	for _, p := range records {
		counted += 1 + int(p.LeftOut)
	}
	if most := int(took.Seconds()) + 2; counted != all || len(records) > most {
		t.Errorf("%d records of %d pushes in %v, want %d at most of %d", len(records), counted, took, most, all)
	}
}

// TestJournalWithoutNATS: no answer waits for a record, and what could not be written is told once NATS is back.
func TestJournalWithoutNATS(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	end := runJournal(t, r)
	srv.Stop()
	for range 3 {
		if rec := (&call{method: http.MethodPost, path: authPath}).serveDirectly(r); rec.Code != http.StatusBadRequest {
			t.Errorf("status %d", rec.Code)
		}
	}
	time.Sleep(1500 * time.Millisecond) // a try in vain; if there is none yet, the test is easier, not wrong
	srv.Restart()
	looktest.Until(t, "NATS does not come back", r.js.Conn().IsConnected)
	deadline, counted := time.Now().Add(2*time.Minute), 0
	for counted < 3 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
		counted = 0
		for _, p := range r.records(t)["rejected"] {
			counted += 1 + int(p.LeftOut)
		}
	}
	end()
	if counted != 3 {
		t.Errorf("%d refused pushes are told, want 3", counted)
	}
}
