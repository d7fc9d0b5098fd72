package redis

import (
	"strings"
	"testing"

	"wxtoken/client"
)

// TestKeysOfSDKs states the keys and values that SDKs look for, as their sources have them:
//
//   - WxJava 4.7.2.B: weixin-java-open, AbstractWxOpenInRedisConfigStorage.java (names, prefix), WxOpenInRedisConfigStorage.java (values);
//     weixin-java-common, JedisWxRedisOps.java, RedisTemplateWxRedisOps.java (strings as they are, TTL below 2 s is expired)
//   - github.com/silenceper/wechat/v2 v2.1.10: openplatform/context/accessToken.go, credential/default_js_ticket.go, cache/redis.go (GET and
//     SETEX of the string as it is)
//   - wechatpy 2.0.0.alpha26: component.py, client/__init__.py, session/redisstorage.py (JSON)
func TestKeysOfSDKs(t *testing.T) {
	t.Parallel()
	jsapi, card := wxtoken.JSAPITicketKey(component, shopID), wxtoken.WxCardTicketKey(component, shopID)
	for _, row := range []struct {
		format string
		key    wxtoken.Key
		want   string // key and value; empty: nothing is written
	}{
		{"wxjava", own, "wechat_component_access_token:" + component + " T"},
		{"wxjava", shop, "wechat_authorizer_access_token:" + component + ":" + shopID + " T"},
		{"wxjava", jsapi, "wechat_jsapi_ticket:" + component + ":" + shopID + " T"},
		{"wxjava", card, "wechat_card_api_ticket:" + component + ":" + shopID + " T"},
		{"wxjava:app", shop, "app:wechat_authorizer_access_token:" + component + ":" + shopID + " T"},
		{"wxjava:app:", own, "app:wechat_component_access_token:" + component + " T"},
		{"wxjava:app:live", own, "app:live:wechat_component_access_token:" + component + " T"},
		{"wxjava@" + component, shop, "wechat_authorizer_access_token:" + component + ":" + shopID + " T"},
		{"wxjava@" + other, shop, ""},
		{"silenceper", own, "component_access_token_" + component + " T"},
		{"silenceper", shop, "authorizer_access_token_" + shopID + " T"},
		{"silenceper", jsapi, "gowechat_officialaccount__jsapi_ticket_" + shopID + " T"},
		{"silenceper", card, ""},
		{"wechatpy", own, "wechatpy:" + component + `_component_access_token "T"`},
		{"wechatpy:py", shop, "py:" + shopID + `_access_token "T"`},
		{"wechatpy", jsapi, ""},
		{"token:{component}:{appid}", shop, "token:" + component + ":" + shopID + " T"},
		{"token:{component}:{appid}", own, ""},
		{"token:{component}:{appid}", jsapi, ""},
		{"{appid}", shop, shopID + " T"},
		{"component=c:{component}", own, "c:" + component + " T"},
		{"component=c:{component}", shop, ""},
		{"jsapi_ticket=js:{appid}", jsapi, "js:" + shopID + " T"},
		{"wx_card_ticket=card:{appid}@" + component, card, "card:" + shopID + " T"},
		{"a=b@host:{appid}", shop, "a=b@host:" + shopID + " T"},
	} {
		formats, err := parseFormats([]string{row.format})
		if err != nil {
			t.Errorf("%s: %v", row.format, err)
			continue
		}
		got := ""
		if name, ok := formats[0].key(row.key); ok {
			got = name + " " + formats[0].value(wxtoken.NewSecret("T"))
		}
		if got != row.want {
			t.Errorf("%s of %s: %q, want %q", row.format, row.key, got, row.want)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	const good = "redis://127.0.0.1"
	for _, row := range []struct {
		url, format string
		want        string // part of the fault; empty: none
	}{
		{"", "", ""},
		{good, "wxjava", ""},
		{"rediss://user:SECRET@redis.example:6380/3", "wxjava,silenceper,wechatpy:py,x:{appid},component=x:{component}", ""},
		{"redis://:SECRET@[::1]:6379", "silenceper", ""},
		{"redis://:SEC%2FRET@h", "silenceper", ""},
		{good, "silenceper@" + component + ",silenceper@" + other, ""},
		{"", "wxjava", "--redis-url (WXTOKEN_REDIS_URL): missing"},
		{good, "", "--redis-format (WXTOKEN_REDIS_FORMAT): missing"},
		{"http://:SECRET@h", "wxjava", "not the URL of a Redis server"},
		{"redis://:SECRET/x@h", "wxjava", "percent-encoded"},
		{"redis://:SECRET%zz@h", "wxjava", "not the URL of a Redis server"},
		{"redis:SECRET", "wxjava", "not the URL of a Redis server"},
		{"redis://SECRET@h", "wxjava", "a user without a password"},
		{"redis://h/first", "wxjava", "the database is not a number"},
		{"redis://h/0?db=1", "wxjava", "text after the database"},
		{"redis://h/-1", "wxjava", "the database is not a number"},
		{good, "wxjawa", "no such format"},
		{good, "silenceper:p", "have no prefix"},
		{good, "wxjava:", "want a prefix"},
		{good, "wxjava:a b", "want a prefix"},
		{good, "token", "no such format"},
		{good, "t:{component}", "want {appid}"},
		{good, "component=t:{appid}", "want {component}"},
		{good, "component=t:{component}{appid}", "want {component}"},
		{good, "t:{secret}:{appid}", "no such placeholder"},
		{good, "t:{appid", "no braces but"},
		{good, "t {appid}", "no spaces"},
		{good, "wxtoken:{appid}", "wxtoken's own"},
		{good, "wxjava,wxjava", "another format fills the same key"},
		{good, "x:{appid},jsapi_ticket=x:{appid}", "another format fills the same key"},
		{good, "silenceper,silenceper@" + component, "another format fills the same key"},
	} {
		cfg := Config{RedisURL: wxtoken.NewSecret(row.url)}
		if row.format != "" {
			cfg.RedisFormat = strings.Split(row.format, ",")
		}
		text := ""
		if err := cfg.Validate(); err != nil {
			text = err.Error()
		}
		if row.want == "" && text != "" || !strings.Contains(text, row.want) || strings.Contains(text, "SEC") {
			t.Errorf("%s %s: %q, want %q", row.url, row.format, text, row.want)
		}
	}
}
