package services_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"wxtoken/internal/services"
)

// TestSummary: a service tells what it is, in the words of the file, and no key, no secret, no more of a URL than its host.
func TestSummary(t *testing.T) {
	t.Parallel()
	s := one(t, fmt.Sprintf(`"accounts":["%s/%s","%s/*","ref:eu-*"],"may":["relay","links"],"apis":["/cgi-bin/user/"],
		"webhooks":[{"url":"https://shop.example/hooks/SEKRET?k=SEKRET","messages":["%[1]s/*/event/CLICK","%[1]s/*/notice"],"reply":true,"secret":%[4]q}]`, component, shop, other, secret))
	text, err := json.Marshal(s.Summary())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"shop","may":["token","relay","links"],"accounts":["` + component + `/` + shop + `","` + other + `/*","ref:eu-*"],"apis":["/cgi-bin/user/"],` +
		`"webhooks":[{"host":"shop.example","messages":["` + component + `/*/event/CLICK","` + component + `/*/notice"],"reply":true}]}`
	if string(text) != want {
		t.Errorf("%s\nwant %s", text, want)
	}
}

// TestRecords: however much the file says, each record fits, and each service is in one.
func TestRecords(t *testing.T) {
	t.Parallel()
	var all []services.ServedService
	for i := range 50 {
		s := services.ServedService{Summary: services.Summary{Name: fmt.Sprintf("service-%d", i)}}
		for j := range i * i {
			s.Accounts = append(s.Accounts, fmt.Sprintf("%s/%s%d", strings.Repeat("c", 64), strings.Repeat("a", 60), j))
			s.Webhooks = append(s.Webhooks, services.WebhookSummary{Host: strings.Repeat("h", 200), Messages: s.Accounts})
		}
		all = append(all, s)
	}
	records, err := services.Records(services.Served{Role: "gateway"}, all)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, data := range records {
		var s services.Served
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		if len(data) > 16<<10 || s.Role != "gateway" {
			t.Errorf("a record of %d bytes", len(data))
		}
		for _, one := range s.Services {
			if one.Name != fmt.Sprintf("service-%d", n) {
				t.Errorf("%s in the place of service-%d", one.Name, n)
			}
			if whole := len(one.Accounts) == n*n; whole != (one.LeftOut == 0) {
				t.Errorf("%s: %d accounts, %d entries left out", one.Name, len(one.Accounts), one.LeftOut)
			}
			n++
		}
	}
	if n != 50 {
		t.Errorf("%d services are in the records, want 50", n)
	}
	if none, err := services.Records(services.Served{}, nil); err != nil || len(none) != 1 {
		t.Errorf("no services: %d records, %v; want one that says so", len(none), err)
	}
}
