package wechat_test

import (
	"strings"
	"testing"

	"wxtoken/internal/wechat"
)

func TestParseEnvelope(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		body, appID, toUserName, encrypt string
		json                             bool
	}{
		"authorization event URL": {"<xml><AppId><![CDATA[wx1]]></AppId><Encrypt><![CDATA[QUJD]]></Encrypt></xml>", "wx1", "", "QUJD", false},
		"message and event URL":   {"<xml>\n<ToUserName>gh_1</ToUserName>\n<Encrypt>QUJD</Encrypt>\n</xml>\n", "", "gh_1", "QUJD", false},
		"JSON":                    {`{"ToUserName":"gh_1","Encrypt":"QU\/D"}`, "", "gh_1", "QU/D", true},
		"compatibility mode": {"<xml><ToUserName>gh_1</ToUserName><MsgType>event</MsgType><SendPicsInfo><PicList><item><PicMd5Sum>x</PicMd5Sum></item></PicList></SendPicsInfo>" +
			"<Encrypt><![CDATA[QUJD]]></Encrypt></xml>", "", "gh_1", "QUJD", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := wechat.ParseEnvelope([]byte(row.body))
			if err != nil || e.AppID != row.appID || e.ToUserName != row.toUserName || string(e.Encrypt) != row.encrypt || e.JSON != row.json {
				t.Errorf("got %+v, %v", e, err)
			}
		})
	}
}

func TestParseEnvelopeRefuses(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		body   string
		reason wechat.Reason
	}{
		"empty":                    {"", wechat.ReasonEmpty},
		"clear event":              {vectorNamed(t, "self-ticket").Plain, wechat.ReasonNoEncrypt},
		"clear event in JSON":      {`{"AppId":"wx1","InfoType":"unauthorized"}`, wechat.ReasonNoEncrypt},
		"empty Encrypt":            {"<xml><Encrypt></Encrypt></xml>", wechat.ReasonNoEncrypt},
		"null Encrypt":             {`{"Encrypt":null}`, wechat.ReasonNoEncrypt},
		"lower case":               {"<xml><encrypt>QUJD</encrypt></xml>", wechat.ReasonNoEncrypt},
		"two":                      {"<xml><Encrypt>QUJD</Encrypt><Encrypt>QUJD</Encrypt></xml>", wechat.ReasonXMLShape},
		"two in JSON":              {`{"Encrypt":"QUJD","Encrypt":"QUJD"}`, wechat.ReasonJSON},
		"nested":                   {"<xml><Encrypt><Encrypt>QUJD</Encrypt></Encrypt></xml>", wechat.ReasonXMLShape},
		"nested in another":        {"<xml><a><Encrypt>QUJD</Encrypt></a></xml>", wechat.ReasonXMLShape},
		"one there and one nested": {"<xml><Encrypt>QUJD</Encrypt><a><Encrypt>QUJD</Encrypt></a></xml>", wechat.ReasonXMLShape},
		"object":                   {`{"Encrypt":{"a":1}}`, wechat.ReasonXMLShape},
		"split by a comment":       {"<xml><Encrypt>QU<!-- -->JD</Encrypt></xml>", wechat.ReasonXMLShape},
		"split by CDATA":           {"<xml><Encrypt>QU<![CDATA[JD]]></Encrypt></xml>", wechat.ReasonXMLShape},
		"two AppId":                {"<xml><AppId>a</AppId><AppId>b</AppId><Encrypt>QUJD</Encrypt></xml>", wechat.ReasonXMLShape},
		"document type":            {"<!DOCTYPE xml><xml><Encrypt>QUJD</Encrypt></xml>", wechat.ReasonXML},
		"garbage behind":           {"<xml><Encrypt>QUJD</Encrypt></xml>garbage", wechat.ReasonXMLShape},
		"HTML":                     {"<html><body>" + strings.Repeat("x", 100) + "</body></html>", wechat.ReasonXML},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := wechat.ParseEnvelope([]byte(row.body))
			wantReason(t, err, row.reason)
		})
	}
}
