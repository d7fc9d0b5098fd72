package wechat_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"wxtoken/client/document"
	"wxtoken/internal/wechat"
)

// The documents of a push differ in what follows these fields.
const pushHead = "<xml><AppId>wx1</AppId><CreateTime>1413192760</CreateTime>"

var pushTime = time.Unix(1413192760, 0).UTC()

// checkFields compares what a push says; a Push does not print itself.
func checkFields(t *testing.T, got, want wechat.Push) {
	t.Helper()
	for _, field := range []struct {
		name      string
		got, want any
	}{
		{"AppID", got.AppID, want.AppID},
		{"InfoType", got.InfoType, want.InfoType},
		{"CreateTime", got.CreateTime, want.CreateTime},
		{"Ticket", got.Ticket, want.Ticket},
		{"AuthorizerAppID", got.AuthorizerAppID, want.AuthorizerAppID},
		{"Code", got.Code, want.Code},
		{"PreAuthCode", got.PreAuthCode, want.PreAuthCode},
	} {
		if field.got != field.want {
			t.Errorf("%s: got %v, want %v", field.name, field.got, field.want)
		}
	}
}

func TestParsePush(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		doc  string
		want wechat.Push
	}{
		"ticket": {
			pushHead + "<InfoType><![CDATA[component_verify_ticket]]></InfoType><ComponentVerifyTicket><![CDATA[ticket@@@abc]]></ComponentVerifyTicket></xml>",
			wechat.Push{InfoType: wechat.InfoTicket, Ticket: "ticket@@@abc"},
		},
		"authorized, absolute expiry": {
			pushHead + "<InfoType>authorized</InfoType><AuthorizerAppid>wx2</AuthorizerAppid><AuthorizationCode>queryauthcode@@@a</AuthorizationCode>" +
				"<AuthorizationCodeExpiredTime>1413196360</AuthorizationCodeExpiredTime><PreAuthCode>preauthcode@@@b</PreAuthCode></xml>",
			wechat.Push{
				InfoType: wechat.InfoAuthorized, AuthorizerAppID: "wx2", Code: "queryauthcode@@@a", PreAuthCode: "preauthcode@@@b",
			},
		},
		"updateauthorized, relative expiry": {
			pushHead + "<InfoType>updateauthorized</InfoType><AuthorizerAppid>wx2</AuthorizerAppid><AuthorizationCode>a</AuthorizationCode>" +
				"<AuthorizationCodeExpiredTime>600</AuthorizationCodeExpiredTime><PreAuthCode></PreAuthCode></xml>",
			wechat.Push{InfoType: wechat.InfoUpdateAuthorized, AuthorizerAppID: "wx2", Code: "a"},
		},
		"authorized, odd expiry": {
			pushHead + "<InfoType>authorized</InfoType><AuthorizerAppid>wx2</AuthorizerAppid><AuthorizationCode>a</AuthorizationCode>" +
				"<AuthorizationCodeExpiredTime>soon</AuthorizationCodeExpiredTime></xml>",
			wechat.Push{InfoType: wechat.InfoAuthorized, AuthorizerAppID: "wx2", Code: "a"},
		},
		"unauthorized": {
			pushHead + "<InfoType>unauthorized</InfoType><AuthorizerAppid>wx2</AuthorizerAppid></xml>",
			wechat.Push{InfoType: wechat.InfoUnauthorized, AuthorizerAppID: "wx2"},
		},
		"quick registration": {
			pushHead + "<InfoType>notify_third_fasteregister</InfoType><appid>wx3</appid><status>0</status><auth_code>queryauthcode@@@c</auth_code>" +
				"<msg>OK</msg><info><name>测试</name><code>91x</code><code_type>1</code_type></info></xml>",
			wechat.Push{InfoType: wechat.InfoFastRegister, AuthorizerAppID: "wx3", Code: "queryauthcode@@@c"},
		},
		"quick registration that failed": {
			pushHead + "<InfoType>notify_third_fasteregister</InfoType><appid/><status>89249</status><auth_code></auth_code><msg>x</msg></xml>",
			wechat.Push{InfoType: wechat.InfoFastRegister},
		},
		"trial mini program": {
			pushHead + "<InfoType>notify_third_fastregisterbetaapp</InfoType><appid>wx3</appid><status>0</status><info><unique_id>1</unique_id></info></xml>",
			wechat.Push{InfoType: "notify_third_fastregisterbetaapp"},
		},
		"verification": {
			pushHead + "<InfoType>notify_3rd_wxa_auth</InfoType><appid>wx3</appid><taskid>x</taskid><dispatch_info><provider>y</provider></dispatch_info></xml>",
			wechat.Push{InfoType: "notify_3rd_wxa_auth"},
		},
		"unknown, with known names used otherwise": {
			pushHead + "<InfoType>something_new</InfoType><status><x>1</x></status><appid>a b</appid><appid>c</appid></xml>",
			wechat.Push{InfoType: "something_new"},
		},
		"JSON with a number for the time": {
			`{"AppId":"wx1","CreateTime":1413192760,"InfoType":"component_verify_ticket","ComponentVerifyTicket":"ticket@@@abc"}`,
			wechat.Push{InfoType: wechat.InfoTicket, Ticket: "ticket@@@abc"},
		},
		"JSON": {
			`{"InfoType":"authorized","AppId":"wx1","CreateTime":"1413192760","AuthorizerAppid":"wx2","AuthorizationCode":"a","AuthorizationCodeExpiredTime":600,"PreAuthCode":null}`,
			wechat.Push{InfoType: wechat.InfoAuthorized, AuthorizerAppID: "wx2", Code: "a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			push, err := wechat.ParsePush([]byte(row.doc))
			if err != nil {
				t.Fatal(err)
			}
			row.want.AppID, row.want.CreateTime = "wx1", pushTime
			checkFields(t, push, row.want)
		})
	}
}

