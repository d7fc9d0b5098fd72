//go:build unix

package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

func lookAround(b *book) {
	b.open(1)
	b.run("Look", 0, isActive)
	if _, err := b.try(b.page[contexts][0]); err != nil { // the variables, which the test has set to its own
		b.Error(err)
	}

	// And on a NATS without users.
	b.server = nil
	b.settle(newSite(b.T, b.programs, 1))
	b.startBoth()
	b.until("Look", 0, isActive)
}

func repairOpened(b *book) {
	b.open(1)
	service := b.connect("service")
	const edit = "\n# An edit while the user was let in.\n"
	want := b.server.settings() + edit
	refused := func() error {
		if out, err := b.try(b.block("Verify", 1)); err == nil || !strings.Contains(out, "Authorization Violation") {
			return fmt.Errorf("the user repair is there: %s %w", out, err)
		}
		return nil
	}
	if err := refused(); err != nil {
		b.Error(err)
	}
	b.run("Do", 0, "")
	open := b.server.settings()
	b.run("Do", 0, "") // by somebody else, who does not know
	if twice := b.server.settings(); twice != open {
		b.Errorf("opened twice, the file is another one:\n%s", twice)
	}
	b.until("Verify", 0, "")
	if err := os.WriteFile(b.server.conf(), []byte(open+edit), 0o600); err != nil {
		b.Fatal(err)
	}
	for range 2 {
		b.run("Close", 0, "")
		if closed := b.server.settings(); closed != want {
			b.Errorf("closed, the file is not what it was:\n%s", closed)
		}
	}
	poll(b.T, refused)
	for _, p := range []*process{b.in, b.re} {
		if strings.Contains(p.stdout.String(), "nats disconnected") {
			b.Errorf("%s lost its connection", p.name)
		}
	}
	if n := service.Stats().Reconnects; n > 0 || !service.IsConnected() {
		b.Errorf("a service lost its connection %d times", n)
	}
}

// storeFull fills what max_file_store allows.
func storeFull(b *book) {
	b.change = []string{"max_file_store: 10GB", "max_file_store: 8MB"}
	b.prepare(1)
	b.settings = append(b.settings, "WXTOKEN_MESSAGES_MAX_BYTES=1048576")
	b.startBoth()
	poll(b.T, func() error { return b.allAccepted(nil, 1) })
	rest := make([]byte, 200_000)
	for full := false; !full; {
		_, err := b.js.Publish(b.Context(), "dead.filler", rest)
		full = err != nil
	}
	poll(b.T, func() error {
		status, body := request(b.T, http.MethodGet, "http://"+b.re.addr("ops")+"/readyz", "")
		if status != http.StatusServiceUnavailable || !strings.Contains(body, "publish credential.proof to KV_tokens: ") {
			return fmt.Errorf("/readyz answers %d %s", status, body)
		}
		return nil
	})
	entry, before := b.title, b.generations()
	b.run("Do", 0, "")
	poll(b.T, func() error { return b.allAccepted(before, 1) })
	for _, p := range []*process{b.in, b.re} {
		poll(b.T, func() error {
			if status, body := request(b.T, http.MethodGet, "http://"+p.addr("ops")+"/readyz", ""); status != http.StatusOK {
				return fmt.Errorf("%s: /readyz answers %d %s", p.name, status, body)
			}
			return nil
		})
	}

	// Lowered, nothing of the file counts: the user repair is not let in.
	raised := b.server.settings()
	if err := os.WriteFile(b.server.conf(), []byte(strings.Replace(raised, "max_file_store: 20GB", "max_file_store: 9GB", 1)), 0o600); err != nil {
		b.Fatal(err)
	}
	b.on("Open the user `repair`")
	b.run("Do", 0, "")
	poll(b.T, func() error {
		if !strings.Contains(b.server.out.String(), "decreasing jetstream max memory and store") {
			return errors.New("the server has not refused the reload")
		}
		return nil
	})
	if err := os.WriteFile(b.server.conf(), []byte(raised), 0o600); err != nil {
		b.Fatal(err)
	}
	b.run("Do", 0, "")
	b.until("Verify", 0, "")
	b.on(entry)
	b.run("Do", 1, "MESSAGES")
	b.run("Do", 2, "")
}

