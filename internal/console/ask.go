package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
)

// askWithin bounds the wait for a refresher: a page without the answer is better than a late one.
const askWithin = 2 * time.Second

// ask sends a request to the refreshers, without the name of a person.
func (c *Console) ask(ctx context.Context, subject string, question, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	data, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("ask %s: %w", subject, err)
	}
	m := nats.NewMsg(subject)
	m.Data = data
	return c.request(ctx, m, answer)
}

// request sends a request to the refreshers. Its error is an *events.RequestError, which says in both languages
// why there is no answer.
func (c *Console) request(ctx context.Context, m *nats.Msg, answer any) error {
	none := func(why lang.Text) error { return events.Refused(http.StatusServiceUnavailable, why) }
	reply, err := c.cfg.NATS.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return none(lang.T("no refresher answers", "没有 refresher 应答"))
	case err != nil && !c.cfg.NATS.IsConnected():
		return none(lang.T("NATS does not answer", "NATS 没有应答"))
	case errors.Is(err, context.DeadlineExceeded):
		return none(lang.T("no refresher answered in time", "refresher 没有及时应答"))
	case err != nil:
		return none(lang.T("no answer from the refreshers: %v", "没有得到 refresher 的应答：%v", err))
	}
	if code, err := strconv.Atoi(reply.Header.Get(micro.ErrorCodeHeader)); err == nil {
		refused := events.Refusal{Error: events.RequestError{Description: reply.Header.Get(micro.ErrorHeader)}}
		_ = json.Unmarshal(reply.Data, &refused) // the header says the same in English
		refused.Error.Code = code
		return &refused.Error
	}
	if err := json.Unmarshal(reply.Data, answer); err != nil {
		return events.Refused(http.StatusBadGateway, lang.T("the refresher's answer can't be read", "无法解析 refresher 的应答"))
	}
	return nil
}

// APICall is how often a call was made today.
type APICall struct {
	API         string     `json:"api"`
	Calls       int        `json:"calls"` // by all refreshers, today in China
	PausedUntil *time.Time `json:"paused_until,omitempty"`
	// Told is what WeChat said when it was last asked; nil: it was never asked, and the limit is
	// unknown.
	Told *events.QuotaTold `json:"told,omitempty"`
}

// callsMaxAge is how long the calls of a component are shown without asking again.
const callsMaxAge = 5 * time.Second

// callsCache caches the calls of each component.
type callsCache struct {
	mu   sync.Mutex
	kept map[string]*cache[[]APICall]
}

// of returns the cache of a component.
func (c *callsCache) of(component string) *cache[[]APICall] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		c.kept = map[string]*cache[[]APICall]{}
	}
	if c.kept[component] == nil {
		c.kept[component] = &cache[[]APICall]{}
	}
	return c.kept[component]
}

// forget drops the calls of a component, so that they are asked for anew.
func (c *callsCache) forget(component string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.kept, component)
}

// callsOf returns the calls that were made for a component today, as the refreshers count them; none
// where no refresher answers.
func (c *Console) callsOf(ctx context.Context, q *Request, component string) []APICall {
	calls, _ := c.calls.of(component).get(q.Now, callsMaxAge, func() ([]APICall, error) {
		var answer events.QuotaAnswer
		err := c.ask(ctx, events.SubjectQuota, events.QuotaRequest{Component: component, Own: true}, &answer)
		out := []APICall{}
		for _, api := range answer.APIs {
			if api.Calls > 0 || api.PausedUntil != nil {
				out = append(out, APICall{API: api.API, Calls: api.Calls, PausedUntil: api.PausedUntil, Told: api.Told})
			}
		}
		slices.SortStableFunc(out, func(a, b APICall) int { return b.Calls - a.Calls })
		return out, err
	})
	return calls
}
