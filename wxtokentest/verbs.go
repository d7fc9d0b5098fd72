package wxtokentest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

// Token returns the token of key in the bucket, expired or not.
func (k *Keeper) Token(key wxtoken.Key) wxtoken.Token {
	k.t.Helper()
	token, ok, err := k.store.Token(context.Background(), key)
	if err != nil || !ok {
		k.t.Fatalf("the bucket has no token of %s: %v", key, err)
	}
	return token
}

// Authorize lets a merchant authorize Component, for the first time or again after Revoke, and
// returns the token. appid is 1 to 64 of A-Z a-z 0-9 _ -.
func (k *Keeper) Authorize(appid string) wxtoken.Token {
	k.t.Helper()
	key := wxtoken.AuthorizerKey(Component.Component, appid)
	revision := k.revision(key)
	if err := k.WeChat.Authorize(key.Component, appid); err != nil {
		k.t.Fatalf("%v", err)
	}
	return k.until(key, "a token of "+key.String(), func(token wxtoken.Token, ok bool) bool {
		return ok && token.Revision > revision
	})
}

// Renew makes the refresher fetch the next token of key, as it does when two thirds of a token's
// life are over, and returns it. WeChat accepts the previous token for another 5 minutes. It also
// renews a token after Expire: WeChat issues tokens again. (A jsapi_ticket or wx_card ticket keeps
// its value until it expires, as WeChat's do.)
//
// The new token is less than a minute old, so a report of it is answered with too_soon.
func (k *Keeper) Renew(key wxtoken.Key) wxtoken.Token {
	k.t.Helper()
	k.WeChat.Heal()
	before := k.Token(key)
	due := events.Due{Key: key, Generation: before.Generation, Reason: events.ReasonAsked}
	if err := k.store.MakeDue(context.Background(), due, ""); err != nil {
		k.t.Fatalf("renew %s: %v", key, err)
	}
	return k.until(key, "the next token of "+key.String(), func(token wxtoken.Token, ok bool) bool {
		return ok && token.Generation > before.Generation && time.Now().Before(token.ExpiresAt)
	})
}

// Reject makes WeChat refuse all present tokens of key, as when another system fetched one: a call
// with one would get errcode 40001, see Accepts. wxtoken learns of it when a service reports the
// token ([wxtoken.Client.Replace]), and then replaces it. key is that of a component or an
// authorizer.
func (k *Keeper) Reject(key wxtoken.Key) {
	k.t.Helper()
	if key.Kind != wxtoken.KindComponent && key.Kind != wxtoken.KindAuthorizer {
		k.t.Fatalf("reject %s: WeChat is not known to refuse a ticket before its end", key)
	}
	if err := k.WeChat.Invalidate(key.Component, key.Authorizer); err != nil {
		k.t.Fatalf("%v", err)
	}
}

// Accepts reports whether WeChat would accept token now. It is for the part of a test that plays
// WeChat's API towards the service: answer {"errcode":40001} if it is false.
func (k *Keeper) Accepts(token wxtoken.Token) bool {
	key, value := token.Key, token.Value.Reveal()
	switch key.Kind {
	case wxtoken.KindJSAPITicket:
		return k.WeChat.AcceptsAccountTicket(key.Component, key.Authorizer, "jsapi", value)
	case wxtoken.KindWxCardTicket:
		return k.WeChat.AcceptsAccountTicket(key.Component, key.Authorizer, "wx_card", value)
	}
	return k.WeChat.Accepts(key.Component, key.Authorizer, value)
}