// consumersGone has services take every consumer that they may have.
func consumersGone(b *book) {
	const few = 5
	b.change = []string{"max_consumers: 1000", fmt.Sprintf("max_consumers: %d", few)}
	b.open(1)
	service := b.connect("service")
	js, err := jetstream.New(service)
	if err != nil {
		b.Fatal(err)
	}
	poll(b.T, func() error {
		kv, err := js.KeyValue(b.Context(), events.BucketTokens)
		if err != nil {
			return err
		}
		for range few {
			if _, err := kv.WatchAll(b.Context()); err != nil {
				return err
			}
		}
		return nil
	})
	late := make(chan error, 1)
	go func() {
		client, err := wxtoken.NewClient(b.Context(), service, wxtoken.Config{})
		if err == nil {
			client.Close()
		}
		late <- err
	}()
	b.said(b.re, "few consumers left for services")
	b.until("Look", 0, fmt.Sprintf(`(?s)consumers{account="services",stream="KV_tokens"} %[1]d.*consumers_max{account="services",stream="KV_tokens"} %[1]d`, few))
	b.run("Do", 0, "")
	b.until("Verify", 0, `stream="KV_tokens"} 4000`)
	if err := <-late; err != nil {
		b.Errorf("a service that waited for a watch: %v", err)
	}
}

func componentAdded(b *book) {
	b.open(1, "--components=2")
	added := wechatsim.DemoOf(2, time.Minute, 1, "http://unused").Components[1]
	b.set("NEW", added.AppID)
	b.set("APPSECRET", added.AppSecret)
	b.set("TOKEN", added.Token)
	b.set("AES_KEY", added.EncodingAESKey)
	b.run("Do", 0, "")
	b.said(b.in, "component added")
	b.said(b.re, "component added")
	b.until("Verify", 0, isActive)

	inStore := func(component string) (found []string) {
		for _, stream := range []string{"KV_tokens", "KV_status"} {
			st, err := b.js.Stream(b.Context(), stream)
			if err != nil {
				b.Fatal(err)
			}
			info, err := st.Info(b.Context(), jetstream.WithSubjectFilter(">"))
			if err != nil {
				b.Fatal(err)
			}
			for subject := range info.State.Subjects {
				if slices.Contains(strings.Split(subject, "."), component) {
					found = append(found, subject)
				}
			}
		}
		slices.Sort(found)
		return found
	}
	kept, before := inStore(wechatsim.DemoAppID), inStore(added.AppID)
	for _, want := range []string{"$KV.tokens.", "$KV.status.", "credential.", "renewal.scheduled."} {
		if !slices.ContainsFunc(before, func(subject string) bool { return strings.HasPrefix(subject, want) }) {
			b.Errorf("nothing of the component is below %s, so that there is nothing to forget: %q", want, before)
		}
	}
	if err := os.RemoveAll(filepath.Join(b.components, added.AppID)); err != nil {
		b.Fatal(err)
	}
	b.said(b.in, "component removed")
	b.said(b.re, "component removed")
	b.re.terminate()
	b.set("GONE", added.AppID)
	entry := b.title
	b.on("Open the user `repair`")
	b.run("Do", 0, "")
	b.until("Verify", 0, "")
	b.on(entry)
	if out := b.run("To forget it", 0, ""); strings.Count(out, `"success":true`) != 10 {
		b.Errorf("not every purge was done: %s", out)
	}
	b.startBoth()
	poll(b.T, func() error { return b.allAccepted(nil, 1) })
	if left := inStore(added.AppID); len(left) != 0 {
		b.Errorf("still there: %q", left)
	}
	now := inStore(wechatsim.DemoAppID)
	for _, subject := range kept {
		if !strings.HasPrefix(subject, "renewal.") && !slices.Contains(now, subject) { // schedules come and go
			b.Errorf("%s of the other component is gone", subject)
		}
	}
}

