package systemtest

import (
	"time"

	"wxtoken/wechatsim"
)

// oddTroubles are what WeChat says that no page of its documentation shows: pushes with attributes, control characters or half a character,
// answers without a refresh token, answers without anything.
var oddTroubles = []trouble{
	{"odd documents pushed", func(d *day) {
		if err := d.sim.OddPushes("", 1+d.rng.IntN(2*len(wechatsim.Oddities())), ""); err != nil {
			d.t.Fatal(err)
		}
		if p := d.anyone(); p.live {
			d.reauthorize(p)
		}
	}},
	{"empty answers", func(d *day) {
		d.fail(wechatsim.Fault{Mode: wechatsim.FaultBody, Times: 1 + d.rng.IntN(5)}, 5*time.Minute)
	}},
	{"answers that are no JSON", func(d *day) {
		d.oddAnswers(wechatsim.Fault{Mode: wechatsim.FaultRaw, Times: 1 + d.rng.IntN(20)}, 10*time.Minute)
	}},
	{"a code without a refresh token", func(d *day) {
		p := d.anyone()
		if !p.live {
			return
		}
		d.oddAnswers(wechatsim.Fault{API: "api_query_auth", Authorizer: p.appid, Mode: d.withoutRefresh(), Times: 1}, 10*time.Minute)
		d.reauthorize(p)
		p.calls++
	}},
	{"renewals without a refresh token", func(d *day) {
		d.oddAnswers(wechatsim.Fault{API: refresh, Mode: d.withoutRefresh(), Times: 1 + d.rng.IntN(8)}, time.Hour)
	}},
	{"listed without a refresh token", func(d *day) {
		p := d.anyone()
		if !p.live {
			return
		}
		d.oddAnswers(wechatsim.Fault{API: "api_get_authorizer_list", Authorizer: p.appid, Mode: d.withoutRefresh()}, 3*time.Hour)
		if d.rng.IntN(2) == 0 { // and the list alone could tell of the new authorization
			d.sim.DropPushes("updateauthorized", 1)
			d.reauthorize(p)
			d.spans = append(d.spans, span{what: "push lost", who: p.appid, from: time.Now(), to: time.Now().Add(missedPush)})
		}
		_, _ = d.ask("wxtoken.reconcile", map[string]string{"component": testAppID})
	}},
	{"profiles without a refresh token", func(d *day) {
		d.oddAnswers(wechatsim.Fault{API: "api_get_authorizer_info", Mode: d.withoutRefresh(), Times: 1 + d.rng.IntN(5)}, time.Hour)
	}},
}

// withoutRefresh is one of the ways in which an answer lacks a refresh token.
func (d *day) withoutRefresh() wechatsim.FaultMode {
	return []wechatsim.FaultMode{wechatsim.FaultNoRefresh, wechatsim.FaultEmptyRefresh}[d.rng.IntN(2)]
}

// oddAnswers makes WeChat answer in a way that costs nobody a token: what an answer lacks, another has.
func (d *day) oddAnswers(f wechatsim.Fault, during time.Duration) {
	f.For = during
	if err := d.sim.Fail(f); err != nil {
		d.t.Fatal(err)
	}
}
