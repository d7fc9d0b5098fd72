package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
	"wxtoken/internal/seal"
	"wxtoken/internal/store"
	"wxtoken/internal/streams"
)

var canaryRemedy = runbook.FullDisk.See(lang.T("check nats-server's log and the free space",
	"查看 nats-server 的日志和剩余空间"))

// CanaryOfRefresher stores a message in the stream of the tokens, and reads it back.
func CanaryOfRefresher(nc *nats.Conn) Probe {
	return canary(nc, events.RoleRefresher, bus.StoreCanary,
		lang.T("a message was stored beside the tokens and read back",
			"往令牌所在的 stream 写入了一条消息，并读了回来"))
}

// CanaryOfIngest sends the stream of the pushes a message that it must refuse.
func CanaryOfIngest(nc *nats.Conn) Probe {
	return canary(nc, events.RoleIngest, bus.RefusedCanary,
		lang.T("AUTH received a message and refused it as it should; only a push shows that it stores one",
			"AUTH 查看了一条消息，并按预期拒绝；它能否存入，要等推送才知道"))
}

func canary(nc *nats.Conn, role string, probe func(context.Context, jetstream.JetStream) error, works lang.Text) Probe {
	return Probe{Name: "canary " + role, Works: works, Remedy: canaryRemedy, Run: withJetStream(nc, probe)}
}

// SealKey checks whether the seeds open what is sealed.
func SealKey(nc *nats.Conn, keys *seal.Keys) Probe {
	p := Probe{
		Name: "seal key", Works: lang.T("none, and nothing is sealed: tickets, codes and refresh tokens are in the clear in NATS",
			"没有密钥，也没有密封：验证票据、授权码和刷新令牌在 NATS 里是明文"),
		Remedy: runbook.SealKeyUnknown.See(lang.T("put the seed of the key named here into --seal-key-file (WXTOKEN_SEAL_KEY_FILE)",
			"把这一行提到的 seed 放进 --seal-key-file (WXTOKEN_SEAL_KEY_FILE) 指定的文件")),
		Run: withJetStream(nc, func(ctx context.Context, js jetstream.JetStream) error { return store.CheckSeal(ctx, js, keys) }),
	}
	if keys != nil {
		p.Works = lang.T("the seed is here, public key %s", "seed 就在这里，公钥为 %s", keys.Public())
	}
	return p
}

// SealKeyOfIngest asks a refresher whether it can open what ingest seals.
func SealKeyOfIngest(nc *nats.Conn, keys *seal.Keys) Probe {
	return Probe{Name: "seal key", Look: func(ctx context.Context) Line {
		const name = "seal key"
		answer, err := askOpen(ctx, nc, events.ConnectOpen{Step: events.StepSeal, SealKey: keys.Public()})
		if err != nil && !errors.Is(err, errRefused) {
			return skip(name, lang.T("no refresher says whether it can open what ingest seals%s",
				"没有 refresher 说明它能否打开 ingest 密封的内容%s", because(err)))
		}
		have := joined(answer.SealKeys)
		switch answer.State {
		case events.SealOpened:
			return ok(name, lang.T("the refreshers have the seed of %s",
				"refresher 有 %s 的 seed", keys.Public()))
		case events.SealUnused:
			return ok(name, lang.T("none, neither here nor at the refreshers: tickets and codes are in the clear in NATS",
				"这里和 refresher 都没有密钥：验证票据和授权码在 NATS 里是明文"))
		case events.SealMissing:
			return Line{Warn, name, lang.T("none here, but the refreshers have seeds (%s): tickets and codes are in the clear in NATS",
				"这里没有密钥，而 refresher 有 seed（%s）：验证票据和授权码在 NATS 里是明文", have),
				runbook.SealOn.See(lang.T("give ingest the public key, with --seal-key or --seal-key-file (WXTOKEN_SEAL_KEY_FILE)",
					"用 --seal-key 或 --seal-key-file (WXTOKEN_SEAL_KEY_FILE) 把公钥给 ingest"))}
		case events.SealUnknown:
			return Line{Fail, name, lang.T("no refresher could open what is sealed for %s: theirs are %s",
				"没有 refresher 能打开为 %s 密封的内容：它们的公钥是 %s", keys.Public(), have),
				runbook.SealKeyChange.See(lang.T("give ingest the public key of the refreshers' seed, with --seal-key or --seal-key-file (WXTOKEN_SEAL_KEY_FILE)",
					"用 --seal-key 或 --seal-key-file (WXTOKEN_SEAL_KEY_FILE) 把 refresher 的 seed 对应的公钥给 ingest"))}
		}
		return skip(name, doesNotSay)
	}}
}

