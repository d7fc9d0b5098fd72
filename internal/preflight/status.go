package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
)

const (
	ticketLate  = 25 * time.Minute // WeChat pushes one every 10 minutes
	maxStatuses = 2000             // that are read
	maxNamed    = 5                // accounts in a line
	readers     = 16
)

// statuses looks at what the refreshers wrote down: tickets, refusals, permissions.
func (c *Checker) statuses(ctx context.Context) []Line {
	if !c.Statuses {
		return nil
	}
	const name = "tickets"
	if c.NATS == nil || !c.NATS.IsConnected() {
		return []Line{skip(name, "NATS is not there to tell")}
	}
	stream, err := c.js.Stream(ctx, events.StreamStatus)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return []Line{skip(name, "no refresher has run yet")}
	}
	if err != nil {
		return []Line{skip(name, "the statuses can't be read%s", because(err))}
	}
	var lines []Line
	for _, component := range c.components() {
		status, err := read(ctx, stream, wxtoken.ComponentKey(component.AppID))
		if err != nil {
			lines = append(lines, skip(name+" "+component.AppID, "the status can't be read%s", because(err)))
			continue
		}
		lines = append(lines, c.tickets(name+" "+component.AppID, status), held("renewals "+component.AppID, status))
		if unopened := unopenedEvents(status); unopened != "" {
			lines = append(lines, Line{Fail, "seal key " + component.AppID, unopened,
				"compare --seal-key-file (WXTOKEN_SEAL_KEY_FILE) of ingest and refreshers; runbook: A refresher does not start: `record sealed for a key whose seed is not here`"})
		} else if status != nil && status.State == wxtoken.StateOperator && status.LastError != nil && status.LastError.Code != 0 {
			last := status.LastError
			lines = append(lines, Line{Fail, "component " + component.AppID, fmt.Sprintf("state operator: %s was answered errcode %d: %s (at %s)",
				last.API, last.Code, last.Message, last.At.UTC().Format(time.RFC3339)),
				remedyFor(last.Code, last.Message)})
		}
	}
	return append(lines, c.permissions(ctx, stream)...)
}

// unopenedEvents says why a component's events can't be opened, "" if they can.
func unopenedEvents(s *wxtoken.Status) string {
	if s == nil {
		return ""
	}
	for _, condition := range s.Conditions {
		if condition.Type == "EventsOpened" && condition.Status == "False" {
			return condition.Message
		}
	}
	return ""
}

// tickets judges the age of a component's ticket.
func (c *Checker) tickets(name string, status *wxtoken.Status) Line {
	const remedy = "compare 授权事件接收URL, 消息校验Token and 消息加解密Key on WeChat's console with the settings of ingest; runbook: No ticket arrives"
	switch {
	case status == nil:
		return skip(name, "no refresher has run for it yet")
	case status.TicketReceivedAt == nil:
		return Line{Fail, name, "none came yet; WeChat pushes one every 10 minutes", "wait 10 minutes after ingest could be reached, then " + remedy}
	}
	age := c.Now().Sub(*status.TicketReceivedAt).Round(time.Second)
	if age > ticketLate {
		return Line{Fail, name, fmt.Sprintf("the last one came %s ago; WeChat pushes one every 10 minutes", age), remedy}
	}
	return ok(name, "the last one came %s ago", age)
}

// held judges whether anything keeps the tokens of a component from being renewed.
func held(name string, status *wxtoken.Status) Line {
	if status == nil {
		return skip(name, "no refresher has run for it yet")
	}
	held, ok := status.Held()
	if !ok {
		return Line{OK, name, "nothing holds them back", ""}
	}
	saw := fmt.Sprintf("held back since %s: %s: %s", held.Since.UTC().Format(time.RFC3339), held.Reason, held.Message)
	if held.Until != nil {
		saw += fmt.Sprintf(" (until %s)", held.Until.UTC().Format(time.RFC3339))
	}
	if e := status.LastError; held.Reason == wxtoken.HeldRefused && e != nil {
		return Line{Fail, name, saw, remedyFor(e.Code, e.Message)}
	}
	mark := Fail
	if held.Reason == wxtoken.HeldMinuteLimit || held.Reason == wxtoken.HeldListFirst {
		mark = Warn // they end by themselves, in minutes
	}
	remedy := "runbook: Renewals are held back"
	switch held.Reason {
	case wxtoken.HeldQuota:
		remedy = remedyFor(45009, "")
	case wxtoken.HeldEmptyAnswers:
		remedy = emptyRemedy + "; " + remedy
	}
	return Line{mark, name, saw, remedy}
}

