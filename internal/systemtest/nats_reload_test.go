//go:build unix

package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/events"
)

// TestPermissionsSlip reloads the shipped settings with a slip, and once more with it put right: NATS took subscriptions away meanwhile, and
// gives none back. Each process says what it lost, and all work again by themselves, services with the Go package too.
func TestPermissionsSlip(t *testing.T) {
	t.Parallel()
	p := build(t)
	all := newNATS(t, p, []string{"127.0.0.1"})
	all[0].inAccounts()
	s := newSiteOn(t, p, startAll(t, all), 2, "--life=60s")
	s.settings = append(s.settings, "WXTOKEN_SWEEP_EVERY=2s")
	in, one := s.ingest(), s.refresher()
	poll(t, func() error { return s.allAccepted(nil, 1) })
	service := s.connect("service")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, service, wxtoken.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	good, err := os.ReadFile(all[0].conf())
	if err != nil {
		t.Fatal(err)
	}
	reload := func(conf string) {
		t.Helper()
		if err := os.WriteFile(all[0].conf(), []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		all[0].signal(syscall.SIGHUP)
	}
	ready := func(p *process, want int, words string) {
		t.Helper()
		poll(t, func() error {
			if status, body := p.get("/readyz"); status != want || !strings.Contains(body, words) {
				return fmt.Errorf("/readyz of %s: %d %s, want %d with %q", p.name, status, body, want, words)
			}
			return nil
		})
	}
	for _, row := range []struct {
		name, rights string
		broken       func() // until it is noticed
	}{
		{"all for a moment", `"_INBOX_refresher.>" "wxtoken.>" "_INBOX_ingest.>" "_INBOX_service.>"`, func() { ready(one, http.StatusServiceUnavailable, "_INBOX_refresher.") }},
		{"the refresher's inbox", `"_INBOX_refresher.>"`, func() { ready(one, http.StatusServiceUnavailable, "_INBOX_refresher.") }},
		{"the requests", `"wxtoken.>"`, func() { ready(one, http.StatusServiceUnavailable, events.SubjectReject) }},
		{"ingest's inbox", `"_INBOX_ingest.>"`, func() { ready(in, http.StatusServiceUnavailable, "_INBOX_ingest.") }},
		{"a service's inbox", `"_INBOX_service.>"`, func() {
			poll(t, func() error {
				if stats := client.Stats(); stats.Live || stats.Err == nil {
					return fmt.Errorf("the view is %+v", stats)
				}
				return nil
			})
		}},
	} {
		bad := string(good)
		for _, right := range strings.Fields(row.rights) {
			if strings.Count(bad, right) != 1 {
				t.Fatalf("%s stands %d times in the settings", right, strings.Count(bad, right))
			}
			bad = strings.Replace(bad, right, `"slip.>"`, 1)
		}
		began := time.Now()
		reload(bad)
		row.broken()
		t.Logf("%s: noticed after %s", row.name, time.Since(began).Round(time.Millisecond))
		began = time.Now()
		reload(string(good))
		ready(one, http.StatusOK, "")
		ready(in, http.StatusOK, "")
		poll(t, func() error {
			if stats := client.Stats(); !stats.Live {
				return fmt.Errorf("the view is %+v", stats)
			}
			return nil
		})
		t.Logf("%s: all is well after %s", row.name, time.Since(began).Round(time.Millisecond))
		s.serves(client)
	}
}

// TestAnswersThroughReload has the shipped settings read again, with nothing changed in them, between a question and its answer. NATS keeps for each
// connection what it may answer, and forgets it then: the answer is refused, and who asked hears nothing. What is asked later is answered.
func TestAnswersThroughReload(t *testing.T) {
	t.Parallel()
	p := build(t)
	for _, accounts := range []bool{true, false} {
		n := newNATS(t, p, []string{"127.0.0.1"})[0]
		if accounts {
			n.inAccounts()
		}
		url := startAll(t, []*natsServer{n})
		for _, reloaded := range []bool{false, true} {
			for _, row := range []struct{ asks, answers, subject string }{
				{"ingest", "service", "wechat.reply.wxc.wxa.text"},
				{"service", "refresher", events.SubjectReject},
			} {
				asks, answers := connectAs(t, url, row.asks), connectAs(t, url, row.answers)
				questions := make(chan *nats.Msg, 2)
				if _, err := answers.ChanSubscribe(row.subject, questions); err != nil {
					t.Fatal(err)
				}
				inbox := asks.NewInbox()
				heard, err := asks.SubscribeSync(inbox)
				if err != nil {
					t.Fatal(err)
				}
				poll(t, func() error {
					return errors.Join(answers.Flush(), asks.Flush(), asks.PublishRequest(row.subject, inbox, nil), asks.Flush())
				})
				first := <-questions
				if reloaded {
					before := strings.Count(n.out.String(), "Reloaded server configuration")
					n.signal(syscall.SIGHUP)
					poll(t, func() error {
						if strings.Count(n.out.String(), "Reloaded server configuration") == before {
							return errors.New("not reloaded")
						}
						return nil
					})
				}
				if err := errors.Join(first.Respond([]byte("first")), answers.Flush(), asks.PublishRequest(row.subject, inbox, nil)); err != nil {
					t.Fatal(err)
				}
				if err := (<-questions).Respond([]byte("second")); err != nil {
					t.Fatal(err)
				}
				want := "first"
				if reloaded {
					want = "second"
				}
				if m, err := heard.NextMsg(patience); err != nil || string(m.Data) != want {
					t.Errorf("accounts %t, reloaded %t, %s: heard %v, %v, want the %s answer", accounts, reloaded, row.subject, m, err, want)
				}
				if got := errors.Is(answers.LastError(), nats.ErrPermissionViolation); got != reloaded {
					t.Errorf("accounts %t, reloaded %t, %s: the answer was refused: %t (%v)", accounts, reloaded, row.subject, got, answers.LastError())
				}
				asks.Close()
				answers.Close()
			}
		}
	}
}

// connectAs connects with the rights of a role.
func connectAs(t *testing.T, url func(role string) string, role string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url(role), nats.CustomInboxPrefix("_INBOX_"+role))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// serves fails the test unless a report is heard, and a push is stored and its reply delivered.
func (s *site) serves(client *wxtoken.Client) {
	s.t.Helper()
	key := s.keys()[1]
	token, err := client.Token(key)
	if err != nil {
		s.t.Fatal(err)
	}
	poll(s.t, func() error {
		_, rejected := client.Report(s.t.Context(), token)
		_, status := client.Status(s.t.Context(), key)
		return errors.Join(rejected, status)
	})
	before := s.lastSequence(events.StreamMessages)
	s.tell("/push", "authorizer="+key.Authorizer+"&content=hello")
	poll(s.t, func() error {
		if s.lastSequence(events.StreamMessages) == before {
			return errors.New("the message is not stored")
		}
		return nil
	})
	poll(s.t, func() error {
		m, err := s.nc.Request(events.SubjectRenew, []byte(`{"key":"`+key.String()+`"}`), 5*time.Second)
		if err == nil && m.Header.Get(micro.ErrorHeader) != "" {
			err = errors.New(m.Header.Get(micro.ErrorHeader))
		}
		return err
	})
}
