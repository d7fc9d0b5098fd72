package systemtest

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

// crashSteps are the steps at which a refresher is killed.
var crashSteps = []string{
	"loaded", "claimed", "asked", "judged", "batch.1", "batch.2", "batch.3", "committed", "acked",
	"exchange.claimed", "exchange.asked", "exchange.committed",
}

// trouble is one kind of thing that goes wrong.
type trouble struct {
	name string
	make func(d *day)
}

func troubleNames() (names []string) {
	for _, tr := range allTroubles {
		names = append(names, tr.name)
	}
	return names
}

const (
	refresh     = "api_authorizer_token"
	coldStart   = 30 * time.Second // what a token may be late when everything was away
	missedPush  = 6*time.Hour + 15*time.Minute
	missedToken = life + 5*time.Minute
)

// allTroubles are planned in this order, so that each comes up on some day; a crash more often, because there are
// as many steps to crash at.
var allTroubles = slices.Concat(troubles[:crashing+1], lifeTroubles, troubles[crashing:crashing+1], oddTroubles, troubles[crashing+1:], troubles[crashing:crashing+1])

// crashing is where the crash stands among the troubles.
var crashing = slices.IndexFunc(troubles, func(tr trouble) bool { return tr.name == "refresher crashes" })

var troubles = []trouble{
	{"WeChat down", func(d *day) {
		for_ := d.upTo(15 * time.Minute)
		switch d.rng.IntN(10) {
		case 0:
			for_ = 20*time.Minute + d.upTo(17*time.Minute)
		case 1:
			for_ = 40*time.Minute + d.upTo(2*time.Hour)
		}
		d.sim.SetDown(true)
		d.wrong("WeChat down", "", for_)
		d.later(time.Now().Add(for_), func() { d.sim.SetDown(false) })
	}},
	{"WeChat busy", func(d *day) { d.fail(wechatsim.Fault{Mode: wechatsim.FaultBusy, Times: 20}, 5*time.Minute) }},
	{"answers lost", func(d *day) {
		d.fail(wechatsim.Fault{Mode: wechatsim.FaultLost, Times: 1 + d.rng.IntN(8)}, 10*time.Minute)
	}},
	{"connections cut", func(d *day) { d.fail(wechatsim.Fault{Mode: wechatsim.FaultDrop, Times: 5}, 5*time.Minute) }},
	{"pages of a proxy", func(d *day) { d.fail(wechatsim.Fault{Mode: wechatsim.FaultHTML, Times: 5}, 5*time.Minute) }},
	{"nonsense answered", func(d *day) {
		body := []string{`{}`, `{"authorizer_access_token":""}`, `{"authorizer_access_token":"x","expires_in":0}`, `[`, ``,
			`{"authorizer_access_token":"x","expires_in":1000000000000}`}[d.rng.IntN(6)]
		d.fail(wechatsim.Fault{API: refresh, Mode: wechatsim.FaultBody, Body: body, Times: 3}, 5*time.Minute)
	}},
	{"WeChat slow", func(d *day) {
		d.fail(wechatsim.Fault{Mode: wechatsim.FaultSlow, Delay: time.Second + d.upTo(8*time.Second)}, d.upTo(20*time.Minute))
	}},
	{"WeChat too slow", func(d *day) {
		d.fail(wechatsim.Fault{Mode: wechatsim.FaultSlow, Delay: 14 * time.Second, Times: 4}, 10*time.Minute)
	}},
	{"45011", func(d *day) { d.fail(wechatsim.Fault{API: refresh, Errcode: 45011, Times: 1}, 5*time.Minute) }},
	{"61023 once", func(d *day) { d.fail(wechatsim.Fault{API: refresh, Errcode: 61023, Times: 1}, 10*time.Minute) }},
	{"40001 on a refresh", func(d *day) { d.fail(wechatsim.Fault{API: refresh, Errcode: 40001, Times: 2}, 5*time.Minute) }},
	{"component token dead", func(d *day) {
		if err := d.sim.Invalidate(testAppID, ""); err == nil {
			d.wrong("component token dead", "", 2*time.Minute)
		}
	}},
	{"schedule lost", func(d *day) {
		p := d.anyone()
		key := wxtoken.AuthorizerKey(testAppID, p.appid)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stream, err := d.js.Stream(ctx, events.StreamTokens)
		if err == nil {
			err = stream.Purge(ctx, jetstream.WithPurgeSubject(events.ScheduleSubject(key)))
		}
		if err != nil {
			d.t.Fatal(err)
		}
		// Nothing may be seen of it; that the schedule is away until the sweep finds it is the trouble.
		token, _ := d.client.Token(key)
		d.uncovered = append(d.uncovered, span{who: p.appid, from: time.Now(), to: token.RenewAt.Add(2 * time.Minute)})
	}},
	{"due message repeated", func(d *day) {
		p := d.anyone()
		key := wxtoken.AuthorizerKey(testAppID, p.appid)
		token, err := d.client.Token(key)
		if err != nil || token.Generation < 2 {
			return
		}
		d.due(p, token.Generation-uint64(d.rng.IntN(2)))
	}},
	{"refresher crashes", func(d *day) {
		step := crashSteps[(int(d.seed)+d.happened["refresher crashes"])%len(crashSteps)]
		d.arm(step)
		d.wrong("refresher about to crash", "", time.Minute)
		// Something to crash at: a code for the steps of an exchange, a renewal for the others.
		p := d.anyone()
		if !p.live {
			return
		}
		if strings.HasPrefix(step, "exchange.") {
			d.reauthorize(p)
			return
		}
		key := wxtoken.AuthorizerKey(testAppID, p.appid)
		if token, err := d.client.Token(key); err == nil {
			d.due(p, token.Generation)
		}
	}},
	{"all refreshers away", func(d *day) {
		during := d.upTo(30 * time.Minute)
		for _, i := range d.instances() {
			if d.rng.IntN(2) == 0 {
				i.kill()
			} else {
				i.stop()
			}
			d.drop(i)
		}
		d.wrong("all refreshers away", "", during)
		d.later(time.Now().Add(during), func() { d.bringUp(); d.bringUp() })
	}},
	{"another refresher", func(d *day) {
		i := d.start()
		d.later(time.Now().Add(d.upTo(2*time.Hour)), func() { i.stop(); d.drop(i) })
	}},
	{"NATS restarted", func(d *day) {
		during := d.upTo(time.Minute)
		d.nats.Stop()
		d.natsDown = true
		d.wrong("NATS restarted", "", during+coldStart)
		d.later(time.Now().Add(during), func() {
			d.nats.Restart()
			d.natsDown = false
		})
	}},
	{"tickets stop", func(d *day) {
		during := d.upTo(3 * time.Hour)
		if err := d.sim.StopTickets(testAppID); err != nil {
			d.t.Fatal(err)
		}
		if d.seed%2 == 0 || d.seed%5 == 0 {
			d.wrong("tickets stop, no old one works", "", during+10*time.Minute)
		}
		d.later(time.Now().Add(during), func() { _ = d.sim.StartTickets(testAppID) })
	}},
	{"authorized again", func(d *day) {
		if p := d.anyone(); p.live {
			d.reauthorize(p)
		}
	}},
	{"cancelled", func(d *day) {
		if p := d.anyone(); p.live {
			d.cancel(p)
		}
	}},
	{"cancelled and authorized", func(d *day) {
		if p := d.anyone(); p.live {
			d.cancel(p)
			time.Sleep(d.upTo(3 * time.Second))
			d.authorize(p)
		}
	}},
	{"push of an authorization lost", func(d *day) {
		p := d.anyone()
		if !p.live {
			return
		}
		d.sim.DropPushes("updateauthorized", 1)
		d.reauthorize(p)
		d.spans = append(d.spans, span{what: "push lost", who: p.appid, from: time.Now(), to: time.Now().Add(missedPush)})
	}},
	{"push of a cancellation lost", func(d *day) {
		p := d.anyone()
		if !p.live {
			return
		}
		d.sim.DropPushes("unauthorized", 1)
		d.cancel(p)
		d.spans = append(d.spans, span{what: "push lost", who: p.appid, from: time.Now(), to: time.Now().Add(missedToken)})
	}},
	{"old code pushed", func(d *day) {
		p := d.anyone()
		err := d.sim.PushInfo(testAppID, "authorized", "AuthorizerAppid", p.appid, "AuthorizationCode", "queryauthcode@@@SEKRET-unknown",
			"AuthorizationCodeExpiredTime", "600", "PreAuthCode", "preauthcode@@@SEKRET-unknown")
		if err != nil {
			d.t.Fatal(err)
		}
		d.wrong("old code pushed", p.appid, time.Minute)
		p.calls++
	}},
}

