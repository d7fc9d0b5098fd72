package redis

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/services"
)

// everyone is what a service of the whole component says.
var everyone = `"` + component + `/*"`

// TestFilledAndRenewed shows that tokens lie under the keys of WxJava and silenceper with the life that is left, and are replaced.
func TestFilledAndRenewed(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	p.put(1, own, hotel, wxtoken.JSAPITicketKey(component, shopID), wxtoken.WxCardTicketKey(component, shopID))
	p.store(token(shop, 1, time.Now().Add(-time.Hour)))
	r := start(t, p, server, "wxjava,silenceper", service(everyone, "component"))
	for _, key := range []wxtoken.Key{own, shop, hotel} {
		r.awaitKey(wxjavaKey(key), value(key, 1))
	}
	r.awaitKey("authorizer_access_token_"+shopID, value(shop, 1))
	r.awaitKey("component_access_token_"+component, value(own, 1))
	r.awaitKey("wechat_jsapi_ticket:"+component+":"+shopID, value(wxtoken.JSAPITicketKey(component, shopID), 1))
	r.awaitKey("wechat_card_api_ticket:"+component+":"+shopID, value(wxtoken.WxCardTicketKey(component, shopID), 1))
	life, err := redis.Int64(server.do("PTTL", wxjavaKey(shop)), nil)
	if hour := time.Hour.Milliseconds(); err != nil || life > hour || life < hour-within.Milliseconds() {
		t.Errorf("a token with an hour to live: %d ms, %v", life, err)
	}
	if n := len(r.redis.names()); n != 9 {
		t.Errorf("%d keys: %q", n, r.redis.names())
	}
	r.awaitMetric("wxtoken_redis_keys", 9)
	r.awaitMetric("wxtoken_redis_connected", 1)

	p.put(2, shop)
	r.awaitKey(wxjavaKey(shop), value(shop, 2))
	r.awaitKey("authorizer_access_token_"+shopID, value(shop, 2))
	p.put(1, wxtoken.AuthorizerKey(component, "wx00000000000000a3"))
	r.awaitKey("authorizer_access_token_wx00000000000000a3", value(wxtoken.AuthorizerKey(component, "wx00000000000000a3"), 1))
	r.end()
	if server.get(wxjavaKey(shop)) != value(shop, 2) {
		t.Error("the end of a gateway emptied Redis")
	}
	for _, key := range r.redis.names() {
		if strings.Contains(key, "refresh") || strings.Contains(key, "verify_ticket") {
			t.Errorf("a key that is not ours: %s", key)
		}
	}
}

// TestNoForeignAccounts shows that nothing lies in Redis but tokens of services that may have WeChat's own.
func TestNoForeignAccounts(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	foreign := wxtoken.AuthorizerKey(other, shopID)
	p.put(1, own, shop, hotel, foreign, wxtoken.JSAPITicketKey(other, shopID), wxtoken.ComponentKey(other))
	relay := fmt.Sprintf(`{"name":"relay","keys":["sha256:%064d"],"accounts":["%s/*"],"may":["relay","component"]}`, 2, other)
	r := start(t, p, server, "wxjava", service(`"`+component+"/"+shopID+`"`)+","+relay, checkOften)
	r.awaitKey(wxjavaKey(shop), value(shop, 1))
	p.put(2, own, shop, hotel, foreign)
	r.awaitKey(wxjavaKey(shop), value(shop, 2))
	r.awaitMetric("wxtoken_redis_keys", 1)
	if names := r.redis.names(); !slices.Equal(names, []string{wxjavaKey(shop)}) {
		t.Errorf("keys: %q", names)
	}

	r.serve(service(everyone)) // more accounts, but no right to the component's token
	r.awaitKey(wxjavaKey(hotel), value(hotel, 2))
	r.awaitKey(wxjavaKey(own), "")
	r.serve(service(everyone, "component"))
	r.awaitKey(wxjavaKey(own), value(own, 2))
	r.serve(service(`"` + component + "/" + hotelID + `"`))
	r.awaitKey(wxjavaKey(own), "")
	r.awaitKey(wxjavaKey(shop), "")
	r.awaitKey(wxjavaKey(hotel), value(hotel, 2))
	r.serve("")
	r.awaitKey(wxjavaKey(hotel), "")
	r.awaitMetric("wxtoken_redis_keys", 0)
	r.serve(service(everyone)) // and back, the same token
	r.awaitKey(wxjavaKey(shop), value(shop, 2))
}

