package refresher

import (
	"fmt"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/store"
	"wxtoken/internal/truth"
	"wxtoken/internal/wechat"
)

// TestAllThatLackAPermissionAreCounted has more accounts lack a permission set than statuses are read, with tokens that
// live and that are dead: all are counted, and only those with another trouble are left for their statuses.
func TestAllThatLackAPermissionAreCounted(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 8, 0, 0, 0, time.UTC)
	found := &tally{}
	for i := range 3 * maxFail {
		key := wxtoken.AuthorizerKey("wxc", fmt.Sprintf("wx%04d", i))
		code := 48001
		switch {
		case i == 0:
			code = 40013
		case i%2 == 0:
			code = 61007
		}
		c, _ := account.Credential{Key: key, RefreshToken: "r", Generation: 1, Revision: 1}.Failed(account.Failure{
			Err: &wechat.Error{API: wechat.APIAuthorizerToken, Code: code}, Now: now,
		})
		expires := now.Add(time.Hour)
		if i%3 == 0 {
			expires = now.Add(-time.Hour)
		}
		found.add(key, &store.Entry{Credential: account.OutlineOf(c), Token: account.NewLife(1, 1, now.Add(-2*time.Hour), expires, now)}, now)
	}
	lacking := found.wrong[truth.PermissionMissing]
	if lacking == nil || lacking.Count != 3*maxFail-1 || lacking.Keys[0] != "authorizer.wxc.wx0001" {
		t.Errorf("counted %+v, want %d", lacking, 3*maxFail-1)
	}
	if len(found.fail) != 1 || len(found.wrong) != 1 || found.retrying != 3*maxFail {
		t.Errorf("left for their statuses: %+v; %v", found.fail, found.wrong)
	}
}

// TestAccountsInNeed has an account authorize that grants no API, and another one lack a refresh token: what is told of them is what their
// statuses say.
func TestAccountsInNeed(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	blank := account.Credential{Key: wxtoken.AuthorizerKey("wxc", "wxa"), Revision: 1}
	found := &tally{}
	add := func(c account.Credential) {
		found.add(c.Key, &store.Entry{Credential: account.OutlineOf(c)}, now)
	}
	add(blank.Authorized(account.Authorization{At: now, CodeDigest: "d", Now: now}))
	sought, _ := blank.ListedWithout(now, now).GaveUp(now)
	add(sought)
	nothing, needed := found.wrong[truth.NoAPIPermission], found.wrong[truth.AuthorizationNeeded]
	if len(found.wrong) != 2 || nothing == nil || nothing.Count != 1 || needed == nil || needed.Count != 1 || found.needy != 2 {
		t.Errorf("told %v, %d in need", found.wrong, found.needy)
	}
}
