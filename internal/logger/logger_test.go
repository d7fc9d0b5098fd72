package logger_test

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"wxtoken/internal/logger"
)

func TestJSONLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := logger.New(&out, "info", "auto") // a buffer is no terminal
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Msg("not heard")
	at := time.Date(2026, 11, 22, 8, 0, 0, 5e6, time.UTC)
	log.Info().Str("role", "refresher").Time("renew_at", at).Dur("delay", 1500*time.Millisecond).Msg("token renewed")
	var line map[string]string
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(line["ts"]) {
		t.Errorf("ts = %q, want RFC 3339 with milliseconds in UTC", line["ts"])
	}
	delete(line, "ts")
	want := map[string]string{"level": "info", "role": "refresher", "renew_at": "2026-11-22T08:00:00.005Z", "delay": "1.5s", "msg": "token renewed"}
	for k, v := range want {
		if line[k] != v {
			t.Errorf("%s = %q, want %q", k, line[k], v)
		}
	}
	if len(line) != len(want) {
		t.Errorf("fields: %v, want %v", line, want)
	}
}

func TestConsoleLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := logger.New(&out, "debug", "console")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	old := now.Add(-30 * 24 * time.Hour)
	log.Debug().Str("role", "refresher").Time("renew_at", now).Dur("duration", 1234567*time.Nanosecond).Time("since", old).
		Str("key", "component.wx1").Msg("token renewed")
	log.Info().Msg("alone")
	want := `^\d\d:\d\d:\d\d\.\d{3} DBG token renewed         key=component\.wx1 renew_at=` + now.Format(time.TimeOnly) +
		` duration=1ms role=refresher since=` + old.Format("2006-01-02T") + `\S+Z\n\d\d:\d\d:\d\d\.\d{3} INF alone\n$`
	if !regexp.MustCompile(want).MatchString(out.String()) {
		t.Errorf("lines for a person:\n%swant %s", out.String(), want)
	}
}

func TestNewLoggerRefuses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, level, format, want string }{
		{"no level", "", "json", "debug, info, warn or error"},
		{"trace would show payloads", "trace", "json", `"trace"`},
		{"unknown format", "info", "xml", "json, console or auto"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if _, err := logger.New(&bytes.Buffer{}, row.level, row.format); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("got %v, want %q", err, row.want)
			}
		})
	}
}
