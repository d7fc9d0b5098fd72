package refresher

import (
	"context"
	"errors"

	"wxtoken/client"
	"wxtoken/internal/account"
)

// longUnrenewed reports whether the stored token of key is long dead: then WeChat's list, read just
// now, knows the newer refresh token. The token is read after the credential, so that a renewal in
// between is either seen here or makes the credential's compare-and-set fail.
func (r *Refresher) longUnrenewed(ctx context.Context, key wxtoken.Key) (bool, error) {
	t, _, err := r.store.Token(ctx, key)
	if errors.Is(err, wxtoken.ErrBadToken) {
		return false, nil
	}
	return account.LifeOf(t).LongDead(r.now()), err
}
