package links

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
)

// linkShown is how many characters of a link's id are shown: enough to tell links apart, not to
// open one.
const linkShown = 8

// maxListed bounds an answer, in bytes: refs may be long, and a server's max_payload may be 256
// KiB.
const maxListed = 128 << 10

// defaultList is how many links are listed by default.
const defaultList = 100

// List returns the links that were made or changed last: the answer to wxtoken.connect.list.
func (l *Links) List(ctx context.Context, q events.ConnectList) (events.ConnectListed, error) {
	if q.Limit == 0 {
		q.Limit = defaultList
	}
	if q.Limit < 1 || q.Limit > events.MaxConnectList {
		return events.ConnectListed{}, events.BadRequest(lang.T("limit: want 1 to %d", "limit：应为 1 到 %d", events.MaxConnectList))
	}
	if _, ok := l.Gate(q.Component); q.Component != "" && !ok {
		return events.ConnectListed{}, events.UnknownComponent(q.Component)
	}
	wanted := func(c store.Connect) bool { return q.Component == "" || c.Component == q.Component }
	all, more, err := l.Store().Connects(ctx, l.Now(), q.Limit, wanted)
	if err != nil {
		return events.ConnectListed{}, err
	}
	listed := events.ConnectListed{Links: []events.ConnectSeen{}, More: more}
	size := 0
	for _, c := range all {
		one := seen(c)
		text, err := json.Marshal(one)
		if err != nil {
			return events.ConnectListed{}, fmt.Errorf("encode link: %w", err)
		}
		if size += len(text); size > maxListed {
			listed.More = true
			break
		}
		listed.Links = append(listed.Links, one)
	}
	return listed, nil
}

// seen returns what may be shown of a link.
func seen(c store.Connect) events.ConnectSeen {
	s := events.ConnectSeen{
		Link: c.ID[:min(len(c.ID), linkShown)], Component: c.Component, Ref: c.Ref, BizAppID: c.BizAppID, State: c.State,
		MadeAt: c.MadeAt, OpenedAt: c.OpenedAt, CodeAt: c.CodeAt, EndedAt: c.EndedAt, ExpiresAt: c.ExpiresAt,
		Authorizer: c.Authorizer, Reason: c.Reason,
	}
	if to, err := url.Parse(c.Return); err == nil {
		s.ReturnHost = to.Host // the rest may contain the caller's secrets
	}
	return s
}
