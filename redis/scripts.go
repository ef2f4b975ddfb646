package redis

import (
	"context"
	"crypto/sha1"
	"encoding/hex"

	"github.com/redis/rueidis"
)

// A script is a Lua program that the server keeps by the hash of its text.
type script struct {
	body, sha string
}

// A call is one use of a script. The keys lie in one slot.
type call struct {
	keys, args []string
}

func newScript(body string) script {
	sum := sha1.Sum([]byte(body)) // EVALSHA names scripts by it
	return script{body: body, sha: hex.EncodeToString(sum[:])}
}

// run makes the calls in one round trip and returns their results in order. Calls for which the server did not know the script,
// which happens after it started, are made again with the text.
func (x script) run(ctx context.Context, c rueidis.Client, calls []call) []rueidis.RedisResult {
	results := send(ctx, c, calls, func(k call) rueidis.Completed {
		return c.B().Evalsha().Sha1(x.sha).Numkeys(int64(len(k.keys))).Key(k.keys...).Arg(k.args...).Build()
	})
	var again []call
	var where []int
	for i, r := range results {
		if e, ok := rueidis.IsRedisErr(r.Error()); ok && e.IsNoScript() {
			again, where = append(again, calls[i]), append(where, i)
		}
	}
	repeated := send(ctx, c, again, func(k call) rueidis.Completed {
		return c.B().Eval().Script(x.body).Numkeys(int64(len(k.keys))).Key(k.keys...).Arg(k.args...).Build()
	})
	for i, r := range repeated {
		results[where[i]] = r
	}
	return results
}

func send(ctx context.Context, c rueidis.Client, calls []call, build func(call) rueidis.Completed) []rueidis.RedisResult {
	if len(calls) == 1 {
		return []rueidis.RedisResult{c.Do(ctx, build(calls[0]))}
	}
	commands := make(rueidis.Commands, len(calls))
	for i, k := range calls {
		commands[i] = build(k)
	}
	return c.DoMulti(ctx, commands...)
}

// What a script that binds answers with: one of these, and the value in force where there is one.
const (
	answerBound   = 0 // the caller's binding was made
	answerHeld    = 1 // another one is in force, or none
	answerFull    = 2 // the service's quota is reached
	answerUnknown = 3 // the key holds a format that this Limpet does not know
)

// prelude is what the scripts share. Times are microseconds and exact: a Lua number holds 53 bits. Reading the key as the last
// step makes the server report its next change to this connection (CLIENT TRACKING forgets a key when it changes).
const prelude = `
local function clock() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end
local function number(v, at)
  local high, low = struct.unpack('>I4I4', v, at)
  return high * 4294967296 + low
end
local function bytes(n)
  local high = math.floor(n / 4294967296)
  return struct.pack('>I4I4', high, n - high * 4294967296)
end
local function known(v) return string.byte(v) == 1 and #v > 25 end
local function version(v) return string.sub(v, 2, 17) end
local function earlier(a, b) if a == 0 or (b > 0 and b < a) then return b end return a end
local function life(idle, ends, now)
  if ends == 0 then return idle end
  return math.min(idle, math.floor((ends - now) / 1000))
end
local function text(n) return string.format('%.0f', n) end
local function extend(index, ms)
  if redis.call('PTTL', index) < ms then redis.call('PEXPIRE', index, text(ms)) end
end
-- prune looks at some members whose score has passed: those that were renewed get a new score, the others go.
local function prune(index, prefix, ms, most)
  for _, m in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', text(ms), 'LIMIT', '0', most)) do
    local left = redis.call('PTTL', prefix .. m)
    if left > 0 then redis.call('ZADD', index, text(ms + left), m) else redis.call('ZREM', index, m) end
  end
end
local function full(index, prefix, quota, now)
  if quota == 0 or redis.call('ZCARD', index) < quota then return false end
  prune(index, prefix, math.floor(now / 1000), '64')
  return redis.call('ZCARD', index) >= quota
end
-- keep writes a binding and its place in the index; out of memory nothing is written.
local function keep(key, index, member, prefix, value, ms, now)
  local done = redis.pcall('SET', key, value, 'PX', text(ms))
  if done.err then return done end
  local now_ms = math.floor(now / 1000)
  redis.call('ZADD', index, text(now_ms + ms), member)
  extend(index, ms)
  prune(index, prefix, now_ms, '2')
  redis.call('EXISTS', key)
  return {0, value}
end
`