// emptyRemedy says what to do about answers without a body.
const emptyRemedy = "compare --component-appid and the AppSecret with WeChat's console; --wechat-api-url (WXTOKEN_WECHAT_API_URL) must be WeChat's API"

// permissions looks for accounts that can't be kept, or that granted too little.
func (c *Checker) permissions(ctx context.Context, stream jetstream.Stream) []Line {
	const name = "permissions"
	prefix := "$KV." + events.BucketStatus + "."
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+string(wxtoken.KindAuthorizer)+".>"))
	if err != nil {
		return []Line{skip(name, "the statuses can't be listed%s", because(err))}
	}
	var keys []wxtoken.Key
	for subject := range info.State.Subjects {
		if key, err := wxtoken.ParseKey(strings.TrimPrefix(subject, prefix)); err == nil {
			keys = append(keys, key)
		}
	}
	all := len(keys)
	slices.SortFunc(keys, func(a, b wxtoken.Key) int { return strings.Compare(a.String(), b.String()) })
	keys = keys[:min(all, maxStatuses)]
	why := make([]string, len(keys))
	unread := 0
	var working sync.WaitGroup
	var mu sync.Mutex
	next := 0
	for range readers {
		working.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(keys) {
					return
				}
				status, err := read(ctx, stream, keys[i])
				if err != nil {
					mu.Lock()
					unread++
					mu.Unlock()
				}
				why[i] = lacking(status)
			}
		})
	}
	working.Wait()
	looked := fmt.Sprintf("%d accounts", all)
	if len(keys) < all || unread > 0 {
		looked = fmt.Sprintf("%d of %d accounts looked at", len(keys)-unread, all)
	}
	var named []string
	found := 0
	for i, key := range keys {
		if why[i] != "" {
			if found++; found <= maxNamed {
				named = append(named, key.String()+" ("+why[i]+")")
			}
		}
	}
	if found > 0 {
		if found > maxNamed {
			named = append(named, fmt.Sprintf("and %d more", found-maxNamed))
		}
		return []Line{{Warn, name, fmt.Sprintf("%s, %d lack something: %s", looked, found, strings.Join(named, ", ")),
			"send each merchant the reauthorize_url of its status; where many lack the same, look at 权限集 on WeChat's console; runbook: An authorizer is in state `needs_authorization` or `revoked`"}}
	}
	return []Line{ok(name, "%s, none lacks any", looked)}
}

// lacking says what an account lacks, "" if nothing.
func lacking(s *wxtoken.Status) string {
	if s == nil {
		return ""
	}
	for _, condition := range s.Conditions {
		if condition.Type == "Ready" && condition.Status == "False" && condition.Reason == "NoAPIPermission" {
			return "no API permission"
		}
	}
	if s.State == wxtoken.StateNeedsAuthorization {
		return string(s.State)
	}
	if e := s.LastError; e != nil && (e.Code == 48001 || e.Code == 61007) {
		return fmt.Sprintf("errcode %d on %s", e.Code, e.API)
	}
	return ""
}

// read reads one status; nil when there is none.
func read(ctx context.Context, stream jetstream.Stream, key wxtoken.Key) (*wxtoken.Status, error) {
	m, err := stream.GetLastMsgForSubject(ctx, "$KV."+events.BucketStatus+"."+key.String())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s wxtoken.Status
	if json.Unmarshal(m.Data, &s) != nil {
		return nil, nil // it is written anew at the next renewal
	}
	return &s, nil
}

// joined lists names.
func joined(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
