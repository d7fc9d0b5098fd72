package wechat_test

import (
	"strings"
	"testing"

	"wxtoken/internal/wechat"
)

func TestParseEnvelope(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		body, encrypt string
		json          bool
	}{
		"authorization event URL": {"<xml><AppId><![CDATA[wx1]]></AppId><Encrypt><![CDATA[QUJD]]></Encrypt></xml>", "QUJD", false},
		"message and event URL":   {"<xml>\n<ToUserName>gh_1</ToUserName>\n<Encrypt>QUJD</Encrypt>\n</xml>\n", "QUJD", false},
		"JSON":                    {`{"ToUserName":"gh_1","Encrypt":"QU\/D"}`, "QU/D", true},
		"compatibility mode": {"<xml><ToUserName>gh_1</ToUserName><MsgType>event</MsgType><SendPicsInfo><PicList><item><PicMd5Sum>x</PicMd5Sum></item></PicList></SendPicsInfo>" +
			"<Encrypt><![CDATA[QUJD]]></Encrypt></xml>", "QUJD", false},
		"white space in and around": {"<xml>\n <Encrypt>\n <![CDATA[QU\r\nJD \n]]>\n </Encrypt>\n</xml>", "QUJD", false},
		"white space, JSON":         {`{"Encrypt":" QU\nJD\t"}`, "QUJD", true},
		"clear fields, odd":         {"<xml><Content><![CDATA[\x1d\xe5]]></Content><Encrypt>QUJD</Encrypt></xml>", "QUJD", false},
		"clear fields, broken":      {"<xml><Content><![CDATA[a]]> b]]></Content><c>1</d><Encrypt>QUJD</Encrypt></xml>", "QUJD", false},
		"broken behind":             {"<xml><Encrypt>QUJD</Encrypt><Content><![CDATA[a]]> b]]></Content></xml>", "QUJD", false},
		"another in a clear field":  {"<xml><Content><![CDATA[]]></Content><Encrypt>AAAA</Encrypt><Content><![CDATA[]]></Content><Encrypt>QUJD</Encrypt></xml>", "QUJD", false},
		"two AppId":                 {"<xml><AppId>a</AppId><AppId>b</AppId><Encrypt>QUJD</Encrypt></xml>", "QUJD", false},
		"one there and one nested":  {"<xml><Encrypt>QUJD</Encrypt><a><Encrypt>AAAA</Encrypt></a></xml>", "QUJD", false},
		"attributes and comments":   {"<xml><!-- c --><Encrypt a='b'>QUJD</Encrypt></xml>", "QUJD", false},
		"second root in a text":     {"<xml><Content><![CDATA[]]></Content></xml> a <b>]]></Content><Encrypt>QUJD</Encrypt></xml>", "QUJD", false},
		"instruction in a text":     {"<xml><Content><![CDATA[]]></Content><?x y?><Content><![CDATA[]]></Content><Encrypt>QUJD</Encrypt></xml>", "QUJD", false},
		"document type in a text":   {"<xml><Content><![CDATA[]]></Content><!DOCTYPE a><b>]]></Content><Encrypt>QUJD</Encrypt></xml>", "QUJD", false},
		"long, behind a quote":      {`{"Content":"say "hi"","Encrypt":"` + strings.Repeat("QUJD", 1000) + `" , "MsgType" : "text"}`, strings.Repeat("QUJD", 1000), true},
		"long, before a quote":      {`{"Encrypt":"` + strings.Repeat("QUJD", 1000) + `","Content":"say "hi""}`, strings.Repeat("QUJD", 1000), true},
		"number behind a quote":     {`{"Content":"say "hi"","Encrypt":"QUJD","MsgId":-12}`, "QUJD", true},
		"clear fields, raw JSON":    {"{\"Content\":\"a\x02\n\",\"Encrypt\":\"QUJD\"}", "QUJD", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := wechat.ParseEnvelope([]byte(row.body))
			if err != nil || string(e.Encrypt) != row.encrypt || e.JSON != row.json {
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
		"empty":                   {"", wechat.ReasonEmpty},
		"clear event":             {vectorNamed(t, "self-ticket").Plain, wechat.ReasonNoEncrypt},
		"clear event in JSON":     {`{"AppId":"wx1","InfoType":"unauthorized"}`, wechat.ReasonNoEncrypt},
		"empty Encrypt":           {"<xml><Encrypt></Encrypt></xml>", wechat.ReasonNoEncrypt},
		"null Encrypt":            {`{"Encrypt":null}`, wechat.ReasonNoEncrypt},
		"lower case":              {"<xml><encrypt>QUJD</encrypt></xml>", wechat.ReasonNoEncrypt},
		"two":                     {"<xml><Encrypt>QUJD</Encrypt><Encrypt>QUJD</Encrypt></xml>", wechat.ReasonXMLShape},
		"two in JSON":             {`{"Encrypt":"QUJD","Encrypt":"QUJD"}`, wechat.ReasonJSON},
		"nested":                  {"<xml><Encrypt><Encrypt>QUJD</Encrypt></Encrypt></xml>", wechat.ReasonXMLShape},
		"nested in another":       {"<xml><a><Encrypt>QUJD</Encrypt></a></xml>", wechat.ReasonXMLShape},
		"object":                  {`{"Encrypt":{"a":1}}`, wechat.ReasonXMLShape},
		"split by a comment":      {"<xml><Encrypt>QU<!-- -->JD</Encrypt></xml>", wechat.ReasonXMLShape},
		"split by CDATA":          {"<xml><Encrypt>QU<![CDATA[JD]]></Encrypt></xml>", wechat.ReasonXMLShape},
		"a bracket":               {"<xml><Encrypt>QU>JD</Encrypt></xml>", wechat.ReasonXML},
		"document type":           {"<!DOCTYPE xml><xml><Encrypt>QUJD</Encrypt></xml>", wechat.ReasonXML},
		"garbage behind":          {"<xml><Encrypt>QUJD</Encrypt></xml>garbage", wechat.ReasonXMLShape},
		"two, one of them nested": {"<xml><Content><![CDATA[]]><Encrypt>AAAA</Encrypt>]]></Content></xml>", wechat.ReasonNoEncrypt},
		"garbage before":          {"garbage<xml><Encrypt>QUJD</Encrypt></xml>", wechat.ReasonXMLShape},
		"second root":             {"<xml><Encrypt>QUJD</Encrypt></xml><xml></xml>", wechat.ReasonXMLShape},
		"more than an object":     {`{"Encrypt":"QUJD"} {}`, wechat.ReasonJSON},
		"instruction":             {"<?php x?><xml><Encrypt>QUJD</Encrypt></xml>", wechat.ReasonXML},
		"declared GBK":            {`<?xml version="1.0" encoding="GBK"?><xml><Encrypt>QUJD</Encrypt></xml>`, wechat.ReasonXML},
		"10,000 deep":             {"<xml>" + strings.Repeat("<a>", 10_000), wechat.ReasonXMLShape},
		"HTML":                    {"<html><body>" + strings.Repeat("x", 100) + "</body></html>", wechat.ReasonXML},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := wechat.ParseEnvelope([]byte(row.body))
			wantReason(t, err, row.reason)
		})
	}
}