// swapScript: KEYS binding, index; ARGV version expected, nonce, life in ms, end in µs, target, quota of the shard, member.
var swapScript = newScript(prelude + `
local held = redis.call('GET', KEYS[1])
if held and not known(held) then return {3} end
if (held and version(held) or '') ~= ARGV[1] then return {1, held or ''} end
local now, ends = clock(), tonumber(ARGV[4])
local made, prefix = now, string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[7])
if held then
  made = math.max(now, number(held, 2) + 1)
  if number(held, 18) > 0 then ends = number(held, 18) end
elseif full(KEYS[2], prefix, tonumber(ARGV[6]), now) then
  return {2}
end
local ms = math.max(1, life(tonumber(ARGV[3]), ends, now))
return keep(KEYS[1], KEYS[2], ARGV[7], prefix, '\1' .. bytes(made) .. ARGV[2] .. bytes(ends) .. ARGV[5], ms, now)
`)

// restoreScript: KEYS binding, index; ARGV version or ” for a provisional binding, nonce for a new one, life in ms, end of the life
// in µs, target, quota of the shard, member, end of the binding in µs.
var restoreScript = newScript(prelude + `
local function newer(a, b)
  for i = 1, 16 do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return false
end
local held = redis.call('GET', KEYS[1])
if held and not known(held) then return {3} end
if held and (ARGV[1] == '' or not newer(ARGV[1], version(held))) then return {1, held} end
local now, ends = clock(), tonumber(ARGV[8])
local ms = life(tonumber(ARGV[3]), earlier(tonumber(ARGV[4]), ends), now)
if ms <= 0 then return {1, held or ''} end
local prefix = string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[7])
if not held and full(KEYS[2], prefix, tonumber(ARGV[6]), now) then return {2} end
local made = ARGV[1]
if made == '' then made = bytes(now) .. ARGV[2] end
return keep(KEYS[1], KEYS[2], ARGV[7], prefix, '\1' .. made .. bytes(ends) .. ARGV[5], ms, now)
`)

// touchScript: KEYS binding, index; ARGV version, life in ms, end in µs. It only uses commands that work out of memory.
var touchScript = newScript(prelude + `
local held = redis.call('GET', KEYS[1])
if not held or not known(held) or version(held) ~= ARGV[1] then return 0 end
local ms = life(tonumber(ARGV[2]), earlier(tonumber(ARGV[3]), number(held, 18)), clock())
if ms <= 0 then return 0 end
redis.call('PEXPIRE', KEYS[1], text(ms))
extend(KEYS[2], ms)
redis.call('EXISTS', KEYS[1])
return 1
`)

// deleteScript: KEYS binding, index; ARGV version or ” for any, member.
var deleteScript = newScript(prelude + `
local held = redis.call('GET', KEYS[1])
if not held or (ARGV[1] ~= '' and (not known(held) or version(held) ~= ARGV[1])) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
return 1
`)

// fingerprintScript: KEYS fingerprint; ARGV ours, time to live in ms. It returns the one in force.
var fingerprintScript = newScript(`
local held = redis.call('GET', KEYS[1])
if held then
  if held == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return held
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
`)

// drainScript: KEYS drains; ARGV field, order or ” to cancel, ms to keep it from its deadline or, without one, from now, deadline
// in ms or 0. Every field begins with the time at which it vanishes; those that have are removed.
var drainScript = newScript(prelude + `
local now = math.floor(clock() / 1000)
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if tonumber(string.match(all[i + 1], '^%d+')) <= now then redis.call('HDEL', KEYS[1], all[i]) end
end
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) return 0 end
local from = tonumber(ARGV[4])
if from == 0 then from = now end
local vanishes = from + tonumber(ARGV[3])
if vanishes <= now then redis.call('HDEL', KEYS[1], ARGV[1]) return 0 end
redis.call('HSET', KEYS[1], ARGV[1], text(vanishes) .. ' ' .. ARGV[2])
extend(KEYS[1], vanishes - now)
return 1
`)

// drainsScript: KEYS drains. It returns the orders that have not vanished.
var drainsScript = newScript(prelude + `
local now, orders = math.floor(clock() / 1000), {}
for _, v in ipairs(redis.call('HVALS', KEYS[1])) do
  local vanishes, order = string.match(v, '^(%d+) (.*)$')
  if tonumber(vanishes) > now then orders[#orders + 1] = order end
end
return orders
`)
