package refresher

import (
	"context"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"wxtoken/internal/account"
	"wxtoken/internal/gate"
	"wxtoken/internal/wechat"
)

// lister reads WeChat's list of authorizers (api_get_authorizer_list).
type lister struct {
	wx       *wechat.Client
	log      zerolog.Logger
	stopping func() bool
}

// read reads WeChat's list, oldest authorization first. With an error it returns what was read
// until then. WeChat promises no order, so an account may be on two pages, and another on none:
// that one is found the next time.
//
// All pages are in memory before the first entry is taken over: 100,000 accounts are 200 calls and
// some 20 MB (docs/adr/0021). That buys the order: the list has none that is promised, and the
// merchant who authorized first has waited longest.
func (l lister) read(ctx context.Context, c *component) (listed []wechat.ListedAuthorizer, total int, err error) {
	seen := map[string]bool{}
	// A page that is full of news may have a next one, whatever total_count says.
	// An offset goes on by what was asked for, not by what came: a page with entries that can't be
	// read is shorter than it was.
	for offset, full := 0, true; offset < min(total, maxListed) || full; offset += listPage {
		var page wechat.AuthorizerPage
		if page, err = l.page(ctx, c, offset); err != nil {
			break
		}
		before := len(listed)
		for _, entry := range page.List {
			if !seen[entry.AppID] {
				seen[entry.AppID] = true
				listed = append(listed, entry)
			}
		}
		total, full = max(page.Total, len(listed)), len(listed)-before+page.Odd == listPage
		if page.Odd > 0 {
			l.log.Warn().Str("component", c.appid).Int("entries", page.Odd).Msg("WeChat's list has entries that can't be read")
		}
		// Nothing can lie behind an empty page, whatever total_count says (TestBrokenLists).
		if len(page.List) == 0 {
			break
		}
	}
	slices.SortStableFunc(listed, func(a, b wechat.ListedAuthorizer) int { return a.AuthTime.Compare(b.AuthTime) })
	return listed, total, err
}

// page asks for one page of WeChat's list, a few times if need be: of a long list some page always
// fails.
//
// The turn is got for each try anew. A list that is read again and again while WeChat is slow must
// not take the calls that renewals wait for.
func (l lister) page(ctx context.Context, c *component, offset int) (page wechat.AuthorizerPage, err error) {
	for try := range listTries {
		turn, held := c.gate.Admit(ctx, gate.Call{API: wechat.APIAuthorizerList})
		if held != nil {
			return page, held // not made: that is no failure to try again after
		}
		err = turn.Make(ctx, func(token string) (err error) {
			page, err = l.wx.AuthorizerList(ctx, token, c.appid, offset, listPage)
			return err
		})
		if err == nil || wechat.Judge(err) != wechat.Retry || l.stopping() {
			break
		}
		select {
		case <-ctx.Done():
			return page, err
		case <-time.After(jittered(account.RetryAfter(try + 1))):
		}
	}
	return page, err
}
