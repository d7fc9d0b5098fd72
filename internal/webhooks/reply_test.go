package webhooks

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/services"
)

const replyDocument = "<xml><ToUserName>u</ToUserName><FromUserName>a</FromUserName><CreateTime>1</CreateTime><MsgType>text</MsgType><Content>hi</Content></xml>"

// TestReply asks two gateways for replies, as ingest does after it stored a message. What the receiver took comes once, the rest
// again from the durable consumer.
func TestReply(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	var late atomic.Int64
	in := newReceiver(t, func(body string, h http.Header) (int, string) {
		asked := h.Get("Wxtoken-Reply") == "wanted"
		switch {
		case body == "answered":
			return 200, replyDocument
		case body == "garbage":
			return 200, "<html>welcome"
		case body == "long":
			return 200, replyDocument + strings.Repeat(" ", maxAnswer)
		case body == "success":
			return 200, "success"
		case body == "no content":
			return 204, ""
		case body == "broken" && asked:
			return 500, replyDocument
		case body == "late" && asked:
			late.Add(1)
			time.Sleep(replyWithin + 200*time.Millisecond)
			return 500, replyDocument
		}
		return 200, ""
	})
	r.serve([]webhook{{URL: in.URL, Messages: []string{component + "/*/text"}, Reply: true}})
	g, other := r.gateway(), r.gateway()
	r.ready(1)
	nc := r.srv.Connect()
	eventually(t, "a service that answers", func() bool { _, err := r.ask(nc, "wxz", "first"); return err == nil })
	rows := []struct {
		body, want string
		times      int
	}{
		{"answered", replyDocument, 1}, {"garbage", "", 1}, {"long", "", 1}, {"success", "", 1}, {"no content", "", 1}, {"broken", "", 2}, {"late", "", 2},
	}
	for i, row := range rows {
		r.message(fmt.Sprintf("wx%d", i), row.body)
		got, err := r.ask(nc, fmt.Sprintf("wx%d", i), row.body)
		if err != nil || got != row.want {
			t.Errorf("%s: answered %q, %v, want %q", row.body, got, err, row.want)
		}
	}
	// One that is stored, and never asked about.
	r.message("wx99", "not asked")
	eventually(t, "what was not taken to come again", func() bool {
		return in.attempts("broken") == 2 && in.attempts("late") == 2 && in.attempts("not asked") == 1
	})
	eventually(t, "nothing to be pending", func() bool {
		return g.value(t, "wxtoken_webhook_pending")+other.value(t, "wxtoken_webhook_pending") == 0
	})
	for _, row := range rows {
		if n := in.attempts(row.body); n != row.times {
			t.Errorf("%s came %d times, want %d", row.body, n, row.times)
		}
	}
	count := func(outcome string) float64 {
		return g.value(t, "wxtoken_webhook_deliveries_total", outcome) + other.value(t, "wxtoken_webhook_deliveries_total", outcome)
	}
	eventually(t, "1 replied, 2 garbage, 1 timeout and 1 failed to be counted", func() bool {
		return count(outcomeReplied) == 1 && count(outcomeGarbage) == 2 && count(outcomeTimeout) == 1 && count(outcomeFailed) == 1
	})
}

// TestTakenWhileItWaited: what the receiver took with the question for the reply does not come again, also if it waits so long behind
// another message of its account that the outcome is forgotten meanwhile, and if a repeat of the question was not taken.
func TestTakenWhileItWaited(t *testing.T) {
	t.Parallel()
	now := time.Now()
	outcomes := newReplyOutcomes()
	turn := (&subscription{Webhooks: &Webhooks{}, replyOutcomes: outcomes, postCtx: context.Background()}).newTurn("pin")
	turn.target.Store(&target{hook: services.Webhook{Reply: true}})
	item := func(seq uint64, id string) *item {
		i := &item{seq: seq, id: id, stored: now.Add(-time.Hour), received: now.Add(-time.Hour), progressAt: now}
		turn.held[seq] = i
		return i
	}
	taken, not := item(1, "taken"), item(2, "not")
	outcomes.add("taken", true)
	outcomes.add("taken", false) // WeChat repeated the push
	outcomes.add("not", false)
	turn.sendProgress(now)
	outcomes.by["taken"], outcomes.swept = outcomeAt{true, now.Add(-2 * remember)}, now.Add(-2*remember)
	outcomes.add("another", true)
	if outcomes.has("taken") {
		t.Error("an outcome is kept for ever")
	}
	if !turn.takenByReply(taken) {
		t.Error("what was taken comes again")
	}
	if turn.takenByReply(not) {
		t.Error("what was not taken does not come again")
	}
	late := item(3, "late")
	outcomes.add("late", true)
	if !turn.takenByReply(late) {
		t.Error("what was taken comes again after it was handed out late")
	}
}