// What can't be read of a push does not keep the rest of it from being read, and says so.
func TestParsePushOdd(t *testing.T) {
	t.Parallel()
	ticket := func(value string) string {
		return pushHead + "<InfoType>component_verify_ticket</InfoType><ComponentVerifyTicket>" + value + "</ComponentVerifyTicket></xml>"
	}
	authorized := func(appid, code string) string {
		return pushHead + "<InfoType>authorized</InfoType><AuthorizerAppid>" + appid + "</AuthorizerAppid><AuthorizationCode>" + code + "</AuthorizationCode></xml>"
	}
	at := func(created string) string {
		return "<xml><AppId>wx1</AppId><CreateTime>" + created + "</CreateTime><InfoType>x.y z</InfoType></xml>"
	}
	register := func(fields string) string {
		return pushHead + "<InfoType>notify_third_fasteregister</InfoType>" + fields + "</xml>"
	}
	for name, row := range map[string]struct {
		doc, lacks string // lacks is a part of Lacks, empty when a keeper has what he needs
		want       wechat.Push
		kind       document.Kind
	}{
		"AppId missing":           {"<xml><CreateTime>1413192760</CreateTime><InfoType>x</InfoType></xml>", "", wechat.Push{InfoType: "x"}, document.Field},
		"AppId with a space":      {"<xml><AppId>wx 1</AppId><CreateTime>1413192760</CreateTime><InfoType>x</InfoType></xml>", "", wechat.Push{InfoType: "x"}, document.Field},
		"InfoType of any shape":   {pushHead + "<InfoType>new.kind:of news</InfoType></xml>", "", wechat.Push{AppID: "wx1", InfoType: "new.kind:of news"}, ""},
		"InfoType missing":        {pushHead + "</xml>", "", wechat.Push{AppID: "wx1"}, ""},
		"InfoType in doubt":       {pushHead + "<InfoType>a</InfoType><InfoType>b</InfoType></xml>", "", wechat.Push{AppID: "wx1"}, document.Twice},
		"cut short":               {pushHead + "<InfoType>authorized</InfoType><AuthorizationCode>a", "AuthorizationCode", wechat.Push{AppID: "wx1", InfoType: "authorized"}, document.Structure},
		"InfoType lost":           {pushHead + "<a>1</b><InfoType>authorized</Info><AuthorizationCode>a</AuthorizationCode></xml>", "InfoType", wechat.Push{AppID: "wx1", Code: "a"}, document.Structure},
		"CreateTime text":         {at("yesterday!"), "", wechat.Push{AppID: "wx1", InfoType: "x.y z"}, document.Field},
		"CreateTime negative":     {at("-141319276"), "", wechat.Push{AppID: "wx1", InfoType: "x.y z"}, document.Field},
		"CreateTime 2^63":         {at("9223372036854775808"), "", wechat.Push{AppID: "wx1", InfoType: "x.y z"}, document.Field},
		"own lines":               {ticket("\n  t\n"), "", wechat.Push{AppID: "wx1", InfoType: "component_verify_ticket", Ticket: "t"}, document.Space},
		"ticket missing":          {pushHead + "<InfoType>component_verify_ticket</InfoType></xml>", "ComponentVerifyTicket", wechat.Push{AppID: "wx1", InfoType: "component_verify_ticket"}, document.Field},
		"ticket of 2,049":         {ticket(strings.Repeat("a", 2049)), "ComponentVerifyTicket", wechat.Push{AppID: "wx1", InfoType: "component_verify_ticket"}, document.Field},
		"ticket with a reference": {ticket("a&#13;&#10;b"), "ComponentVerifyTicket", wechat.Push{AppID: "wx1", InfoType: "component_verify_ticket"}, document.Field},
		"ticket not ASCII":        {ticket("票"), "ComponentVerifyTicket", wechat.Push{AppID: "wx1", InfoType: "component_verify_ticket"}, document.Field},
		"AuthorizerAppid missing": {authorized("", "a"), "", wechat.Push{AppID: "wx1", InfoType: "authorized", Code: "a"}, ""},
		"AuthorizerAppid a path":  {authorized("../x", "a"), "", wechat.Push{AppID: "wx1", InfoType: "authorized", Code: "a"}, document.Field},
		"AuthorizerAppid of 200":  {authorized(strings.Repeat("a", 200), "a"), "", wechat.Push{AppID: "wx1", InfoType: "authorized", Code: "a"}, document.Field},
		"nobody cancelled":        {pushHead + "<InfoType>unauthorized</InfoType></xml>", "AuthorizerAppid", wechat.Push{AppID: "wx1", InfoType: "unauthorized"}, document.Field},
		"code missing":            {authorized("wx2", ""), "AuthorizationCode", wechat.Push{AppID: "wx1", InfoType: "authorized", AuthorizerAppID: "wx2"}, document.Field},
		"code with a line end":    {authorized("wx2", "a\r\nb"), "AuthorizationCode", wechat.Push{AppID: "wx1", InfoType: "authorized", AuthorizerAppID: "wx2"}, document.Field},
		"a wrong end before it": {
			pushHead + "<InfoType>authorized</InfoType><a>1</b><AuthorizerAppid>wx2</AuthorizerAppid><AuthorizationCode>a</AuthorizationCode><c>1</d></xml>", "",
			wechat.Push{AppID: "wx1", InfoType: "authorized", AuthorizerAppID: "wx2", Code: "a"}, document.Structure,
		},
		"registration, a wrong end first": {
			"<xml><a>1</b>" + strings.TrimPrefix(register("<appid>wx2</appid><status>0</status><auth_code>c</auth_code><info>x</info>"), "<xml>"), "",
			wechat.Push{AppID: "wx1", InfoType: "notify_third_fasteregister", AuthorizerAppID: "wx2", Code: "c"}, document.Structure,
		},
		"registration, no status": {register("<appid>wx2</appid>"), "status", wechat.Push{AppID: "wx1", InfoType: "notify_third_fasteregister", AuthorizerAppID: "wx2"}, document.Field},
		"registration, no code":   {register("<appid>wx2</appid><status>0</status>"), "auth_code", wechat.Push{AppID: "wx1", InfoType: "notify_third_fasteregister", AuthorizerAppID: "wx2"}, document.Field},
		"registration of two":     {register("<status>0</status><auth_code>c</auth_code><appid>a</appid><appid>b</appid>"), "", wechat.Push{AppID: "wx1", InfoType: "notify_third_fasteregister", Code: "c"}, document.Twice},
		"a code in a name": {
			register("<status>9</status><info><name><![CDATA[]]></name></info><auth_code>c</auth_code><info><name><![CDATA[]]></name></info>"), "",
			wechat.Push{AppID: "wx1", InfoType: "notify_third_fasteregister"}, document.Twice,
		},
		"no document": {"hello", "XML", wechat.Push{}, document.Unreadable},
		"blank":       {" \n", "XML", wechat.Push{}, document.Unreadable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := wechat.ParsePush([]byte(row.doc))
			if err != nil {
				t.Fatal(err)
			}
			if row.want.AppID != "" && !strings.HasPrefix(name, "CreateTime") || strings.HasPrefix(name, "AppId") {
				row.want.CreateTime = pushTime
			}
			checkFields(t, p, row.want)
			if (p.Lacks == "") != (row.lacks == "") || !strings.Contains(p.Lacks, row.lacks) {
				t.Errorf("lacks %q, want %q", p.Lacks, row.lacks)
			}
			if row.kind != "" && !slices.ContainsFunc(p.Odd, func(o document.Oddity) bool { return o.Kind == row.kind }) {
				t.Errorf("oddities %v, want %s", p.Odd, row.kind)
			}
		})
	}
	for _, doc := range []string{"<!DOCTYPE xml><xml></xml>", pushHead + "<!ENTITY a 'b'></xml>"} {
		_, err := wechat.ParsePush([]byte(doc))
		wantReason(t, err, wechat.ReasonXML)
		_, err = wechat.ParseMessage([]byte(doc))
		wantReason(t, err, wechat.ReasonXML)
	}
}

