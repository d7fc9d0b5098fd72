package wechat_test

import (
	"testing"

	"wxtoken/internal/wechat"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ doc, want string }{
		"ticket": {
			"<xml><ComponentVerifyTicket><![CDATA[ticket@@@S]]></ComponentVerifyTicket>\n<a>1</a></xml>",
			"<xml><ComponentVerifyTicket></ComponentVerifyTicket>\n<a>1</a></xml>",
		},
		"all others, and nothing else": {
			"\uFEFF<?xml version=\"1.0\"?>\r\n<xml> <AuthorizationCode >S</AuthorizationCode><PreAuthCode>S&amp;<![CDATA[S]]></PreAuthCode><auth_code>S</auth_code><msg>&lt;好\r</msg></xml>\n",
			"\uFEFF<?xml version=\"1.0\"?>\r\n<xml> <AuthorizationCode ></AuthorizationCode><PreAuthCode></PreAuthCode><auth_code></auth_code><msg>&lt;好\r</msg></xml>\n",
		},
		"at any depth, with elements inside": {
			"<xml><info><auth_code><PreAuthCode>S</PreAuthCode><x>S</x></auth_code></info></xml>",
			"<xml><info><auth_code></auth_code></info></xml>",
		},
		"in other case": {"<xml><AUTH_CODE>S</AUTH_CODE></xml>", "<xml><AUTH_CODE></AUTH_CODE></xml>"},
		"empty":         {"<xml><auth_code/></xml>", "<xml><auth_code/></xml>"},
		"twice":         {"<xml><auth_code>S</auth_code><auth_code>S</auth_code></xml>", "<xml><auth_code></auth_code><auth_code></auth_code></xml>"},
		"JSON": {
			"\uFEFF{ \"ComponentVerifyTicket\" :\t\"S\\n\" , \"a\":1.50,\"b\":{\"auth_code\":[\"S\",{\"PreAuthCode\":\"S\"}]}, \"AuthorizationCode\":123}",
			"\uFEFF{ \"ComponentVerifyTicket\" :\t\"\" , \"a\":1.50,\"b\":{\"auth_code\":\"\"}, \"AuthorizationCode\":\"\"}",
		},
		"among odd bytes": {
			"<xml><!-- c --><a b='c'>\x10\xe5</a>word<auth_code d='e'>S</auth_code></xml>",
			"<xml><!-- c --><a b='c'>\x10\xe5</a>word<auth_code d='e'></auth_code></xml>",
		},
		"JSON, raw and twice":                {"{\"auth_code\":\"S\x02\",\"auth_code\":\"S\"}", `{"auth_code":"","auth_code":""}`},
		"wrong end tag":                      {"<xml><a>1</b><auth_code>S</auth_code></xml>", ""},
		"wrong end tag, and no secret":       {"<xml><a>1</b><c>2</c></xml>", "<xml><a>1</b><c>2</c></xml>"},
		"in a comment":                       {"<xml><!-- queryauthcode@@@S --></xml>", ""},
		"in an attribute":                    {`<xml><a auth_code="S"/></xml>`, ""},
		"in a comment, without a mark":       {"<xml><!-- PreAuthCode: S --></xml>", ""},
		"with an attribute of its own":       {`<xml><w:auth_code a="b">S</w:auth_code><AuthorizationCodeExpiredTime>1</AuthorizationCodeExpiredTime></xml>`, `<xml><w:auth_code a="b"></w:auth_code><AuthorizationCodeExpiredTime>1</AuthorizationCodeExpiredTime></xml>`},
		"under another name":                 {"<xml><code>queryauthcode@@@S</code></xml>", ""},
		"cut short, and the name in escapes": {`{"auth\u005fcode":"S"`, ""},
		"no document":                        {"ComponentVerifyTicket=S", ""},
		"cut short":                          {"<xml><auth_code>S</auth_code>", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc := []byte(row.doc)
			if got := string(wechat.Redact(doc)); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
			if string(doc) != row.doc {
				t.Error("Redact changed its argument")
			}
		})
	}
}
