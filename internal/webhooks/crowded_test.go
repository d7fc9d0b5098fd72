package webhooks

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// TestCrowded lets one account fill most of the window with messages that its receiver refuses, while another gets its own. The oldest are
// given up before their day is over, in order, and none of the other's; when the receiver takes them, the next ones come in order.
func TestCrowded(t *testing.T) {
	t.Parallel()
	const most = crowded + 300
	r := newRig(t, natsdtest.Start(t))
	var mended atomic.Bool
	in := newReceiver(t, func(body string, _ http.Header) (int, string) {
		if strings.HasPrefix(body, "bad ") && !mended.Load() {
			return 500, ""
		}
		return 200, ""
	})
	r.serve([]webhook{{URL: in.URL, Messages: []string{component + "/*/*"}}})
	g := r.gateway()
	r.ready(1)
	dead := func() float64 { return g.value(t, "wxtoken_webhook_dead_total") }
	others := 0
	other := func() {
		others++
		r.message("wxother", fmt.Sprintf("other %d", others))
	}
	for n := 1; n <= most; n++ {
		e := events.Event{
			Subject: events.MessageSubject(component, "wxbad", "text", ""), ID: fmt.Sprint("bad-", n), Source: "/wechat/x", Type: "text", About: "wxbad",
			Time: time.Now(), ContentType: "application/xml", Data: fmt.Appendf(nil, "bad %d", n),
		}
		if _, err := r.js.PublishMsgAsync(e.Msg()); err != nil {
			t.Fatal(err)
		}
		if n%1000 == 0 {
			<-r.js.PublishAsyncComplete()
			other()
		}
	}
	<-r.js.PublishAsyncComplete()
	eventually(t, "messages that are given up early", func() bool {
		other() // each that comes looks for room
		time.Sleep(100 * time.Millisecond)
		return dead() >= 3
	})
	mended.Store(true)
	eventually(t, "the next ones", func() bool {
		n := 0
		for _, body := range in.accepted() {
			if strings.HasPrefix(body, "bad ") {
				n++
			}
		}
		return n >= 50
	})
	eventually(t, "the other account's", func() bool {
		n := 0
		for _, body := range in.accepted() {
			if strings.HasPrefix(body, "other ") {
				n++
			}
		}
		return n == others
	})
	given := int(dead())
	next := map[string]int{"bad": given + 1, "other": 1}
	for _, body := range in.accepted() {
		account, n, _ := strings.Cut(body, " ")
		if n != fmt.Sprint(next[account]) {
			t.Fatalf("%q came, want %d; %d were given up", body, next[account], given)
		}
		next[account]++
	}
	stream, err := r.js.Stream(t.Context(), events.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= given; n++ {
		m, err := stream.GetMsg(t.Context(), uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		reason := m.Header.Get(events.HeaderReason)
		if string(m.Data) != fmt.Sprintf("bad %d", n) || !strings.HasSuffix(reason, "status 500, and too many messages of the account wait behind it") {
			t.Errorf("on DEAD %q: %s", m.Data, reason)
		}
	}
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != uint64(given) {
		t.Errorf("%d counted, and DEAD has %v, %v", given, info, err)
	}
}