// Refusals and oddities are logged, so they must say nothing of the document.
func TestRefusalsShowNoContent(t *testing.T) {
	t.Parallel()
	const secret = "SEKRET"
	for _, doc := range []string{
		pushHead + "<InfoType>component_verify_ticket</InfoType><ComponentVerifyTicket>" + secret + "\t</ComponentVerifyTicket></xml>",
		pushHead + "<InfoType>" + secret + ".</InfoType></xml>",
		pushHead + "<" + secret + " a='" + secret + "'/></xml>",
		pushHead + "&" + secret + ";</xml>",
		pushHead + secret + "</xml>",
		"<" + secret + "/>",
		`{"` + secret + `":1,"` + secret + `":2}`,
		secret,
	} {
		p, pushErr := wechat.ParsePush([]byte(doc))
		m, messageErr := wechat.ParseMessage([]byte(doc))
		_, err := wechat.ParseEnvelope([]byte(doc))
		if err == nil {
			t.Errorf("%.60q: taken for an envelope", doc)
		}
		if said := fmt.Sprint(p.Odd, p.Lacks, m.Odd, pushErr, messageErr, err); strings.Contains(said, secret) {
			t.Errorf("%.60q: %s", doc, said)
		}
	}
}

func TestPushID(t *testing.T) {
	t.Parallel()
	base := wechat.Push{AppID: "wx1", InfoType: "authorized", CreateTime: pushTime, AuthorizerAppID: "wx2", Code: "abc"}
	id := base.ID()
	if len(id) != 64 || id != base.ID() {
		t.Errorf("got %q, want the same 64 digits each time", id)
	}
	seen := map[string]string{id: "base"}
	for name, change := range map[string]func(*wechat.Push){
		"AppID":           func(p *wechat.Push) { p.AppID = "wx3" },
		"InfoType":        func(p *wechat.Push) { p.InfoType = "updateauthorized" },
		"CreateTime":      func(p *wechat.Push) { p.CreateTime = p.CreateTime.Add(time.Second) },
		"AuthorizerAppID": func(p *wechat.Push) { p.AuthorizerAppID = "wx3" },
		"Code":            func(p *wechat.Push) { p.Code = "abd" },
		"Ticket":          func(p *wechat.Push) { p.Ticket = "t" },
		"another split":   func(p *wechat.Push) { p.AuthorizerAppID, p.Code = "wx2a", "bc" },
		"moved":           func(p *wechat.Push) { p.AuthorizerAppID, p.Code = "abc", "wx2" },
	} {
		p := base
		change(&p)
		if other, taken := seen[p.ID()]; taken {
			t.Errorf("%s has the ID of %s", name, other)
		}
		seen[p.ID()] = name
	}
	base.CreateTime = base.CreateTime.In(time.FixedZone("Beijing", 8*3600))
	if base.ID() != id {
		t.Error("the time zone changes the ID")
	}
}

// Of an InfoType whose fields are not all known, the whole document counts: two verifications that
// end in the same second are two events.
func TestPushIDOfOtherInfoTypes(t *testing.T) {
	t.Parallel()
	id := func(doc string) string {
		t.Helper()
		p, err := wechat.ParsePush([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		return p.ID()
	}
	one := pushHead + "<InfoType>notify_3rd_wxa_auth</InfoType><appid>wx3</appid></xml>"
	two := pushHead + "<InfoType>notify_3rd_wxa_auth</InfoType><appid>wx4</appid></xml>"
	if id(one) == id(two) || id(one) != id(strings.Clone(one)) {
		t.Error("the ID does not tell the documents apart")
	}
	cdata := pushHead + "<InfoType>unauthorized</InfoType><AuthorizerAppid>wx2</AuthorizerAppid></xml>"
	plain := pushHead + "<AuthorizerAppid><![CDATA[wx2]]></AuthorizerAppid>\n<InfoType>unauthorized</InfoType></xml>"
	if id(cdata) != id(plain) {
		t.Error("the spelling of a cancellation changes its ID")
	}
}