// plan plans the day: periods of one to three hours, a quarter of them quiet, the others with a
// mix of troubles of their own.
func (d *day) plan() {
	for n, p := range d.people {
		d.later(d.began.Add(time.Duration(5+n)*time.Second), func() { d.authorize(p) })
	}
	// Away from the start, where nobody is authorized yet.
	at := d.began.Add(5 * time.Minute)
	turn := int(d.seed) * 5
	for at.Before(d.began.Add(dayLength - 3*time.Hour)) {
		period := time.Hour + d.upTo(2*time.Hour)
		if d.rng.IntN(4) > 0 {
			for range 2 + d.rng.IntN(5) {
				tr := allTroubles[turn%len(allTroubles)]
				if d.rng.IntN(3) == 0 {
					tr = allTroubles[d.rng.IntN(len(allTroubles))]
				} else {
					turn++
				}
				d.later(at.Add(d.upTo(period)), func() {
					if !d.natsDown {
						d.happened[tr.name]++
						tr.make(d)
					}
				})
			}
		}
		at = at.Add(period)
	}
}

func (d *day) upTo(most time.Duration) time.Duration {
	return time.Duration(1 + d.rng.Int64N(int64(most)))
}

// fail makes WeChat's API fail for a time.
func (d *day) fail(f wechatsim.Fault, during time.Duration) {
	f.For = during
	if err := d.sim.Fail(f); err != nil {
		d.t.Fatal(err)
	}
	name := string(f.Mode)
	if f.Errcode != 0 {
		name = "errcode"
	}
	d.wrong(name, "", during)
}