func noTicket(b *book) {
	b.prepare(1)
	b.secret(wechatsim.DemoAppID, "token", "not-the-one-of-the-console")
	b.startBoth()
	b.until("Sign", 0, `"state":"waiting_for_ticket"`)
	b.until("Look", 0, `wxtoken_push_rejected_total{reason="signature"} [1-9]`)
	b.set("TOKEN", wechatsim.DemoToken)
	b.run("Do", 0, "")
	b.until("Verify", 0, `"type":"TicketFlowing","status":"True".*"ticket_received_at"`)
}

func componentTokenLate(b *book) {
	b.open(1)
	b.tell("/fail", "api=api_component_token&errcode=-1&for=1h")
	b.until("Look", 0, `(?s)"state":"renewing_failed".*wxtoken_component_token_expiration_timestamp_seconds{component="`+wechatsim.DemoAppID+`"} [1-9]`)
	b.tell("/heal", "")
	b.run("Meaning and do", 0, `"outcome":"(renewing|already_renewed|too_soon)"`) // a ticket, or a retry, may have been quicker
	b.until("Verify", 0, isActive)
}

func notOnTheWhitelist(b *book) {
	b.open(1)
	b.tell("/fail", "api=api_component_token&errcode=61004&errmsg=access+clientip+is+not+registered+requestIP:+203.0.113.7&for=1h")
	b.until("Look", 0, isOperator+`.*"code":61004.*203\.0\.113\.7`)
	b.tell("/heal", "")
	b.until("Verify", 0, isActive)
}

func appSecretWrong(b *book) {
	b.open(1)
	const other = "fedcba9876543210fedcba9876543210"
	b.tell("/secret", "appsecret="+other)
	b.until("Sign", 0, isOperator+`.*"code":40(125|001)`)
	b.set("APPSECRET", other)
	b.run("Do", 0, "outcome")
	b.until("Verify", 0, isActive)
}

func manyRefused(b *book) {
	const accounts = 40 // so that five times as many renewals as were refused come soon
	b.open(accounts)
	renewed := 0 // while the accounts authorized: on a slow machine some were renewed by now, and each counts against a doubt
	for _, e := range b.history("call") {
		if e.API == "api_authorizer_token" {
			renewed++
		}
	}
	b.tell("/fail", fmt.Sprintf("api=api_authorizer_token&errcode=61023&times=%d", 9+renewed/4))
	b.until("Sign", 0, `"type":"RefusalsBelieved","status":"False"`)
	b.run("Look", 0, `"api":"api_authorizer_token".*"used":[1-9]`)
	b.run("Do", 0, "")
	b.until("Verify", 0, `(?s)"type":"RefusalsBelieved","status":"True".*wxtoken_authorizers_token_invalid{[^}]*} 0`)
	if extra := b.history("authorize"); len(extra) != accounts {
		b.Errorf("%d authorizations of %d accounts: somebody was asked", len(extra), accounts)
	}
}

func quotaGone(b *book) {
	b.open(2)
	b.tell("/daily-limit", "api=api_authorizer_token&limit=0") // none: the entry renews an account, and one that was renewed a moment ago is too young
	b.until("Sign", 0, `(?s)`+isOperator+`.*"code":45009.*wxtoken_api_paused_until_timestamp_seconds{api="api_authorizer_token"`)
	poll(b.T, func() error {
		if len(b.told.of(wxtoken.HeldQuota, events.PhaseBegan)) == 0 {
			return errors.New("no notice came")
		}
		return nil
	})
	b.run("Look", 0, `"used":`)
	b.on("Renewals are held back")
	b.until("Sign", 0, `"type":"Renewing","status":"False","reason":"QuotaGone"`)
	b.run("Look", 0, `(?s)wxtoken_held_back{[^}]*reason="QuotaGone"[^}]*} 1.*not before [-0-9]+T16:00:00Z`)
	b.on("The day's quota is gone")
	b.tell("/daily-limit", "api=api_authorizer_token&limit=-1") // the cause is removed, as the entry says
	b.run("Do", 0, `"cleared":true`)
	b.until("Verify", 0, isActive)
	b.on("Renewals are held back")
	b.until("Verify", 0, `"type":"Renewing","status":"True"`)
}

