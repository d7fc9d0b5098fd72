package wxtoken_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
)

// respondOutcome answers a report.
func respondOutcome(t *testing.T, req micro.Request, outcome wxtoken.Outcome) {
	if err := req.RespondJSON(map[string]any{"outcome": outcome, "revision": 1}); err != nil {
		t.Errorf("respond: %v", err)
	}
}

func TestClientReplace(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		outcome wxtoken.Outcome
		store   bool // the next token, after the answer
		want    error
		text    string
	}{
		"renewing":        {outcome: wxtoken.OutcomeRenewing, store: true},
		"already renewed": {outcome: wxtoken.OutcomeAlreadyRenewed, store: true}, // and the view is behind
		"too soon":        {outcome: wxtoken.OutcomeTooSoon, want: wxtoken.ErrTooSoon, text: "errmsg"},
		"unknown key":     {outcome: wxtoken.OutcomeUnknownKey, want: wxtoken.ErrNotKept, text: "Status"},
		"of a later time": {outcome: "postponed", text: "postponed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			p.put(shop, 1)
			client := p.client(wxtoken.Config{})
			token, err := client.Token(shop)
			if err != nil {
				t.Fatal(err)
			}
			answered := make(chan struct{})
			answerRejects(t, p.srv.Connect(), func(_ map[string]any, req micro.Request) {
				defer close(answered)
				respondOutcome(t, req, tt.outcome)
				if tt.store {
					p.put(shop, 2)
				}
			})
			began := time.Now()
			next, err := client.Replace(t.Context(), token)
			<-answered
			if tt.store {
				if err != nil || next.Value.Reveal() != valueOf(shop, 2) {
					t.Errorf("Replace = %v, %v; want the next token", next.Generation, err)
				}
				return
			}
			if err == nil || next != (wxtoken.Token{}) || time.Since(began) > 25*time.Second {
				t.Errorf("Replace = %+v, %v after %s; want an error, no token, and no wait", next, err, time.Since(began))
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Replace waited: %v", err)
			}
			if tt.want == nil {
				tt.want = err
			}
			wantError(t, err, tt.want, shop.String(), tt.text)
		})
	}
}

// A newer token in the view is taken at once, asked or not, and so is the news that the account is gone.
func TestClientReplaceUnasked(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	p.put(hotel, 1)
	client := p.client(wxtoken.Config{Keys: []wxtoken.Key{shop}})
	old, err := client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Replace(t.Context(), old)
	wantError(t, err, nats.ErrNoResponders, shop.String(), "refresher")

	p.put(shop, 2)
	eventually(t, "the second token", has(client, shop, 2))
	if next, err := client.Replace(t.Context(), old); err != nil || next.Generation != 2 {
		t.Errorf("Replace = generation %d, %v; want 2, which the view has", next.Generation, err)
	}
	_, err = client.Replace(t.Context(), tokenOf(hotel, 1, time.Now()))
	wantError(t, err, wxtoken.ErrNoToken, hotel.String(), "Config.Keys")
	_, err = client.Replace(t.Context(), wxtoken.Token{})
	wantError(t, err, wxtoken.ErrNoToken)

	p.mark(shop, "DEL")
	eventually(t, "the deletion", fails(client, shop, wxtoken.ErrRevoked))
	_, err = client.Replace(t.Context(), old)
	wantError(t, err, wxtoken.ErrRevoked, shop.String())
	client.Close()
	_, err = client.Replace(t.Context(), old)
	wantError(t, err, wxtoken.ErrClosed)
}

// A renewal that never comes, and one that ends in a cancellation.
func TestClientReplaceInVain(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	p.put(hotel, 1)
	client := p.client(wxtoken.Config{})
	token, err := client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}
	cancelled := make(chan struct{})
	answerRejects(t, p.srv.Connect(), func(request map[string]any, req micro.Request) {
		respondOutcome(t, req, wxtoken.OutcomeRenewing)
		if request["key"] == hotel.String() && request["revision"] != nil {
			p.mark(hotel, "DEL")
			close(cancelled)
		}
	})
	givesUp(t, func(ctx context.Context) error {
		next, err := client.Replace(ctx, token)
		if next != (wxtoken.Token{}) {
			t.Errorf("Replace = %+v with error %v, want no token", next, err)
		}
		return err
	}, context.DeadlineExceeded, shop.String())
	token, err = client.Token(hotel)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Replace(t.Context(), token)
	wantError(t, err, wxtoken.ErrRevoked, hotel.String())
	<-cancelled

	token.Revision = 0 // from elsewhere: the view can't tell which is newer
	token.Value = wxtoken.NewSecret("SEKRET")
	p.put(hotel, 2)
	eventually(t, "a token again", has(client, hotel, 2))
	if next, err := client.Replace(t.Context(), token); err != nil || next.Generation != 2 {
		t.Errorf("Replace = generation %d, %v; want 2", next.Generation, err)
	}
}
