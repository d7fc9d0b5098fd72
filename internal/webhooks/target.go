package webhooks

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/hook"
	"wxtoken/internal/services"
)

// target is one webhook of the services file. It is never changed.
type target struct {
	service *services.Service
	hook    services.Webhook
	signer  *hook.Signer
	request *http.Request // the template for all deliveries
	host    string        // of the URL: the only part that may be shown
	kinds   []events.Kind // narrowed to the service's accounts
	filters []string      // of the durable consumer: they don't overlap, and may cover more than kinds
	replies []string      // the subjects of requests for replies: they cover exactly kinds
}

func newTarget(service *services.Service, wanted services.Webhook) *target {
	t := &target{
		service: service, hook: wanted, signer: hook.NewSigner(wanted.Secret),
		request: &http.Request{Method: http.MethodPost, URL: &url.URL{}},
	}
	if u, err := url.Parse(wanted.URL); err == nil { // always so: the services file has been validated
		t.request.URL, t.host = u, u.Host
	}
	for _, kind := range wanted.Messages {
		t.kinds = append(t.kinds, narrow(service, kind)...)
	}
	for _, kind := range t.kinds {
		t.filters = append(t.filters, kind.Filters()...)
		if wanted.Reply {
			t.replies = append(t.replies, kind.ReplyFilters()...)
		}
	}
	t.filters, t.replies = disjoint(t.filters), distinct(t.replies)
	return t
}

// narrow replaces "all accounts" with the accounts that a service names one by one, so that no
// messages of others come.
func narrow(service *services.Service, kind events.Kind) []events.Kind {
	appids, all := service.Reach(kind.Component)
	if all || kind.AppID != "*" && slices.Contains(appids, kind.AppID) {
		return []events.Kind{kind}
	}
	if kind.AppID != "*" {
		return nil
	}
	var kinds []events.Kind
	if kind.MsgType == events.MsgTypeNotice && service.Knows(wxtoken.ComponentKey(kind.Component), "") {
		kind.AppID = "" // the notices about no account
		kinds = append(kinds, kind)
	}
	for _, appid := range appids {
		kind.AppID = appid
		kinds = append(kinds, kind)
	}
	return kinds
}

// wants reports whether a message is for the webhook; known is false while that is not known yet.
func (t *target) wants(kind events.Kind, ref func(wxtoken.Key) (string, bool)) (wanted, known bool) {
	if !slices.ContainsFunc(t.kinds, func(k events.Kind) bool { return k.Includes(kind) }) {
		return false, true
	}
	key := wxtoken.AuthorizerKey(kind.Component, kind.AppID)
	if kind.AppID == "" { // a notice about no account
		key = wxtoken.ComponentKey(kind.Component)
	}
	if t.service.Knows(key, "") {
		return true, true
	}
	if ref == nil || kind.AppID == "" {
		return false, true
	}
	text, known := ref(key)
	return t.service.Knows(key, text), known
}

// disjoint returns filters that cover what these cover, and more where two overlap: a consumer
// can't have overlapping filters.
func disjoint(filters []string) []string {
	out := distinct(filters)
	for again := true; again; {
		again = false
		for i := range out {
			for j := i + 1; j < len(out) && !again; j++ {
				if both, overlap := union(out[i], out[j]); overlap {
					out = distinct(append(slices.Delete(slices.Delete(out, j, j+1), i, i+1), both))
					again = true
				}
			}
			if again {
				break
			}
		}
	}
	return out
}

// union returns the narrowest filter that covers a and b, if they overlap.
func union(a, b string) (both string, overlap bool) {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	var out []string
	for i := 0; i < len(x) && i < len(y); i++ {
		switch {
		case x[i] == ">" || y[i] == ">":
			return strings.Join(append(out, ">"), "."), true
		case x[i] == y[i]:
			out = append(out, x[i])
		case x[i] == "*" || y[i] == "*":
			out = append(out, "*")
		default:
			return "", false
		}
	}
	return strings.Join(out, "."), len(x) == len(y)
}

func distinct(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}
