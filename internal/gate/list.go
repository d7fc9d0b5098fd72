package gate

import (
	"context"
	"fmt"
	"time"

	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// listIsRead says why a renewal waits whose token is long dead.
var listIsRead = lang.T("waiting for WeChat's list", "等待读取微信的授权方列表")

const (
	// listPatience is how long the accounts of a component wait for WeChat's list before they are
	// renewed with what is stored, and listRate how many accounts a second are compared with it at
	// the least.
	listPatience = 2 * time.Minute
	listRate     = 200
	// clockSlack is how far in the future a reading of the list may lie: clocks differ. One beyond
	// it says nothing.
	clockSlack = 5 * time.Minute
)

// Unlisted reports whether WeChat's list is to be read before an account is renewed: its token is
// long dead, and the list was not read since. A mark that is old itself may have come out of the
// same backup.
func (g *Gate) Unlisted(call Call) bool {
	now := g.p.Now()
	if call.API != wechat.APIAuthorizerToken || !call.Last.LongDead(now) {
		return false
	}
	read := g.Shared().ListedAt
	return read.Before(call.Last.ExpiresAt()) || now.Sub(read) > g.p.ListGood || read.Sub(now) > clockSlack
}

// listFirst reports whether a call has to wait for WeChat's list, and has that read if it does.
// Should the list fail while other calls work, none waits for it for ever. A mark that has changed
// since they wait and is no good either, out of a backup say, is a new reason to read it.
func (g *Gate) listFirst(ctx context.Context, call Call) bool {
	if !g.Unlisted(call) {
		return false
	}
	now, read := g.p.Now(), g.Shared().ListedAt
	g.mu.Lock()
	since, first := g.waiting, g.waiting.IsZero() || !g.unread.Equal(read)
	if first {
		g.waiting, g.unread = now, read
	}
	g.mu.Unlock()
	if first {
		g.wantList(ctx, read)
		return true
	}
	return now.Sub(since) < listPatience+g.ListTakes()
}

// ListTakes returns how long the accounts of the list are compared with the store, at the longest.
func (g *Gate) ListTakes() time.Duration { return time.Duration(g.keys()) * time.Second / listRate }

// wantList asks for WeChat's list, which was read last at the given time: once for all accounts of
// a component that wait for it, by the mark that listFirst takes under the lock; and once for all
// refreshers, by the id of the message, which is the same until the list was read.
func (g *Gate) wantList(ctx context.Context, read time.Time) {
	g.p.Log.Warn().Str("component", g.appid).Msg("tokens long dead, reading WeChat's list before any renewal")
	id := fmt.Sprintf("%s/%d/list", g.appid, read.UnixNano())
	if err := g.p.Store().MakeReconcileDue(ctx, g.appid, id); err != nil {
		g.WantNoList() // the next one asks again
		g.p.Log.Warn().Err(err).Str("component", g.appid).Msg("failed to ask for WeChat's list")
	}
}

// WantNoList notes that no account waits for WeChat's list any more. The sweep says so, which looks
// at all of them: the list may have been read by another refresher, or the accounts be gone.
func (g *Gate) WantNoList() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = time.Time{}
}

// NoteList notes for all refreshers that WeChat's list was read whole at the given time, and taken
// over.
func (g *Gate) NoteList(ctx context.Context, at time.Time) {
	err := g.p.Store().UpdateQuota(ctx, g.appid, func(q *store.Quota) bool {
		q.ListedAt = at.UTC()
		return true
	})
	if err != nil { // it need not be read again for that: those who wait for it don't wait for ever
		g.p.Log.Warn().Err(err).Str("component", g.appid).Msg("failed to note that WeChat's list was read")
	}
}