// TestRefs shows that an account comes and goes with its ref.
func TestRefs(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	ticket := wxtoken.JSAPITicketKey(component, shopID)
	p.put(1, shop, hotel, ticket)
	p.storeRef(hotel, "hotel-1")
	r := start(t, p, server, "wxjava", service(`"ref:shop-*"`))
	r.awaitMetric("wxtoken_redis_connected", 1)
	p.storeRef(shop, "shop-1")
	r.awaitKey(wxjavaKey(shop), value(shop, 1))
	r.awaitKey("wechat_jsapi_ticket:"+component+":"+shopID, value(ticket, 1))
	p.storeRef(shop, "hotel-2")
	r.awaitKey(wxjavaKey(shop), "")
	r.awaitKey("wechat_jsapi_ticket:"+component+":"+shopID, "")
	if names := r.redis.names(); len(names) > 0 {
		t.Errorf("keys: %q", names)
	}
}

// TestCancelled shows that a cancelled account's token goes, that a gateway which did not hear of it can't bring it back, and that the
// token of the next authorization can.
func TestCancelled(t *testing.T) {
	t.Parallel()
	server, p, late := startRedis(t), newPlatform(t), newPlatform(t)
	p.put(7, shop)
	r := start(t, p, server, "wxjava", service(everyone), checkOften)
	r.awaitKey(wxjavaKey(shop), value(shop, 7))
	shown, err := r.client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}
	p.cancel(shop)
	r.awaitKey(wxjavaKey(shop), "")
	r.awaitMetric("wxtoken_redis_keys", 0)

	late.store(shown)
	l := start(t, late, server, "wxjava", service(everyone), checkOften)
	l.await("a late write refused", func() bool { return l.metric("wxtoken_redis_writes_total", outcomeOlder) > 2 })
	if got := server.get(wxjavaKey(shop)); got != "" {
		t.Errorf("a cancelled account came back: %s", got)
	}
	p.put(8, shop)
	r.awaitKey(wxjavaKey(shop), value(shop, 8))
}

// TestLateWriter shows that an older token never replaces a newer one, whichever gateway writes last, and that it may where the data of
// NATS was lost and generations begin anew.
func TestLateWriter(t *testing.T) {
	t.Parallel()
	server, p, late := startRedis(t), newPlatform(t), newPlatform(t)
	at := time.Now().Add(-40 * time.Minute)
	late.store(token(shop, 5, at))
	l := start(t, late, server, "wxjava", service(everyone), checkOften)
	l.awaitKey(wxjavaKey(shop), value(shop, 5))
	p.store(token(shop, 6, at.Add(-2*time.Second))) // the clock of its refresher is behind
	r := start(t, p, server, "wxjava", service(everyone), checkOften)
	r.awaitKey(wxjavaKey(shop), value(shop, 6))
	before := l.metric("wxtoken_redis_writes_total", outcomeOlder)
	l.await("late writes refused", func() bool { return l.metric("wxtoken_redis_writes_total", outcomeOlder) > before+3 })
	if got := server.get(wxjavaKey(shop)); got != value(shop, 6) {
		t.Errorf("an older token replaced a newer one: %s", got)
	}
	late.store(token(shop, 1, at.Add(30*time.Minute)))
	l.awaitKey(wxjavaKey(shop), value(shop, 1))
	before = r.metric("wxtoken_redis_writes_total", outcomeOlder)
	r.await("late writes refused", func() bool { return r.metric("wxtoken_redis_writes_total", outcomeOlder) > before+3 })
	if got := server.get(wxjavaKey(shop)); got != value(shop, 1) {
		t.Errorf("the generation before the loss came back: %s", got)
	}
}

