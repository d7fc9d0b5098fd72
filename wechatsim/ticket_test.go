package wechatsim_test

import (
	"slices"
	"testing"
	"time"

	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

// TestAccountTickets asks for an account's tickets through their life.
func TestAccountTickets(t *testing.T) {
	for _, row := range []struct {
		name   string
		config time.Duration
		life   time.Duration
	}{
		{"as long as tokens", 0, 2 * time.Hour},
		{"a life of its own", 50 * time.Minute, 50 * time.Minute},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.AccountTicketLife = row.config
				w := start(t, config)
				client, token := w.wechat(), w.componentToken()
				access, refresh := w.account(token, accountA)
				get := func(kind wechat.TicketType) string {
					t.Helper()
					ticket, err := client.Ticket(t.Context(), access, kind)
					if err != nil {
						t.Fatal(err)
					}
					if ticket.ExpiresIn != row.life {
						t.Errorf("a ticket expires in %s, want the full %s", ticket.ExpiresIn, row.life)
					}
					return ticket.Value
				}
				end := time.Now().Add(row.life).UTC()
				jsapi, card := get(wechat.TicketJSAPI), get(wechat.TicketWxCard)
				if jsapi == card {
					t.Error("both types have one ticket")
				}
				if until := w.p.AccountTicketValidUntil(compID, accountA, "jsapi", jsapi); !until.Equal(end) {
					t.Errorf("valid until %s, want %s", until, end)
				}
				time.Sleep(row.life - time.Second)
				access, _ = w.refresh(token, accountA, refresh)
				if get(wechat.TicketJSAPI) != jsapi || !w.p.AcceptsAccountTicket(compID, accountA, "jsapi", jsapi) {
					t.Error("another ticket within the life of the first")
				}
				time.Sleep(time.Second)
				if w.p.AcceptsAccountTicket(compID, accountA, "jsapi", jsapi) {
					t.Error("a ticket is accepted after its life")
				}
				second := get(wechat.TicketJSAPI)
				if second == jsapi || !w.p.AcceptsAccountTicket(compID, accountA, "jsapi", second) {
					t.Error("no new ticket after the life of the first")
				}
				for name, accepted := range map[string]bool{
					"another type":      w.p.AcceptsAccountTicket(compID, accountA, "wx_card", second),
					"no type":           w.p.AcceptsAccountTicket(compID, accountA, "", second),
					"another account":   w.p.AcceptsAccountTicket(compID, accountB, "jsapi", second),
					"another component": w.p.AcceptsAccountTicket("wx0", accountA, "jsapi", second),
					"an access token":   w.p.AcceptsAccountTicket(compID, accountA, "jsapi", access),
				} {
					if accepted {
						t.Errorf("%s: accepted", name)
					}
				}
				var issued []string
				for _, e := range w.p.History() {
					if e.Kind == wechatsim.EntryIssue && (e.What == "jsapi_ticket" || e.What == "wx_card_ticket") {
						issued = append(issued, e.What+" "+e.Secret)
					}
				}
				want := []string{
					"jsapi_ticket " + wechatsim.Fingerprint(jsapi), "wx_card_ticket " + wechatsim.Fingerprint(card), "jsapi_ticket " + wechatsim.Fingerprint(second),
				}
				if !slices.Equal(issued, want) {
					t.Errorf("issued %v, want %v", issued, want)
				}
			})
		})
	}
}

func TestAccountTicketErrcodes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		access, _ := w.account(token, accountA)
		for _, row := range []struct {
			name, query string
			want        int
		}{
			{"no token", "type=jsapi", 41001},
			{"component token", "type=jsapi&access_token=" + token, 61015},
			{"no type", "access_token=" + access, 40097},
			{"unknown type", "type=js&access_token=" + access, 40097},
			{"all right", "type=jsapi&access_token=" + access, 0},
		} {
			response, err := w.client.Get("http://api/cgi-bin/ticket/getticket?" + row.query)
			if err != nil {
				t.Fatal(err)
			}
			if code := errcodeIn(t, readAll(t, response)); code != row.want {
				t.Errorf("%s: %d, want %d", row.name, code, row.want)
			}
		}
	})
}

// TestAccountTicketsAndCancel looks at what becomes of a ticket with the authorization.
func TestAccountTicketsAndCancel(t *testing.T) {
	for _, keep := range []bool{false, true} {
		life := func(t *testing.T) {
			config := calmConfig()
			config.KeepTokensOnCancel = keep
			w := start(t, config)
			token := w.componentToken()
			access, _ := w.account(token, accountA)
			ticket, err := w.wechat().Ticket(t.Context(), access, wechat.TicketJSAPI)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.p.Reauthorize(compID, accountA); err != nil {
				t.Fatal(err)
			}
			if !w.p.AcceptsAccountTicket(compID, accountA, "jsapi", ticket.Value) {
				t.Error("a change of permissions killed the ticket")
			}
			if err := w.p.Cancel(compID, accountA); err != nil {
				t.Fatal(err)
			}
			if w.p.AcceptsAccountTicket(compID, accountA, "jsapi", ticket.Value) != keep {
				t.Errorf("after cancelling, accepted: %t, want %t", !keep, keep)
			}
			access, _ = w.account(token, accountA)
			again, err := w.wechat().Ticket(t.Context(), access, wechat.TicketJSAPI)
			if err != nil || (again.Value == ticket.Value) != keep {
				t.Errorf("authorized again: the same ticket %t, want %t (%v)", again.Value == ticket.Value, keep, err)
			}
		}
		t.Run(map[bool]string{false: "tokens die", true: "tokens stay"}[keep], func(t *testing.T) { bubble(t, life) })
	}
}
