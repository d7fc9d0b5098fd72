//go:build unix

package systemtest

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

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
	times := min(9+renewed/4, accounts-4) // none twice: those wait for ten minutes
	b.tell("/fail", fmt.Sprintf("api=api_authorizer_token&errcode=61023&times=%d", times))
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
	// Until midnight in China; in the ten minutes behind it, until a few minutes later, and then again.
	ends := regexp.MustCompile(`"reason":"QuotaGone"[^{}]*"until":"([-0-9]+T[:0-9]+)`)
	poll(b.T, func() error {
		sign, err := b.try(b.block("Sign", 0))
		if err != nil {
			return err
		}
		until := ends.FindStringSubmatch(sign)
		if until == nil {
			return fmt.Errorf("until when is not in the status: %s", sign)
		}
		out, err := b.try(b.block("Look", 0))
		if want := `(?s)wxtoken_held_back{[^}]*reason="QuotaGone"[^}]*} 1.*not before ` + until[1]; err == nil && !regexp.MustCompile(want).MatchString(out) {
			err = fmt.Errorf("it printed no %s: %s", want, out)
		}
		return err
	})
	b.on("The day's quota is gone")
	b.tell("/daily-limit", "api=api_authorizer_token&limit=-1") // the cause is removed, as the entry says
	b.run("Do", 0, `"cleared":true`)
	b.until("Verify", 0, isActive)
	b.on("Renewals are held back")
	b.until("Verify", 0, `"type":"Renewing","status":"True"`)
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