// errRefused: the refresher is of an older version, and does not know the question.
var errRefused = errors.New("refused")

var doesNotSay = lang.T("this version of the refresher does not say", "这个版本的 refresher 不说明")

// askOpen asks a refresher. The error of a refusal is errRefused.
func askOpen(ctx context.Context, nc *nats.Conn, q events.ConnectOpen) (answer events.ConnectOpened, err error) {
	question, err := json.Marshal(q)
	if err != nil {
		return answer, err
	}
	m, err := nc.RequestWithContext(ctx, events.SubjectConnectOpen, question)
	if err != nil {
		return answer, err
	}
	if m.Header.Get(micro.ErrorHeader) != "" {
		return answer, errRefused
	}
	return answer, json.Unmarshal(m.Data, &answer)
}

// RenewalsOfIngest asks a refresher what holds renewals back: ingest may not read the status.
func RenewalsOfIngest(nc *nats.Conn) Probe {
	return Probe{Name: "renewals", Look: func(ctx context.Context) Line {
		const name = "renewals"
		answer, err := askOpen(ctx, nc, events.ConnectOpen{Step: events.StepHeld})
		if errors.Is(err, errRefused) {
			return skip(name, doesNotSay)
		}
		if err != nil {
			return skip(name, lang.T("no refresher says whether anything holds them back%s",
				"没有 refresher 说明续期是否暂缓%s", because(err)))
		}
		line := ok(name, nothingHeld())
		for _, appid := range slices.Sorted(maps.Keys(answer.Held)) {
			one := renewalsLine(name, &wxtoken.Status{Conditions: []wxtoken.Condition{answer.Held[appid]}})
			if one.Saw = lang.T("%s %s", "%s：%s", appid, one.Saw); line.Mark != OK {
				one.Saw = lang.T("%s; %s", "%s；%s", line.Saw, one.Saw)
			}
			if line.Mark == Fail {
				one.Mark, one.Remedy = Fail, line.Remedy
			}
			line = one
		}
		return line
	}}
}

// Mirrors checks the mirrors in the services' NATS accounts.
func Mirrors(nc *nats.Conn, setup events.SetupConfig) Probe {
	return Probe{
		Name: "mirrors", Works: lang.T("in order, in the accounts of services (%s)",
			"正常（业务服务的账户：%s）", strings.Join(setup.ServicesAPI, ", ")),
		Remedy: runbook.OldValues.See(lang.T("a refresher makes them; its log says why it can't",
			"镜像由 refresher 建立；建不了的原因在它的日志里")),
		Run: withJetStream(nc, func(ctx context.Context, js jetstream.JetStream) error {
			return streams.CheckMirrors(ctx, nc, js, setup)
		}),
	}
}

// BucketsOfGateway checks whether the gateway finds the buckets that it follows.
func BucketsOfGateway(nc *nats.Conn) Probe {
	return Probe{
		Name: "buckets", Works: lang.T("the buckets of tokens and statuses are there", "令牌和状态的 bucket 都在，可以跟随"),
		Remedy: runbook.DataLost.See(lang.T("start a refresher, which makes them; with the accounts of nats-server.conf, the user must be in the services' account",
			"启动 refresher，由它建立；使用 nats-server.conf 的账户时，这个用户要在业务服务的账户里")),
		Run: withJetStream(nc, func(ctx context.Context, js jetstream.JetStream) error {
			for _, name := range []string{events.StreamTokens, events.StreamStatus} {
				if _, err := js.Stream(ctx, name); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			return nil
		}),
	}
}

func withJetStream(nc *nats.Conn, do func(context.Context, jetstream.JetStream) error) func(context.Context) error {
	return func(ctx context.Context) error {
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		return do(ctx, js)
	}
}