// Expire makes the token of key expire without a successor: WeChat answers every try to renew it
// with "busy", its expires_at is past, and its status is renewing_failed. That lasts until Renew,
// or until WeChat.Heal and the next try.
func (k *Keeper) Expire(key wxtoken.Key) {
	k.t.Helper()
	fault := wechatsim.Fault{Component: key.Component, Authorizer: key.Authorizer, Mode: wechatsim.FaultBusy}
	if key.Kind == wxtoken.KindComponent {
		fault.API = "api_component_token"
	}
	if err := k.WeChat.Fail(fault); err != nil {
		k.t.Fatalf("expire %s: %v", key, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Stored as the refresher stores a renewal, with a schedule: so the refresher tries to renew it
	// at once, and fails.
	if err := await(ctx, func(ctx context.Context) error { return k.expire(ctx, key) }); err != nil {
		k.t.Fatalf("expire %s: %v", key, err)
	}
	k.untilState(key, wxtoken.StateRenewingFailed)
}

func (k *Keeper) expire(ctx context.Context, key wxtoken.Key) error {
	token, ok, err := k.store.Token(ctx, key)
	if err != nil || !ok {
		return fmt.Errorf("the bucket has no token: %v", err)
	}
	credential, err := k.store.Credential(ctx, key)
	if err != nil {
		return err
	}
	if credential.Claim != nil {
		return errors.New("it is being renewed")
	}
	now := time.Now().UTC()
	token.ObtainedAt, token.RenewAt, token.ExpiresAt = now.Add(-2*time.Hour), now.Add(-time.Hour), now.Add(-time.Second)
	token.Previous = nil
	_, err = k.store.Commit(ctx, credential, token)
	return err
}

// Revoke lets a merchant cancel the authorization: the token and the tickets are removed, and the
// status is revoked. key is that of an authorizer.
func (k *Keeper) Revoke(key wxtoken.Key) {
	k.t.Helper()
	if key.Kind != wxtoken.KindAuthorizer {
		k.t.Fatalf("revoke %s: only a merchant, kind authorizer, can cancel", key)
	}
	if err := k.WeChat.Cancel(key.Component, key.Authorizer); err != nil {
		k.t.Fatalf("%v", err)
	}
	for _, key := range keysOf(key) {
		k.until(key, "the end of "+key.String(), func(_ wxtoken.Token, ok bool) bool { return !ok })
	}
	k.untilState(key, wxtoken.StateRevoked)
}

// Say lets a user send a text to the account of key, and returns the text with which a service
// replied on wechat.reply.>, "" if none did. The message is encrypted and goes through ingest,
// which waits at most 4 seconds for services.
func (k *Keeper) Say(key wxtoken.Key, text string) (reply string) {
	k.t.Helper()
	k.talking.Lock()
	defer k.talking.Unlock()
	seen := len(k.WeChat.History())
	if err := k.WeChat.PushMessage(key.Component, key.Authorizer, wechatsim.Message{Content: text}); err != nil {
		k.t.Fatalf("%v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := await(ctx, func(ctx context.Context) error {
		for _, e := range k.WeChat.History()[seen:] {
			if e.Kind == wechatsim.EntryPushAnswer && e.Authorizer == key.Authorizer && e.InfoType == "text" {
				reply = e.Content
				return nil
			}
		}
		return errors.New("no answer to the message yet")
	})
	if err != nil {
		k.t.Fatalf("%v", err)
	}
	return reply
}

// revision returns the revision of the newest record of key, or deletion, in the bucket.
func (k *Keeper) revision(key wxtoken.Key) uint64 {
	m, err := k.tokens.GetLastMsgForSubject(context.Background(), events.TokenSubject(key))
	if err != nil {
		return 0 // there is none
	}
	return m.Sequence
}

// awaitToken waits for a token of the given generation or a later one.
func (k *Keeper) awaitToken(ctx context.Context, key wxtoken.Key, generation uint64) error {
	return await(ctx, func(ctx context.Context) error {
		token, ok, err := k.store.Token(ctx, key)
		if err != nil || !ok || token.Generation < generation {
			return fmt.Errorf("no token of %s yet: %v", key, err)
		}
		return nil
	})
}

// until waits until wanted returns true for the token of key in the bucket; its second argument is
// false if there is none. what names it in a failure.
func (k *Keeper) until(key wxtoken.Key, what string, wanted func(wxtoken.Token, bool) bool) (token wxtoken.Token) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := await(ctx, func(ctx context.Context) (err error) {
		var ok bool
		if token, ok, err = k.store.Token(ctx, key); err == nil && !wanted(token, ok) {
			err = fmt.Errorf("the bucket has generation %d", token.Generation)
		}
		return err
	})
	if err != nil {
		k.t.Fatalf("wait for %s: %v", what, err)
	}
	return token
}

// untilState waits until the status of key has a state.
func (k *Keeper) untilState(key wxtoken.Key, want wxtoken.State) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reached := func(ctx context.Context) error { return k.checkState(ctx, key, want) }
	if err := await(ctx, reached); err != nil {
		k.t.Fatalf("wait for the status of %s: %v", key, err)
	}
}

// checkState returns an error unless the status of key, as a service reads it, has a state.
func (k *Keeper) checkState(ctx context.Context, key wxtoken.Key, want wxtoken.State) error {
	status, err := k.view.Status(ctx, key)
	switch {
	case err != nil:
		return err
	case status.State != want:
		return fmt.Errorf("state %q, want %q", status.State, want)
	case want == wxtoken.StateRenewingFailed && status.LastError == nil:
		return errors.New("no renewal failed yet") // the client knows before that the token is dead
	}
	return nil
}