func renewalWanted(b *book) {
	b.open(3)
	before := b.generations()
	b.run("Do", 0, `"outcome":"(renewing|too_soon|already_renewed)"`)
	poll(b.T, func() error { return b.renewed(b.keys()[1], before[b.keys()[1]]+1) })
	if out := b.run("Do", 1, `"outcome"`); strings.Count(out, `"outcome"`) != 3 {
		b.Errorf("not all three accounts were renewed: %s", out)
	}
}

func otherRef(b *book) {
	b.open(1)
	b.set("REF", "tenant-2")
	b.run("Do", 0, `"url":"http://127.0.0.1:1/connect/`)
	b.run("Verify", 0, isActive)
}

func cancelled(b *book) {
	b.open(2)
	b.tell("/cancel", "authorizer="+b.keys()[1].Authorizer)
	b.until("Look", 0, `"state":"revoked"`)
	b.run("Do", 0, "")
	b.run("Do", 1, `"url":"http://127.0.0.1:1/connect/`)
	b.tell("/authorize", "authorizer="+b.keys()[1].Authorizer)
	b.until("Verify", 0, isActive)
}

func tokenRefused(b *book) {
	b.open(1, "--life=60s")
	key := b.keys()[1]
	token, err := b.accepted(key)
	if err != nil {
		b.Fatal(err)
	}
	b.set("TOKEN", token.Value.Reveal())
	b.tell("/invalidate", "authorizer="+key.Authorizer)
	if lines := strings.Fields(b.run("Look", 0, "")); len(lines) != 4 || lines[0] != lines[2] {
		b.Errorf("the digests of the token and of the one in the bucket differ: %v", lines)
	}
	b.until("Do", 0, `"outcome":"renewing"`) // once it is old enough to be believed
	b.until("Verify", 0, `"outcome":"already_renewed"`)
	if _, err := b.accepted(key); err != nil {
		b.Error(err)
	}
}

func wechatAway(b *book) {
	b.open(2)
	b.tell("/down", "")
	b.until("Sign", 0, `outcome="retry"`)
	if _, err := b.try(b.block("Look", 0)); err == nil {
		b.Error("WeChat is down, and the way to it is said to be good")
	}
	b.tell("/up", "")
	b.run("Look", 0, "200")
	b.until("Verify", 0, `wxtoken_authorizers_token_invalid{[^}]*} 0`)
	before := b.generations()
	poll(b.T, func() error { return b.allAccepted(before, 1) })
	b.until("Verify", 0, `wxtoken_authorizers_token_invalid{[^}]*} 0`)
}

func forged(b *book) {
	b.open(1)
	to := "http://" + b.in.addr("pushes") + "/wechat/" + wechatsim.DemoAppID + "/auth?timestamp=1700000000&nonce=1&encrypt_type=aes&msg_signature=" + strings.Repeat("a", 40)
	if status, _ := request(b.T, http.MethodPost, to, "<xml><Encrypt>AAAA</Encrypt></xml>"); status != http.StatusForbidden {
		b.Errorf("a forged push was answered %d, want 403", status)
	}
	b.run("Sign", 0, `reason="signature"} 1`)
	b.said(b.in, `"remote":"127.0.0.1`)
	b.run("Verify", 0, `result="accepted"} [1-9]`)
}

func oddPushes(b *book) {
	b.open(1)
	b.tell("/push", "document=<xml><AppId>"+wechatsim.DemoAppID+"</AppId><InfoType>authorized</InfoType><AuthorizationCode>SEKRET") // cut short
	b.until("Sign", 0, `wxtoken_push_odd_total{kind="field"} [1-9]`)
	b.said(b.in, "odd push stored")
	b.until("Look", 0, `Wxtoken-Reason: read push: AuthorizationCode is missing`)
	b.tell("/odd-pushes", "infotype=component_verify_ticket&times=3")
	b.run("Verify", 0, `result="accepted"} [1-9]`)
}

