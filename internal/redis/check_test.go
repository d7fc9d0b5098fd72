package redis

import (
	"context"
	"strings"
	"testing"
	"time"

	"wxtoken/client"
)

// TestCheck looks at a Redis that takes tokens, and at all kinds that don't.
func TestCheck(t *testing.T) {
	t.Parallel()
	good := startRedis(t)
	replica := startRedis(t, "replicaof 127.0.0.1 "+strings.TrimPrefix(good.address(), "127.0.0.1:"))
	sentinel := startRedis(t, "sentinel monitor main "+strings.Replace(good.address(), ":", " ", 1)+" 1")
	locked := startRedis(t, "user default on >secret-SEKRET ~* &* +@all", "user poor on >poor-SEKRET ~wxtoken:* +@all", "user few on >few-SEKRET ~* +@connection +script|load",
		"user gateway on >gateway-SEKRET ~wechat_* ~token:* ~wxtoken:* +mget +set +del +exists +evalsha +script|load +scan +select", // docs/redis.md
		"user blind on >blind-SEKRET ~* +mget +set +del +exists +evalsha +script|load +select",
		"user mute on >mute-SEKRET ~* +mget +set +del +exists +script|load +scan +select",
		"user late on >late-SEKRET ~* +mget +set +del +evalsha +script|load +scan +select")
	cluster, other := startRedis(t, "cluster-enabled yes", "cluster-config-file a.conf"), startRedis(t, "cluster-enabled yes", "cluster-config-file b.conf")
	cluster.do("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
	other.do("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
	port := strings.TrimPrefix(other.address(), "127.0.0.1:")
	cluster.do("CLUSTER", "MEET", "127.0.0.1", port)
	at := func(s *redisServer, user string) string { return "redis://" + user + "@" + s.address() + "/0" }
	for name, row := range map[string]struct{ url, says string }{
		"there":               {good.url(), ""},
		"with a password":     {at(locked, "default:secret-SEKRET"), ""},
		"away":                {"redis://127.0.0.1:1/0", "connect to 127.0.0.1:1/0"},
		"a replica":           {replica.url(), "want the address of the primary"},
		"a Sentinel":          {sentinel.url(), "a Sentinel"},
		"a node":              {cluster.url(), "one node of a cluster"},
		"a node, database":    {strings.TrimSuffix(cluster.url(), "0") + "1", "one node of a cluster"},
		"no password":         {locked.url(), "redis://user:password@"},
		"a wrong password":    {at(locked, "default:wrong-SEKRET"), "check user and password"},
		"keys not allowed":    {at(locked, "poor:poor-SEKRET"), "lacks a right"},
		"write not allowed":   {at(locked, "few:few-SEKRET"), "lacks a right"},
		"rights of the page":  {at(locked, "gateway:gateway-SEKRET"), ""},
		"no right to scan":    {at(locked, "blind:blind-SEKRET"), "lacks a right"},
		"no right to scripts": {at(locked, "mute:mute-SEKRET"), "lacks a right"},
		"no right to exists":  {at(locked, "late:late-SEKRET"), "lacks a right"},
		"a bad format":        {good.url() + "?a=b", "text after the database"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{RedisURL: wxtoken.NewSecret(row.url), RedisFormat: []string{"wxjava", "token:{component}:{appid}@wxc0ffee0000000001"}}
			var err error
			for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				// A cluster takes a moment until its nodes know each other, and some keys belong to the one that is asked.
				if err = cfg.Check(t.Context()); (err == nil) == (row.says == "") {
					break
				}
			}
			switch {
			case row.says == "" && err != nil:
				t.Error(err)
			case row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says)):
				t.Errorf("%v, want %s", err, row.says)
			case err != nil && strings.Contains(err.Error(), "SEKRET"):
				t.Errorf("a secret: %v", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Config{RedisURL: wxtoken.NewSecret(good.url()), RedisFormat: []string{"wxjava"}}).Check(ctx); err == nil {
		t.Error("it goes on after its context has ended")
	}
}
