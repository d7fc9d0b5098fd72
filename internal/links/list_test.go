package links_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"wxtoken/internal/events"
)

// TestList: what an operator is told of links, the newest first, and nothing that opens one.
func TestList(t *testing.T) {
	r := newRig(t)
	pending := r.create(events.ConnectCreate{Ref: "tenant-7", Return: ""})
	opened := r.create(events.ConnectCreate{BizAppID: alice})
	opened.OpenedAt, opened.PreAuthCode, opened.PreAuthExpiresAt = r.now.Add(time.Minute), "preauthcode@@@SEKRET", r.now.Add(time.Hour)
	opened.Return = "https://shop.example/back?key=SEKRET"
	_, err := r.Store().SaveConnect(t.Context(), *opened, r.now)
	r.must(err)
	done := r.create(events.ConnectCreate{Ref: "tenant-8"})
	r.must(r.Finish(t.Context(), done, authorized(bob, "tenant-8")))

	all, err := r.List(t.Context(), events.ConnectList{})
	r.must(err)
	if len(all.Links) != 3 || all.More {
		t.Fatalf("%d links, more: %t; want 3", len(all.Links), all.More)
	}
	if got := all.Links[0]; got.Ref != "tenant-8" || got.State != events.ConnectAuthorized || got.Authorizer != bob || !got.EndedAt.Equal(r.now) || !got.MadeAt.Equal(r.now) {
		t.Errorf("the one that was used: %+v", got)
	}
	if got := all.Links[1]; got.BizAppID != alice || !got.OpenedAt.Equal(r.now.Add(time.Minute)) || got.ReturnHost != "shop.example" {
		t.Errorf("the one that was opened: %+v", got)
	}
	if got := all.Links[2]; got.Link != pending.ID[:8] || !got.OpenedAt.IsZero() || got.State != events.ConnectPending {
		t.Errorf("the one that waits: %+v", got)
	}
	if text := fmt.Sprintf("%+v", all); strings.Contains(text, "SEKRET") || strings.Contains(text, pending.ID) || strings.Contains(text, pending.Secret) {
		t.Errorf("a list shows what opens a link: %s", text)
	}

	few, err := r.List(t.Context(), events.ConnectList{Component: component, Limit: 2})
	r.must(err)
	if len(few.Links) != 2 || !few.More || few.Links[0] != all.Links[0] {
		t.Errorf("two of three: %+v", few)
	}
	for _, row := range []struct {
		question events.ConnectList
		code     int
	}{
		{events.ConnectList{Component: "wx0ther"}, http.StatusNotFound},
		{events.ConnectList{Limit: -1}, http.StatusBadRequest},
		{events.ConnectList{Limit: events.MaxConnectList + 1}, http.StatusBadRequest},
	} {
		_, err := r.List(t.Context(), row.question)
		if e := new(events.RequestError); !errors.As(err, &e) || e.Code != row.code {
			t.Errorf("%+v: %v, want %d", row.question, err, row.code)
		}
	}
}

// TestListIsBounded: however long the refs are, the answer fits into a message.
func TestListIsBounded(t *testing.T) {
	r := newRig(t)
	long := strings.Repeat("<", 256) // six bytes each in JSON
	for range 90 {
		r.create(events.ConnectCreate{Ref: long})
	}
	listed, err := r.List(t.Context(), events.ConnectList{Limit: events.MaxConnectList})
	r.must(err)
	if n := len(listed.Links); n < 60 || n == 90 || !listed.More {
		t.Errorf("%d links, more: %t", n, listed.More)
	}
}