func keysChanged(b *book) {
	b.open(1)
	b.set("NEW_AES_KEY", strings.Repeat("SEKRETanotherkey", 3)[:43])
	b.run("Do", 0, "")
	b.said(b.in, "component's secrets changed")
	b.until("Verify", 0, `wxtoken_push_key_total{key="previous"} [1-9]`) // WeChat's console has the old one still
	// The platform's key can't be changed, so what is the new one from now on is what the platform has.
	b.secret(wechatsim.DemoAppID, "aes_key", wechatsim.DemoEncodingAESKey)
	b.run("Do", 1, "")
	before := len(b.history("push_answer"))
	poll(b.T, func() error {
		if n := len(b.history("push_answer")) - before; n < 5 {
			return fmt.Errorf("%d pushes since", n)
		}
		return nil
	})
	b.run("Verify", 0, `(?s)key="current"} [1-9].*reason="decrypt"} 0.*reason="signature"} 0`)
}

func passwordsChanged(b *book) {
	b.open(2)
	before := b.generations()
	for _, user := range users {
		b.server.env = append(b.server.env, strings.ToUpper(user)+"_PASSWORD=another-of-"+user)
	}
	b.server.stop()
	startAll(b.T, []*natsServer{b.server})
	for _, p := range []*process{b.in, b.re} {
		b.said(p, "nats refused the user")
		p.terminate()
	}
	b.url = func(role string) string {
		return fmt.Sprintf("nats://%s:another-of-%s@%s:%d", role, role, b.server.host, b.server.port)
	}
	b.startBoth()
	b.passwords("another-of-")
	if _, err := b.try(b.page[contexts][1]); err != nil {
		b.Fatal(err)
	}
	b.run("Verify", 0, isActive)
	poll(b.T, func() error { return b.allAccepted(before, 1) })
}

func leakedSecret(b *book) {
	b.open(3, "--life=60s", "--overlap=0s")
	const other = "fedcba9876543210fedcba9876543210"
	old := map[wxtoken.Key]wxtoken.Token{}
	for _, key := range b.keys() {
		token, err := b.accepted(key)
		if err != nil {
			b.Fatal(err)
		}
		old[key] = token
	}
	b.tell("/secret", "appsecret="+other)
	b.set("APPSECRET", other)
	b.until("Do", 0, `"outcome":"renewing"`) // too soon, where it was renewed a moment before
	component := b.keys()[0]
	poll(b.T, func() error { return b.renewed(component, old[component].Generation+1) })
	if out := b.run("Do", 1, ""); strings.Count(out, `"outcome":"renewing"`) != 3 {
		b.Errorf("not all three accounts are being renewed: %s", out)
	}
	poll(b.T, func() error {
		for key, token := range old {
			if err := b.renewed(key, token.Generation+1); err != nil {
				return err
			}
		}
		return nil
	})
	b.until("Verify", 0, `(?s)`+isActive+`.*kind="authorizer",outcome="ok",trigger="asked"} 3`)
}

func clockWrong(b *book) {
	b.open(1)
	b.run("Verify", 0, `wxtoken_push_skewed_total 0`)
}

func deadEvent(b *book) {
	b.open(1, "--life=10m")
	key := b.keys()[1]
	subject := "wechat.auth." + key.Component + ".unauthorized"
	// As an older program may have buried what this one can process.
	event := fmt.Sprintf(`{"kind":"unauthorized","component":%q,"authorizer":%q,"create_time":%q,"received_at":%[3]q}`,
		key.Component, key.Authorizer, time.Now().UTC().Add(time.Minute).Format(time.RFC3339))
	if err := b.nc.Publish("dead."+subject, []byte(event)); err != nil {
		b.Fatal(err)
	}
	b.until("Sign", 0, `Messages: 1`)
	b.run("Look", 0, `dead\.`+regexp.QuoteMeta(subject))
	b.set("SEQ", "1")
	b.tell("/drop-pushes", "infotype=unauthorized")
	b.tell("/cancel", "authorizer="+key.Authorizer)
	b.run("Do", 0, `"outcome":"replayed"`)
	poll(b.T, func() error {
		if _, err := b.stored(key); err == nil {
			return fmt.Errorf("%s still has a token", key)
		}
		return nil
	})
	b.run("Verify", 0, `(?s)Messages: 0.*"action":"replay","by":"nats","inbox":"_INBOX_operator"`)
}

