package preflight

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/notify"
	"wxtoken/internal/settings"
)

// Notices checks whether notices reach their receivers: the file as it is now, and what waits for each receiver.
func Notices(nc *nats.Conn, file string) Probe {
	return Probe{Name: "notices", Look: func(ctx context.Context) Line { return notices(ctx, nc, file) }}
}

func notices(ctx context.Context, nc *nats.Conn, file string) Line {
	const name = "notices"
	receivers, err := notify.ReadFile(file)
	if err != nil {
		return Line{Fail, name, lang.Same(err.Error()), lang.T("fix %s; until then the receivers of before stay",
			"修正 %s；在此之前原来的接收方不变", settings.Name("notify-file"))}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return skip(name, lang.Same(err.Error()))
	}
	var waiting []lang.Text
	for _, r := range receivers {
		cons, err := js.Consumer(ctx, events.StreamJournal, notify.Durable(r.Name))
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound): // no refresher serves it yet
			continue
		case err != nil:
			return skip(name, lang.T("the consumers can't be read%s", "读不到 consumer%s", because(err)))
		}
		info := cons.CachedInfo()
		if n := info.NumPending + uint64(max(info.NumAckPending, 0)); n > 0 && info.NumRedelivered > 0 {
			waiting = append(waiting, lang.T("%s (%d wait)", "%s（%d 条在等待）", r.Name, n))
		}
	}
	if len(waiting) > 0 {
		return Line{Warn, name, lang.T("deliveries failed to %s", "发送失败：%s", lang.Join(waiting, lang.T(", ", "、"))),
			lang.T("refresher --notify-test shows what each receiver answers; so does the log", "refresher --notify-test 会显示每个接收方的应答，日志里也有")}
	}
	return ok(name, lang.T("receivers: %d; no failed delivery", "接收方 %d 个；没有发不出去的通知", len(receivers)))
}
