#!lua flags=allow-oom
-- Marks, just before the first byte goes out, that the provider may have been called; `calls` counts how often.
--
-- KEYS  1 job
-- ARGV  1 lease  2 the usage record so far, for whoever must end the job in the worker's place
-- Returns 1 go (said again after a lost reply)  -1 no longer ours  -3 no such job  -5 cancelled: do not call.

local at = redis.call('HMGET', KEYS[1], 'state', 'lease', 'cancel', 'calls')
if not at[1] then
  return -3
elseif at[2] ~= ARGV[1] then
  return -1
elseif at[3] then
  return -5
elseif at[1] == 'claimed' then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'state', 'dispatched', 'draft', ARGV[2],
    'dispatched_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
    'calls', string.format('%.0f', (at[4] or 0) + 1))
end
return 1
