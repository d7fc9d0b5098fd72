package events_test

import (
	"strings"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "SEKRET", "{}", `{"kind":"SEKRET"}`, `{"component":"SEKRET"}`} {
		if _, err := events.ParseAuth([]byte(data)); err == nil || strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("ParseAuth(%q): %v", data, err)
		}
	}
	for _, data := range []string{"", "x", "{}", `{"key":""}`, `{"key":"nonsense"}`, `{"key":"component.wxc","generation":-1}`} {
		if _, err := events.ParseDue([]byte(data)); err == nil {
			t.Errorf("ParseDue(%q) took it", data)
		}
	}
}

func TestMessagesOfAKey(t *testing.T) {
	t.Parallel()
	key := wxtoken.AuthorizerKey("wxc", "wxa")
	at := time.Date(2026, 11, 22, 12, 0, 0, 999_999_999, time.UTC)
	m, err := events.ScheduleMsg(key, 7, at)
	if err != nil || m.Subject != "renewal.scheduled.authorizer.wxc.wxa" || m.Header.Get("Nats-Schedule") != "@at 2026-11-22T12:00:00Z" ||
		m.Header.Get("Nats-Schedule-Target") != "renewal.due.authorizer.wxc.wxa" {
		t.Errorf("schedule %+v, %v", m, err)
	}
	due, err := events.ParseDue(m.Data)
	if err != nil || due != (events.Due{Key: key, Generation: 7, Reason: events.ReasonScheduled}) {
		t.Errorf("due message %+v, %v", due, err)
	}
	if _, err := events.DueMsg(events.Due{Key: wxtoken.Key{Kind: "a.b.>"}}); err == nil {
		t.Error("a due message of what is no key")
	}
	if m := events.ReconcileMsg("wxc", 6*time.Hour); m.Header.Get("Nats-Schedule") != "@every 6h0m0s" || m.Header.Get("Nats-Schedule-Target") != "renewal.due.reconcile.wxc" {
		t.Errorf("reconcile %+v", m)
	}
}
