package wxtoken_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/client"
)

// TestClientChangedSince asks, from each revision that there was, for what changed since: all of it, nothing else, in order, however few
// keys are asked for at a time. Then the bucket is made anew, and counts from 1.
func TestClientChangedSince(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	start := time.Now().UTC()
	var later atomic.Int64
	client := p.client(wxtoken.Config{Accounts: true, Now: func() time.Time { return start.Add(time.Duration(later.Load())) }})
	tokens, statuses := map[wxtoken.Key]uint64{}, map[wxtoken.Key]uint64{}
	random := rand.New(rand.NewPCG(1, 2))
	const keys, rounds = 12, 80
	key := func() wxtoken.Key {
		return wxtoken.AuthorizerKey(shop.Component, fmt.Sprintf("wx%016d", random.IntN(keys)))
	}
	var end, said uint64
	for n := range rounds {
		k := key()
		token := tokenOf(k, uint64(n+1), start)
		token.Previous = &wxtoken.Previous{Value: wxtoken.NewSecret("before"), ValidUntil: start.Add(5 * time.Minute)}
		end = p.putToken(token)
		tokens[k] = end
		k = key()
		said = p.say(k, wxtoken.StateActive, fmt.Sprint(n))
		statuses[k] = said
	}
	gone := key()
	p.forget(gone)
	delete(statuses, gone)
	said++
	eventually(t, "all of it", func() bool {
		c := client.ChangedSince(end, said, keys)
		return c.TokensRevision == end && c.StatusRevision == said
	})
	later.Store(int64(6 * time.Minute)) // the tokens before are forgotten, which is no change
	eventually(t, "the token before forgotten", func() bool {
		token, err := client.Token(k0(tokens))
		return err == nil && token.Previous == nil
	})
	for mark := range end + 1 {
		checkSince(t, client, tokens, statuses, mark, min(mark, said), 1+int(mark)%5)
	}
	if changes := client.ChangedSince(end+10, said+10, keys); len(changes.Tokens)+len(changes.Accounts) > 0 || changes.TokensRevision != end {
		t.Errorf("beyond what there is: %+v", changes)
	}

	if err := p.js.DeleteStream(t.Context(), "KV_tokens"); err != nil {
		t.Fatal(err)
	}
	p.createBucket()
	anew := map[wxtoken.Key]uint64{hotel: p.put(hotel, 1), shop: p.put(shop, 1)}
	eventually(t, "the new bucket", func() bool { return client.ChangedSince(0, said, keys).TokensRevision == 2 })
	for mark := range uint64(3) {
		checkSince(t, client, anew, statuses, mark, said, keys)
	}
	client.Close()
	if changes := client.ChangedSince(0, 0, keys); len(changes.Tokens)+len(changes.Accounts) > 0 {
		t.Errorf("of a client that is closed: %+v", changes)
	}
	few := p.client(wxtoken.Config{Keys: []wxtoken.Key{shop, hotel}, Accounts: true})
	if changes := few.ChangedSince(0, 0, keys); len(changes.Tokens)+len(changes.Accounts) > 0 {
		t.Errorf("of a client of two keys: %+v", changes)
	}
}

// k0 is any key of those that have something.
func k0(of map[wxtoken.Key]uint64) wxtoken.Key {
	for key := range of {
		return key
	}
	return wxtoken.Key{}
}

// checkSince compares what changed since two revisions with what did.
func checkSince(t *testing.T, client *wxtoken.Client, tokens, statuses map[wxtoken.Key]uint64, token, status uint64, most int) {
	t.Helper()
	wanted := func(of map[wxtoken.Key]uint64, since uint64) (keys []wxtoken.Key) {
		for key, at := range of {
			if at > since {
				keys = append(keys, key)
			}
		}
		slices.SortFunc(keys, func(a, b wxtoken.Key) int { return int(of[a]) - int(of[b]) })
		return keys
	}
	var gotTokens, gotAccounts []wxtoken.Key
	at, said := token, status
	for {
		changes := client.ChangedSince(at, said, most)
		if len(changes.Tokens) > most || len(changes.Accounts) > most {
			t.Fatalf("more than %d: %+v", most, changes)
		}
		gotTokens, gotAccounts = append(gotTokens, changes.Tokens...), append(gotAccounts, changes.Accounts...)
		at, said = changes.TokensRevision, changes.StatusRevision
		if len(changes.Tokens) < most && len(changes.Accounts) < most {
			break
		}
	}
	if want := wanted(tokens, token); !slices.Equal(gotTokens, want) {
		t.Errorf("tokens since %d: %v, want %v", token, gotTokens, want)
	}
	if want := wanted(statuses, status); !slices.Equal(gotAccounts, want) {
		t.Errorf("accounts since %d: %v, want %v", status, gotAccounts, want)
	}
	for _, key := range gotAccounts {
		known, err := client.Account(key)
		if err != nil || client.Ref(key) != known.Authorizer.Ref {
			t.Errorf("ref of %s: %q, want that of %+v (%v)", key, client.Ref(key), known, err)
		}
	}
	if ref := client.Ref(wxtoken.ComponentKey("wx_none")); ref != "" {
		t.Errorf("a ref of what there is not: %q", ref)
	}
}
