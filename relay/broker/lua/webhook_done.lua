#!lua flags=allow-oom
-- Notes what became of one delivery of a webhook, and when the next one is due, if there is to be one.
--
-- KEYS  1 job  2 jobs by when their webhooks are due
-- ARGV  1 id  2 lease  3 state: pending, delivered or failed  4 HTTP status ('' none)  5 error ('' none)
--       6 in how many ms it is due again  7 how long the job is kept beyond that, in ms
-- Returns 1 noted  0 noted before by this very call (a lost reply)  -1 no longer ours  -3 no such job.

local job, lease = KEYS[1], ARGV[2]
local at = redis.call('HMGET', job, 'state', 'webhook_lease', 'webhook_done_by')
if not at[1] then
  return -3
elseif at[3] == lease then
  return 0
elseif at[2] ~= lease then
  return -1
end
redis.call('HINCRBY', job, 'webhook_attempts', 1)
redis.call('HSET', job, 'webhook_state', ARGV[3], 'webhook_status', ARGV[4], 'webhook_error', ARGV[5], 'webhook_done_by', lease)
redis.call('HDEL', job, 'webhook_lease', 'webhook_next_ms')
if ARGV[3] ~= 'pending' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 1
end
local time = redis.call('TIME')
local next_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[6])
redis.call('HSET', job, 'webhook_next_ms', next_ms)
redis.call('ZADD', KEYS[2], next_ms, ARGV[1])
redis.call('PEXPIRE', job, ARGV[6] + ARGV[7], 'GT')
return 1