// TestEmptied shows that Redis is filled again soon after FLUSHALL, and one lost key with the next pass.
func TestEmptied(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	p.put(1, shop, hotel)
	r := start(t, p, server, "wxjava", service(everyone), func(w *Writer) { w.passEvery = time.Hour })
	r.awaitKey(wxjavaKey(hotel), value(hotel, 1))
	r.awaitMetric("wxtoken_redis_connected", 1)
	server.do("FLUSHALL")
	r.awaitKey(wxjavaKey(shop), value(shop, 1))
	r.awaitKey(wxjavaKey(hotel), value(hotel, 1))
	r.await("the log line", func() bool { return strings.Contains(r.log.String(), "redis was emptied") })

	q := start(t, p, server, "silenceper", service(everyone), checkOften)
	q.awaitKey("authorizer_access_token_"+shopID, value(shop, 1))
	server.do("DEL", "authorizer_access_token_"+shopID)
	q.awaitKey("authorizer_access_token_"+shopID, value(shop, 1))
	mark := server.get(markOf("authorizer_access_token_" + shopID))
	server.do("DEL", markOf("authorizer_access_token_"+shopID))
	q.awaitKey(markOf("authorizer_access_token_"+shopID), mark)
	// Of another type, in one step: the writer is quick to mend what is gone.
	server.do("EVAL", `redis.call("DEL", KEYS[1]) redis.call("HSET", KEYS[1], "a", "b")`, "1", "authorizer_access_token_"+shopID)
	q.awaitKey("authorizer_access_token_"+shopID, value(shop, 1))
}

// TestKilledAndBack shows that Redis is filled when it comes back, and what was renewed meanwhile is right.
func TestKilledAndBack(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	p.put(1, shop, hotel)
	r := start(t, p, server, "wxjava", service(everyone))
	r.awaitKey(wxjavaKey(shop), value(shop, 1))
	r.awaitMetric("wxtoken_redis_connected", 1)
	server.kill()
	r.awaitMetric("wxtoken_redis_connected", 0)
	p.put(2, shop)
	p.cancel(hotel)
	r.await("the log line", func() bool { return strings.Contains(r.log.String(), "failed to keep redis filled") })
	if !server.start() {
		t.Fatal("redis-server does not come back")
	}
	r.awaitKey(wxjavaKey(shop), value(shop, 2))
	r.awaitMetric("wxtoken_redis_connected", 1)
	if got := server.get(wxjavaKey(hotel)); got != "" {
		t.Errorf("a cancelled account came back: %s", got)
	}
}

// TestOldDataComesBack shows that what a restart brings back from disk is put right: an old token, a cancelled one.
func TestOldDataComesBack(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	p.put(1, shop, hotel)
	r := start(t, p, server, "wxjava", service(everyone))
	r.awaitKey(wxjavaKey(shop), value(shop, 1))
	r.awaitKey(wxjavaKey(hotel), value(hotel, 1))
	server.do("SAVE")
	p.put(2, shop)
	p.cancel(hotel)
	r.awaitKey(wxjavaKey(shop), value(shop, 2))
	r.awaitKey(wxjavaKey(hotel), "")
	server.kill()
	r.awaitMetric("wxtoken_redis_connected", 0)
	if !server.start() {
		t.Fatal("redis-server does not come back")
	}
	r.awaitKey(wxjavaKey(shop), value(shop, 2))
	r.awaitKey(wxjavaKey(hotel), "")
}