// restoredBackup makes a backup, lets life go on until everything in it is old, restores it, and wants all tokens back without a person,
// after the list was read, for the services too.
func restoredBackup(b *book) {
	b.open(4, "--life=10s", "--rotation=each-old-dead")
	b.set("BACKUP", filepath.Join(b.TempDir(), "backup"))
	written := messages{b}
	written.write("before-backup")
	b.run("Do", 0, "")
	b.run("Verify", 0, `(?s)OK:.*OK:`)
	written.backUp()
	for n := range 3 {
		written.write(fmt.Sprint("after-backup-", n))
	}
	services := b.watch(true) // which nobody restarts
	made := time.Now()
	for range 20 { // what a day brings
		for range 1000 {
			if _, err := b.js.PublishAsync("credential.proof", nil); err != nil {
				b.Fatal(err)
			}
		}
		<-b.js.PublishAsyncComplete()
	}
	before := b.generations()
	poll(b.T, func() error { return b.allAccepted(before, 2) }) // the refresh tokens in it are dead
	b.tell("/reauthorize", "authorizer="+b.keys()[2].Authorizer)
	poll(b.T, func() error {
		if age := time.Since(made); age < 25*time.Second {
			return fmt.Errorf("the backup is %s old", age)
		}
		return nil
	})
	b.in.terminate()
	b.re.terminate()
	seen := len(b.history("call"))
	authorized := len(b.history("authorize"))

	b.on("Open the user `repair`")
	b.run("Do", 0, "")
	b.until("Verify", 0, "")
	b.on("Restore a backup")
	for n := range 2 { // delete and restore
		b.run("Do", n, "")
	}
	written.restore()
	restored := time.Now()
	if len(services.behind(b.keys(), made)) > 0 {
		b.Error("the services had not heard of what came after the backup: this shows nothing")
	}
	other := b.refresher()
	b.startBoth()
	poll(b.T, func() error { return b.allAccepted(nil, 1) })
	services.allHear(b.keys(), restored)
	b.until("Verify", 0, `(?s)`+isActive+`.*wxtoken_authorizers_token_invalid{[^}]*} 0`)
	poll(b.T, func() error {
		ctx, cancel := context.WithTimeout(b.Context(), 5*time.Second)
		defer cancel()
		client, err := wxtoken.NewClient(ctx, b.connect("service"), wxtoken.Config{})
		if err != nil {
			return err
		}
		defer client.Close()
		for _, key := range b.keys() {
			token, err := client.Token(key)
			if err != nil {
				return err
			}
			if stored, err := b.stored(key); err != nil || stored.Generation != token.Generation {
				return fmt.Errorf("services read generation %d of %s, and %d is stored: %v", token.Generation, key, stored.Generation, err)
			}
		}
		return nil
	})
	first := ""
	for _, e := range b.history("call")[seen:] {
		if first == "" && (e.API == "api_get_authorizer_list" || e.API == "api_authorizer_token") {
			first = e.API
		}
		if e.Errcode == 61023 {
			b.Errorf("%s was asked for with a refresh token out of the backup", e.Authorizer)
		}
	}
	if first != "api_get_authorizer_list" {
		b.Errorf("the first of list and renewals was %q", first)
	}
	if n := len(b.history("authorize")); n != authorized {
		b.Errorf("%d authorizations since: somebody was asked", n-authorized)
	}
	said := other.stdout.String() + b.re.stdout.String()
	for _, msg := range []string{"tokens long dead, reading WeChat's list before any renewal", "reconciled with WeChat's list"} {
		if !strings.Contains(said, msg) {
			b.Errorf("nobody said %q", msg)
		}
	}
	written.followed()
}

func moreProcesses(b *book) {
	b.open(1)
	b.run("Verify", 0, "")
}

