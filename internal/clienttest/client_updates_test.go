package wxtoken_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"wxtoken/client"
)

func TestClientUpdates(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	p.put(hotel, 1)
	client := p.client(wxtoken.Config{})
	step := 0
	for token, err := range client.Updates(t.Context(), shop) {
		if token.Key != shop {
			t.Fatalf("an update of %s, which was not asked for", token.Key)
		}
		switch step++; step {
		case 1:
			if err != nil || token.Generation != 1 {
				t.Fatalf("at first: %v, %v; want what is there", token, err)
			}
			p.put(hotel, 2)
			p.put(shop, 2)
		case 2:
			if err != nil || token.Generation != 2 {
				t.Fatalf("then: %v, %v; want the second token", token, err)
			}
			p.mark(shop, "DEL")
		case 3:
			wantError(t, err, wxtoken.ErrRevoked)
			if token != (wxtoken.Token{Key: shop}) {
				t.Fatalf("Token = %v beside an error, want its key alone", token)
			}
			p.put(shop, 3)
		default:
			if err != nil || token.Generation != 3 {
				t.Fatalf("at last: %v, %v; want the third token", token, err)
			}
			return
		}
	}
	t.Fatal("the updates ended by themselves")
}

// A slow receiver holds up no other and misses only what is out of date anyway.
func TestClientUpdatesSlowReceiver(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	var seen []uint64
	for token, err := range client.Updates(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, token.Generation)
		if token.Generation == 20 {
			break
		}
		for n := uint64(2); n <= 20; n++ {
			p.put(shop, n)
		}
		eventually(t, "the view goes on without the receiver", has(client, shop, 20))
	}
	if !slices.Equal(seen, []uint64{1, 20}) {
		t.Errorf("generations %v, want 1 and 20", seen)
	}
}

func TestClientUpdatesEnd(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range client.Updates(ctx) {
		cancel()
	}
	for range client.Updates(t.Context()) {
		client.Close()
	}
	for token := range client.Updates(t.Context()) {
		t.Errorf("update %v after Close", token)
	}
}

func TestClientNext(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	old, err := client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = client.Next(ctx, old)
	wantError(t, err, context.DeadlineExceeded, shop.String(), "old one")
	_, err = client.Next(ctx, wxtoken.Token{Key: hotel})
	wantError(t, err, context.DeadlineExceeded, hotel.String())
	wantError(t, err, wxtoken.ErrNoToken)

	next := func(old wxtoken.Token) <-chan any {
		answer := make(chan any, 1)
		go func() {
			token, err := client.Next(t.Context(), old)
			if err != nil {
				answer <- err
				return
			}
			answer <- token.Generation
		}()
		return answer
	}
	first := next(wxtoken.Token{Key: hotel})
	renewed := next(old)
	p.put(hotel, 1)
	p.putToken(tokenOf(shop, 1, time.Now().Add(time.Minute))) // the same value, written again
	p.put(shop, 2)
	if got := <-first; got != uint64(1) {
		t.Errorf("Next of a new authorizer = %v, want generation 1", got)
	}
	if got := <-renewed; got != uint64(2) {
		t.Errorf("Next = %v, want generation 2", got)
	}
	if got := <-next(old); got != uint64(2) {
		t.Errorf("Next with the successor there = %v, want it at once", got)
	}

	current, err := client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}
	waiting := next(current)
	p.mark(shop, "DEL")
	if got, ok := (<-waiting).(error); !ok || !errors.Is(got, wxtoken.ErrRevoked) {
		t.Errorf("Next of a cancelled authorization = %v, want ErrRevoked", got)
	}
	waiting = next(wxtoken.Token{Key: comp})
	client.Close()
	if got, ok := (<-waiting).(error); !ok || !errors.Is(got, wxtoken.ErrClosed) {
		t.Errorf("Next of a closed client = %v, want ErrClosed", got)
	}
}