// TestHungAndAwayAtTheStart shows that a Redis which does not answer holds nothing up: Run ends, and goes on when it answers.
func TestHungAndAwayAtTheStart(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	p.put(1, shop)
	if err := server.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	first := start(t, p, server, "wxjava", service(everyone), func(w *Writer) { w.server.patience = time.Hour })
	time.Sleep(100 * time.Millisecond) // it waits for an answer by then, or for the connection: both have to end
	ended := make(chan struct{})
	go func() { first.end(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(within):
		t.Error("Run does not end")
	}
	r := start(t, p, server, "wxjava", service(everyone))
	if err := server.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.awaitKey(wxjavaKey(shop), value(shop, 1))
}

// TestHangsMidway shows that a Redis which stops answering counts as away, and is filled when it answers again.
func TestHangsMidway(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	p.put(1, shop)
	r := start(t, p, server, "wxjava", service(everyone), func(w *Writer) { w.server.patience = time.Second })
	r.awaitKey(wxjavaKey(shop), value(shop, 1))
	r.awaitMetric("wxtoken_redis_connected", 1)
	if err := server.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.awaitMetric("wxtoken_redis_connected", 0)
	p.put(2, shop)
	if err := server.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.awaitKey(wxjavaKey(shop), value(shop, 2))
	r.awaitMetric("wxtoken_redis_connected", 1)
}

// TestKeysOfAnEarlierProcess shows that a new process removes keys that an earlier one left and that no service may have any more.
func TestKeysOfAnEarlierProcess(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	p.put(1, own, shop, hotel)
	r := start(t, p, server, "wxjava,silenceper", service(everyone, "component"))
	r.awaitMetric("wxtoken_redis_keys", 6)
	r.awaitKey(wxjavaKey(own), value(own, 1))
	r.end()
	p.cancel(hotel)
	server.do("SET", "wechat_authorizer_access_token:of-an-sdk", "x")
	q := start(t, p, server, "wxjava", service(everyone))
	q.awaitMetric("wxtoken_redis_connected", 1)
	want := []string{wxjavaKey(shop), "wechat_authorizer_access_token:of-an-sdk"}
	got := q.redis.names()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("keys: %q, want %q", got, want)
	}
	q.awaitMetric("wxtoken_redis_keys", 1)
}

// TestSecondKeeper shows that the token of a process which renews by itself is left alone, since ours is the dead one then, and said; and
// that the next token of ours replaces it.
func TestSecondKeeper(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	server.do("SET", wxjavaKey(shop), "from before") // an SDK that renewed until now
	p.put(1, shop)
	r := start(t, p, server, "wxjava", service(everyone), checkOften)
	r.awaitKey(wxjavaKey(shop), value(shop, 1))
	server.do("SETEX", wxjavaKey(shop), 7000, "of another keeper")
	r.awaitMetric("wxtoken_redis_connected", 1)
	r.await("foreign values counted", func() bool { return r.metric("wxtoken_redis_writes_total", outcomeForeign) > 3 })
	if got := server.get(wxjavaKey(shop)); got != "of another keeper" {
		t.Errorf("the other keeper's token was replaced: %s", got)
	}
	if n := strings.Count(r.log.String(), "value of another process found in redis"); n != 1 {
		t.Errorf("said %d times", n)
	}
	p.put(2, shop)
	r.awaitKey(wxjavaKey(shop), value(shop, 2))
}

// TestOneAccountTwoComponents shows that where a key has no component in it the newer token lies there, and the other one as soon as that
// account is cancelled.
func TestOneAccountTwoComponents(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	twin := wxtoken.AuthorizerKey(other, shopID)
	now := time.Now()
	p.store(token(shop, 9, now.Add(-20*time.Minute)))
	p.store(token(twin, 1, now.Add(-10*time.Minute)))
	key := "authorizer_access_token_" + shopID
	r := start(t, p, server, "silenceper", service(everyone+`,"`+other+`/*"`), checkOften)
	r.awaitKey(key, value(twin, 1))
	r.await("the log line", func() bool { return strings.Contains(r.log.String(), "key of redis shared by two components") })
	p.store(token(shop, 10, now))
	r.awaitKey(key, value(shop, 10))
	r.end()
	q := start(t, p, server, "silenceper", service(everyone+`,"`+other+`/*"`), func(w *Writer) { w.passEvery = time.Hour })
	q.awaitMetric("wxtoken_redis_connected", 1)
	p.cancel(shop)
	q.awaitKey(key, value(twin, 1))

	one := start(t, p, startRedis(t), "silenceper@"+component, service(everyone+`,"`+other+`/*"`))
	p.store(token(shop, 11, now.Add(-time.Hour)))
	one.awaitKey(key, value(shop, 11))
}

// TestExpired shows that nothing is written of a token that has expired, and that what lies there ends with it.
func TestExpired(t *testing.T) {
	t.Parallel()
	server, p := startRedis(t), newPlatform(t)
	p.store(token(shop, 1, time.Now().Add(-3*time.Hour)))
	p.store(token(hotel, 1, time.Now().Add(-2*time.Hour+3*time.Second)))
	r := start(t, p, server, "wxjava", service(everyone), checkOften)
	r.awaitMetric("wxtoken_redis_connected", 1)
	r.awaitKey(wxjavaKey(hotel), "")
	r.awaitMetric("wxtoken_redis_keys", 0)
	if names := r.redis.names(); len(names) > 0 {
		t.Errorf("keys: %q", names)
	}
}