// due makes an account due, for the token after the one with this generation.
func (d *day) due(p *person, generation uint64) {
	m, err := events.DueMsg(events.Due{Key: wxtoken.AuthorizerKey(testAppID, p.appid), Generation: generation, Reason: events.ReasonScheduled})
	if err != nil {
		d.t.Fatal(err)
	}
	d.publish(m)
	p.calls++
}

func (d *day) publish(m *nats.Msg) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := d.js.PublishMsg(ctx, m); err != nil {
		d.t.Fatal(err)
	}
}

func (d *day) anyone() *person { return d.people[d.rng.IntN(len(d.people))] }

func (d *day) authorize(p *person) {
	if err := d.sim.Authorize(testAppID, p.appid); err != nil {
		d.t.Fatal(err)
	}
	p.live, p.changed, p.cancelled = true, time.Now(), false
	p.calls += 3
	d.waitForPush(p)
}

func (d *day) reauthorize(p *person) {
	if err := d.sim.Reauthorize(testAppID, p.appid); err != nil {
		d.t.Fatal(err)
	}
	p.changed = time.Now()
	p.calls += 3
	d.waitForPush(p)
}

func (d *day) cancel(p *person) {
	if err := d.sim.Cancel(testAppID, p.appid); err != nil {
		d.t.Fatal(err)
	}
	p.live, p.changed, p.cancelled = false, time.Now(), true
	d.waitForPush(p)
	back := d.upTo(4 * time.Hour)
	d.later(time.Now().Add(back), func() {
		if !p.live {
			d.authorize(p)
		}
	})
}

// waitForPush allows for pushes that come late, in another order, or not at all where WeChat makes no second try.
func (d *day) waitForPush(p *person) {
	d.wrong("authorization changed", p.appid, 2*time.Minute)
}
