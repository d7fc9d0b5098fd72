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
	// margin is how far apart the clocks of refreshers may be. Of two tokens obtained further apart
	// the later one is the newer; of others the one with the higher generation. Generations alone
	// would not do: they begin anew where the data of NATS was lost.
	margin = time.Minute
)

// markOf is the name of the mark beside a key. The braces keep both on one node of a cluster behind
// a proxy.
func markOf(key string) string { return markPrefix + "{" + key + "}" }

// keyOf is the key that a mark belongs to.
func keyOf(mark string) string {
	return strings.TrimSuffix(strings.TrimPrefix(mark, markPrefix+"{"), "}")
}

// version says which token is the newer one.
type version struct {
	generation uint64
	obtained   int64 // milliseconds since 1970, as WeChat was asked for it
}

// newest is a version that no mark is newer than.
var newest = version{generation: math.MaxInt32, obtained: 1 << 52}

func versionOf(t wxtoken.Token) version { return version{t.Generation, t.ObtainedAt.UnixMilli()} }

// States of a mark.
const (
	stateSet  = "set"  // the token lies there
	stateGone = "gone" // it was removed, and that token must not come back
)

// markText is what a mark says.
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

// Outcomes of scripts, as the metric has them.
const (
	outcomeWritten = "written"
	outcomeRemoved = "removed"
	outcomeSame    = "same"    // it lies there already
	outcomeOlder   = "older"   // what lies there is newer, or was removed since
	outcomeShared  = "shared"  // the newer token of the same account under another component lies there
	outcomeForeign = "foreign" // a value of another process lies there
)

// compare is the beginning of both scripts. KEYS are the key and its mark; ARGV[1] to [4] the
// token's owner, generation and time, and the margin. MGET, because it takes a key of another type
// for none. Numbers are exact up to 2^53.
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
	// put writes a token unless what lies there is newer. ARGV[5] is the value, [6] its life in
	// milliseconds, [7] the mark.
	//
	// A value that differs while the mark is that of the same token was written by another process:
	// it is left alone. Where that is an SDK that renewed, ours is the one that WeChat kills, and
	// to put it back would have the SDK renew again, and again.
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

	// remove deletes a key unless a newer token lies there, or that of another component. ARGV[5]
	// is how long the mark says so, in milliseconds, and [6] the mark; 0: it goes as well.
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

// arguments are those of compare.
func arguments(key string, owner wxtoken.Key, v version) []any {
	return []any{key, markOf(key), owner.String(), strconv.FormatUint(v.generation, 10), v.obtained, margin.Milliseconds()}
}