// TestPasswordAndRefusals shows that nothing of a password or a token is said when Redis refuses, and what a user of it needs.
func TestPasswordAndRefusals(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(1, shop)
	for _, row := range []struct {
		name, user, want string
		conf             []string
	}{
		{"wrong password", "gateway:SECRET_wrong", "WRONGPASS", nil},
		{"no password", "", "NOAUTH", nil},
		{"commands missing", "gateway:SECRET", "unknown command", []string{`rename-command EVALSHA ""`}},
		{"login missing", "gateway:SECRET", "unknown command", []string{`rename-command AUTH ""`}},
		{"no room", "gateway:SECRET", "OOM", []string{"maxmemory 1", "maxmemory-policy noeviction"}},
		{"no right to the marks", "narrow:SECRET", "", nil},
		{"what docs/redis.md says", "gateway:SECRET", "", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t, append([]string{
				"user default on >SECRET_default ~* +@all",
				"user gateway on >SECRET ~wechat_* ~wxtoken:* +mget +set +del +exists +evalsha +script|load +scan +select",
				"user narrow on >SECRET ~wechat_* +mget +set +del +exists +evalsha +script|load +scan +select",
			}, row.conf...)...)
			url := "redis://" + server.address() + "/1"
			if row.user != "" {
				url = "redis://" + row.user + "@" + server.address() + "/1"
			}
			r := startAt(t, p, server, url, "wxjava", service(everyone))
			switch {
			case row.want != "":
				r.await("the log line", func() bool { return strings.Contains(r.log.String(), row.want) })
			case row.user[0] == 'n':
				r.await("the log line", func() bool {
					return strings.Contains(r.log.String(), "NOPERM") || strings.Contains(r.log.String(), "permission")
				})
			default:
				r.awaitMetric("wxtoken_redis_connected", 1)
				r.await("a write", func() bool { return r.metric("wxtoken_redis_writes_total", outcomeWritten) == 1 })
				return
			}
			r.awaitMetric("wxtoken_redis_connected", 0)
			r.await("a failure counted", func() bool { return r.metric("wxtoken_redis_writes_total", outcomeFailed) > 1 })
			if n := strings.Count(r.log.String(), "failed to keep redis filled"); n > 3 {
				t.Errorf("said %d times:\n%s", n, r.log.String())
			}
		})
	}
}

// TestClientWithoutAccounts shows that a client which does not know refs is refused: they decide whose an account is.
func TestClientWithoutAccounts(t *testing.T) {
	t.Parallel()
	client, err := wxtoken.NewClient(t.Context(), newPlatform(t).nats.Connect(), wxtoken.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	cfg := Config{RedisURL: wxtoken.NewSecret("redis://127.0.0.1"), RedisFormat: []string{"wxjava"}}
	if w, err := New(cfg, client, nil, zerolog.Nop(), nil, time.Now); err == nil {
		t.Errorf("%v", w)
	}
}

// TestClosedClient shows that a client which is closed before Run ends has nothing removed: it knows no account any more.
func TestClosedClient(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(1, shop)
	p.storeRef(shop, "shop-1")
	client, err := wxtoken.NewClient(t.Context(), p.nats.Connect(), wxtoken.Config{Accounts: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	parsed, err := services.Parse([]byte(`{"services":[` + service(`"ref:shop-*"`) + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{RedisURL: wxtoken.NewSecret("redis://127.0.0.1"), RedisFormat: []string{"wxjava"}}
	w, err := New(cfg, client, services.Fixed(parsed), zerolog.Nop(), prometheus.NewRegistry(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if entries := w.entries(w.readers(), shop); len(entries) != 1 || entries[0].old != nil {
		t.Fatalf("%d entries", len(entries))
	}
	client.Close()
	w.hold(shop, held{keys: 1})
	if entries := w.entries(w.readers(), shop); len(entries) != 0 {
		t.Errorf("%d entries, removed: %v", len(entries), entries[0].old != nil)
	}
}
