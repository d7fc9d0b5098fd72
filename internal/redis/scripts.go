package redis

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"

	"wxtoken/client"
)

const (
	markPrefix = "wxtoken:"
	// margin is how much the clocks of refreshers may differ. Of two tokens obtained further apart
	// the later one is newer; otherwise the one with the higher generation. Generations alone are
	// not enough: they start again at 1 after NATS has lost its data.
	margin = time.Minute
)

// markOf returns the name of the mark of a key. The braces keep both on one node of a cluster
// behind a proxy.
func markOf(key string) string { return markPrefix + "{" + key + "}" }

// keyOf returns the key that a mark belongs to.
func keyOf(mark string) string {
	return strings.TrimSuffix(strings.TrimPrefix(mark, markPrefix+"{"), "}")
}

// version says which of two tokens is newer.
type version struct {
	generation uint64
	obtained   int64 // when WeChat was asked for the token, milliseconds since 1970
}

// newest is a version later than that of any mark.
var newest = version{generation: math.MaxInt32, obtained: 1 << 52}

func versionOf(t wxtoken.Token) version { return version{t.Generation, t.ObtainedAt.UnixMilli()} }

// States of a mark.
const (
	stateSet  = "set"  // the token is there
	stateGone = "gone" // the token was removed, and must not come back
)

// markText returns the value of a mark.
func markText(state string, v version, owner wxtoken.Key) string {
	return fmt.Sprintf("%s %d %d %s", state, v.generation, v.obtained, owner)
}

// readMark reads a mark.
func readMark(text string) (state string, owner wxtoken.Key, ok bool) {
	words := strings.Fields(text)
	if len(words) != 4 {
		return "", owner, false
	}
	owner, err := wxtoken.ParseKey(words[3])
	return words[0], owner, err == nil
}

// Outcomes of scripts, as in the metric.
const (
	outcomeWritten = "written"
	outcomeRemoved = "removed"
	outcomeSame    = "same"    // the token was there already
	outcomeOlder   = "older"   // the token there is newer, or was removed since
	outcomeShared  = "shared"  // the same account's newer token under another component is there
	outcomeForeign = "foreign" // a value from another process is there
)

// compare is the beginning of both scripts. KEYS are the key and its mark; ARGV[1] to [4] the
// token's owner, generation and time, and the margin. It uses MGET, which treats a key of another
// type as missing. Numbers are exact up to 2^53.
const compare = `
local got = redis.call('MGET', KEYS[1], KEYS[2])
local owner, G, A, margin = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local state, gen, at, whose
if got[2] then
  state, gen, at, whose = string.match(got[2], '^(%a+) (%d+) (%d+) (%S+)$')
  gen, at = tonumber(gen), tonumber(at)
end
local newer = state and (at > A + margin or at >= A - margin and gen > G)
`

var (
	// put writes a token unless the one there is newer. ARGV[5] is the value, [6] its life in
	// milliseconds, [7] the mark.
	//
	// If the value differs although the mark is that of the same token, another process wrote it,
	// and it is left alone. If that is an SDK that renewed, WeChat kills our token, and writing
	// ours back would make the SDK renew again and again.
	put = redis.NewScript(2, compare+`
if state and whose ~= owner then
  if state == 'set' and got[1] and (at > A or at == A and whose < owner) then return 'shared' end
elseif state and gen == G and at == A then
  if state ~= 'set' then return 'older' end
  if got[1] == ARGV[5] then return 'same' end
  if got[1] then return 'foreign' end
elseif newer then
  return 'older'
end
redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[6])
redis.call('SET', KEYS[2], ARGV[7], 'PX', ARGV[6])
return 'written'`)

	// remove deletes a key unless a newer token, or that of another component, is there. ARGV[5] is
	// how long the mark stays to say so, in milliseconds, 0 to delete it too; ARGV[6] is the mark.
	remove = redis.NewScript(2, compare+`
if state == 'set' and whose ~= owner then return 'shared' end
if newer then return 'older' end
redis.call('DEL', KEYS[1])
if tonumber(ARGV[5]) > 0 then
  redis.call('SET', KEYS[2], ARGV[6], 'PX', ARGV[5])
else
  redis.call('DEL', KEYS[2])
end
return 'removed'`)
)

// arguments returns KEYS and ARGV of compare.
func arguments(key string, owner wxtoken.Key, v version) []any {
	return []any{key, markOf(key), owner.String(), strconv.FormatUint(v.generation, 10), v.obtained, margin.Milliseconds()}
}
