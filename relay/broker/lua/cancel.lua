#!lua flags=allow-oom
-- Cancels a job: at once while it waits in the queue, else by a flag that its worker sees with its next flush or heartbeat.
--
-- KEYS  1 job  2 RQ job  3 RQ queue  4 RQ canceled registry  5 timers
-- ARGV  1 id  2 tenant that asks  3 TTL of the log in ms  4 TTL of the ended job in s  5 now in RQ's text form
--       6 now in s by the caller's clock, for RQ's records only  7 message
-- Returns {state after it, worker that runs it or ''}; {} when there is no such job of this tenant.

local at = redis.call('HMGET', KEYS[1], 'state', 'tenant', 'worker', 'generation', 'lane')
local state = at[1]
if not state or at[2] ~= ARGV[2] then
  return {}
elseif state == 'claimed' or state == 'dispatched' or state == 'streaming' then
  redis.call('HSET', KEYS[1], 'cancel', '1')
  return {state, at[3]}
elseif state ~= 'queued' then
  return {state, ''}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local generation = string.format('%.0f', math.max(at[4] + 1, now))
local frame = generation .. '-1 0 x\n' .. cjson.encode({state = 'cancelled', error = {code = 'cancelled', message = ARGV[7]}})
redis.call('XADD', KEYS[1] .. ':log', generation .. '-1', 'f', frame)
redis.call('PEXPIRE', KEYS[1] .. ':log', ARGV[3])
redis.call('PUBLISH', KEYS[1] .. ':live', frame)
redis.call('HSET', KEYS[1], 'state', 'cancelled', 'generation', generation, 'sequence', '1', 'cancel', '1',
  'ended_ms', string.format('%.0f', now), 'error', 'cancelled', 'message', ARGV[7])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('DEL', KEYS[1] .. ':body')
lanes.leave(lanes.base(KEYS[1]), KEYS[3], ARGV[1], at[5])
lanes.call_up(lanes.base(KEYS[1]), KEYS[3], now)
batches.ended(KEYS[1])
outbox.add(KEYS[1], ARGV[1], now)
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('HSET', KEYS[2], 'status', 'canceled', 'ended_at', ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('ZADD', KEYS[4], ARGV[6] + ARGV[4], ARGV[1])
return {'cancelled', ''}
