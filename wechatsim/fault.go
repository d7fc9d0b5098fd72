package wechatsim

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// FaultMode says what goes wrong with a call.
type FaultMode string

// The modes of a Fault.
const (
	FaultErrcode FaultMode = "errcode" // answered with Fault.Errcode, not executed
	FaultBusy    FaultMode = "busy"    // answered with errcode -1, not executed
	FaultLost    FaultMode = "lost"    // executed, then the connection is cut
	FaultDrop    FaultMode = "drop"    // the connection is cut, not executed
	FaultHTML    FaultMode = "html"    // answered with the 502 page of a proxy, not executed
	// Answered with Fault.Body as it is, not executed; an empty one is text/html.
	FaultBody FaultMode = "body"
	FaultSlow FaultMode = "slow" // executed at once, answered after Fault.Delay

	// Executed, but the answer has no refresh token; in a list only the entry of Fault.Authorizer,
	// if set.
	FaultNoRefresh    FaultMode = "no_refresh"
	FaultEmptyRefresh FaultMode = "empty_refresh" // the same, with an empty one
	// Executed, but the answer has control characters, half a character and a name twice.
	FaultRaw FaultMode = "raw"
)

// Fault is a trouble with calls of the API. Empty fields match all calls.
type Fault struct {
	// The API's path or name, for instance "/cgi-bin/menu/get", "menu/get" or
	// "api_authorizer_token".
	API        string
	Component  string
	Authorizer string // the account that a call is about, by its body, code or token

	Mode    FaultMode     // "" means FaultErrcode
	Errcode int           // of FaultErrcode
	Errmsg  string        // of FaultErrcode; "" means WeChat's own text
	Status  int           // HTTP status of FaultBody; 0 means 200
	Body    string        // of FaultBody
	Delay   time.Duration // before the answer, or before the cut

	Times int           // how many calls it affects; 0 means all
	For   time.Duration // how long it lasts; 0 means until Heal

	until time.Time
}

func (f Fault) validate() error {
	var faults []error
	if f.API != "" && findAPI(f.API) == nil {
		faults = append(faults, fmt.Errorf("api %q: no such API", f.API))
	}
	switch f.Mode {
	case FaultErrcode:
		if f.Errcode == 0 {
			faults = append(faults, errors.New("errcode: missing, or give another mode"))
		}
	case FaultSlow:
		if f.Delay <= 0 {
			faults = append(faults, errors.New("delay: missing, mode slow needs one"))
		}
	case FaultBusy, FaultLost, FaultDrop, FaultHTML, FaultBody, FaultNoRefresh, FaultEmptyRefresh, FaultRaw:
	default:
		faults = append(faults, fmt.Errorf("mode %q: want errcode, busy, lost, drop, html, body, slow, no_refresh, empty_refresh or raw", f.Mode))
	}
	if f.Times < 0 || f.For < 0 || f.Delay < 0 || f.Status != 0 && (f.Status < 200 || f.Status > 599) {
		faults = append(faults, errors.New("times, for, delay, status: out of range"))
	}
	return errors.Join(faults...)
}

// Fail switches a trouble on. Of several that match a call, the one that was switched on first
// applies.
func (p *Platform) Fail(f Fault) error {
	if f.Mode == "" {
		f.Mode = FaultErrcode
	}
	if err := f.validate(); err != nil {
		return fmt.Errorf("fail: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.For > 0 {
		f.until = p.now().Add(f.For)
	}
	p.faults = append(p.faults, &f)
	p.record(Entry{Kind: EntryFault, Component: f.Component, Authorizer: f.Authorizer, API: f.API, Errcode: f.Errcode, Text: "fail " + string(f.Mode)})
	return nil
}

// Heal ends all troubles of Fail, DropPushes and OddPushes, and brings the platform up.
func (p *Platform) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
	clear(p.drops)
	clear(p.odd)
	p.down = false
	p.record(Entry{Kind: EntryFault, Text: "heal"})
}

// SetDown takes the API down, so that every call is cut off, or brings it up again. Pushes go on.
func (p *Platform) SetDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	text := "up"
	if down {
		text = "down"
	}
	p.record(Entry{Kind: EntryFault, Text: text})
}

// SetDailyLimit changes how often each appid may call an API in a day, as Config.DailyLimit does.
// Today's earlier calls count. A negative limit means no limit. Heal does not change it.
func (p *Platform) SetDailyLimit(api string, limit int) error {
	a := findAPI(api)
	if a == nil {
		return fmt.Errorf("set daily limit: api %q: no such API", api)
	}
	text := fmt.Sprintf("daily limit %d", limit)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits[a.name] = limit
	if limit < 0 {
		delete(p.limits, a.name)
		text = "no daily limit"
	}
	p.record(Entry{Kind: EntryFault, API: a.name, Text: text})
	return nil
}

// DropPushes loses the next n pushes of an InfoType on their way: WeChat believes that they were
// sent. "" means every push.
func (p *Platform) DropPushes(infoType string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drops[infoType] += n
	p.record(Entry{Kind: EntryFault, InfoType: infoType, Text: fmt.Sprintf("drop %d pushes", n)})
}

// takeFault returns the fault that applies to a call, or nil, and counts it. The caller holds p.mu.
func (p *Platform) takeFault(c *call) *Fault {
	now := p.now()
	p.faults = slices.DeleteFunc(p.faults, func(f *Fault) bool { return !f.until.IsZero() && !now.Before(f.until) })
	for i, f := range p.faults {
		if f.API != "" && f.API != c.api.name && f.API != c.api.path ||
			f.Component != "" && f.Component != c.componentAppID ||
			f.Authorizer != "" && f.Authorizer != c.authorizer && !f.inList(c) {
			continue
		}
		hit := *f
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				p.faults = slices.Delete(p.faults, i, i+1)
			}
		}
		return &hit
	}
	return nil
}

// inList reports whether the fault is about one entry of the list that a call asks for.
func (f *Fault) inList(c *call) bool {
	return c.api.name == listAPI && (f.Mode == FaultNoRefresh || f.Mode == FaultEmptyRefresh)
}
