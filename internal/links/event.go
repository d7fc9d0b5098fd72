package links

import (
	"context"
	"errors"

	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
)

// Of returns the link through which an authorization event came, nil if there is none.
func (l *Links) Of(ctx context.Context, a events.Auth) (*store.Connect, error) {
	var c store.Connect
	var ok bool
	var err error
	if a.Connect != "" {
		c, ok, err = l.Store().Connect(ctx, a.Connect)
	} else {
		c, ok, err = l.Store().ConnectOf(ctx, a.PreAuthCode)
	}
	if errors.Is(err, store.ErrUnreadable) || err == nil && (!ok || c.Component != a.Component) {
		return nil, nil // only the ref is lost
	}
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// For returns the link if it can be the account's, otherwise nil: a link is for one authorization,
// and may be limited to one account. An authorization by another account is still valid, but does
// not get the link's ref.
func (l *Links) For(ctx context.Context, link *store.Connect, account string) (*store.Connect, error) {
	switch {
	case link == nil || link.Authorizer != "" && link.Authorizer != account:
		return nil, nil
	case ForAnother(link, account):
		l.Log.Warn().Str("component", link.Component).Str("connect", link.ID[:8]).Str("account", account).
			Str("biz_appid", link.BizAppID).Msg("another account was authorized than the link is for")
		return nil, l.Fail(ctx, link, "", "another_account")
	}
	return link, nil
}

// ForAnother reports whether a link is limited to another account. WeChat's page enforces that, but
// a redirect's code may come from anywhere.
func ForAnother(link *store.Connect, account string) bool {
	return link != nil && link.BizAppID != "" && link.BizAppID != account
}

// Claim claims a link for an event's code, so that the codes of redirect and push are not both
// exchanged. It returns an error while another claim is in force, unless the same event made it in
// an earlier delivery.
func (l *Links) Claim(ctx context.Context, link *store.Connect, m events.Msg) error {
	if link == nil {
		return nil
	}
	now := l.Now()
	purpose := account.ForAuth(m.Sequence)
	if link.Claim.KeepsOff(purpose, m.Redelivered, now) {
		return events.Later(account.ClaimedDelay, lang.Error(lang.T("exchange code: the other code of the link is being exchanged", "换取令牌：正在用该链接的另一个授权码换取"), nil))
	}
	link.Claim = &account.Claim{By: l.ID, For: purpose, Until: now.Add(account.ClaimFor).UTC()}
	saved, err := l.Store().SaveConnect(ctx, *link, now)
	if err != nil {
		return err
	}
	*link = saved
	return nil
}

// Ref returns the ref for a credential that was authorized through link. conflict reports that the
// account keeps another ref than the link's.
func Ref(cred account.Credential, link *store.Connect) (ref string, conflict bool) {
	if link == nil {
		return cred.Ref, false
	}
	return cred.RefThrough(link.Ref, link.Move)
}

// Finish records on a link that its authorization has its tokens. cred is the stored credential.
func (l *Links) Finish(ctx context.Context, link *store.Connect, cred account.Credential) error {
	state := events.ConnectAuthorized
	if link != nil && link.Ref != "" && cred.Ref != link.Ref {
		state = events.ConnectConflict
	}
	return l.end(ctx, link, state, cred.Key.Authorizer, "")
}

// Fail records on a link why its authorization failed; authorizer is "" if the account is not
// known.
func (l *Links) Fail(ctx context.Context, link *store.Connect, authorizer, reason string) error {
	return l.end(ctx, link, events.ConnectFailed, authorizer, reason)
}

// end records on a link how its authorization ended.
func (l *Links) end(ctx context.Context, link *store.Connect, state, authorizer, reason string) error {
	if link == nil {
		return nil
	}
	return l.Store().UpdateConnect(ctx, link.ID, l.Now(), func(c *store.Connect) bool {
		if c.State == state && c.Authorizer == authorizer && c.Reason == reason || c.Authorizer != "" {
			return false // unchanged, or ended already by an event that knew the account
		}
		c.State, c.Authorizer, c.Reason, c.EndedAt, c.Claim = state, authorizer, reason, l.Now().UTC(), nil
		return true
	})
}

// NoteSpent records on a link that its redirect's code had been used before, and ends the claim.
func (l *Links) NoteSpent(ctx context.Context, link *store.Connect) error {
	now := l.Now()
	return l.Store().UpdateConnect(ctx, link.ID, now, func(c *store.Connect) bool {
		if !c.SpentAt.IsZero() || c.CodeDigest != link.CodeDigest {
			return false
		}
		c.SpentAt, c.Claim = now.UTC(), nil // the push may have another code
		return true
	})
}
