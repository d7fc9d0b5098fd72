//go:build unix

package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

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
	js := natsdtest.JetStream(b, service)
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