// diskKeyChanged takes everything to a store with another JETSTREAM_KEY. An empty one is refused before the server starts.
func diskKeyChanged(b *book) {
	b.open(3, "--life=10m")
	before := b.generations()
	b.set("BACKUP", filepath.Join(b.TempDir(), "backup"))
	b.set("STORE", b.server.store())
	entry := b.title
	b.on("Make a backup")
	b.run("Do", 0, "")
	b.in.terminate()
	b.re.terminate()
	b.server.stop()

	empty := exec.Command("../../deploy/nats/before-start", b.server.store())
	empty.Env = []string{"PATH=" + os.Getenv("PATH"), "JETSTREAM_KEY="}
	if out, err := empty.CombinedOutput(); err == nil || !strings.Contains(string(out), "JETSTREAM_KEY is empty") {
		b.Errorf("before the start with an empty key: %v %s", err, out)
	}
	b.on(entry)
	b.run("Do", 0, "")
	b.server.env = append(b.server.env, "JETSTREAM_KEY=another-key-of-the-disk")
	startAll(b.T, []*natsServer{b.server})
	b.set("RELOAD", fmt.Sprintf("kill -HUP %d", b.server.cmd.Process.Pid))
	b.on("Open the user `repair`")
	b.run("Do", 0, "")
	b.until("Verify", 0, "")
	b.on("Restore a backup")
	b.run("Do", 1, "")
	b.startBoth()
	poll(b.T, func() error { return b.allAccepted(nil, 1) })
	for key, generation := range b.generations() {
		if generation < before[key] {
			b.Errorf("%s came with generation %d, and had %d", key, generation, before[key])
		}
	}
	b.on(entry)
	b.run("Verify", 0, "")
	b.run("Verify", 1, "")
}

// movedToAccounts takes what was stored without accounts along to the settings that are shipped: a store in the clear is renamed, one
// that is encrypted goes through a backup.
func movedToAccounts(b *book) {
	withoutAccounts := func(changes ...string) (before map[wxtoken.Key]uint64) {
		b.server = newNATS(b.T, b.programs, []string{"127.0.0.1"}, changes...)[0]
		b.settle(newSiteOn(b.T, b.programs, startAll(b.T, []*natsServer{b.server}), 3, "--life=10m"))
		b.startBoth()
		poll(b.T, func() error { return b.allAccepted(nil, 1) })
		b.in.terminate()
		b.re.terminate()
		return b.generations()
	}
	same := func(before map[wxtoken.Key]uint64) {
		poll(b.T, func() error { return b.allAccepted(nil, 1) })
		for key, generation := range b.generations() {
			if generation != before[key] {
				b.Errorf("%s came with generation %d, and had %d", key, generation, before[key])
			}
		}
		b.startBoth()
		poll(b.T, func() error { return b.allAccepted(nil, 1) })
	}

	before := withoutAccounts() // encrypted, as it is shipped
	entry := b.title
	b.set("BACKUP", filepath.Join(b.TempDir(), "backup"))
	b.on("Make a backup")
	b.run("Do", 0, "")
	b.server.stop()
	if err := os.RemoveAll(b.server.store()); err != nil {
		b.Fatal(err)
	}
	b.server.inAccounts()
	startAll(b.T, []*natsServer{b.server})
	b.set("RELOAD", fmt.Sprintf("kill -HUP %d", b.server.cmd.Process.Pid))
	b.on("Open the user `repair`")
	b.run("Do", 0, "")
	b.until("Verify", 0, "")
	b.on("Restore a backup")
	b.run("Do", 1, "")
	b.on(entry)
	same(before)
	b.in.terminate()
	b.re.terminate()

	before = withoutAccounts("cipher: chachapoly", "", "key: $JETSTREAM_KEY", "")
	b.server.stop()
	if !b.inTheStore("SEKRET") {
		b.Error("the store has no token in the clear, so that there is nothing to encrypt")
	}
	b.set("STORE", b.server.store())
	b.run("", 0, "")
	b.server.inAccounts()
	startAll(b.T, []*natsServer{b.server})
	same(before)
	b.server.stop()
	if b.inTheStore("SEKRET") {
		b.Error("the store has tokens in the clear")
	}
}
