#!lua flags=allow-oom
-- Asks for the end of a batch: no more of its items begin. Whoever moves it on sees it with the next step.
--
-- KEYS  1 batch
-- ARGV  1 tenant that asks  2 surface that asks
-- Returns the state it is in, or '' when there is no such batch.

local at = redis.call('HMGET', KEYS[1], 'state', 'tenant', 'surface', 'cancel_ms')
if not at[1] or at[2] ~= ARGV[1] or at[3] ~= ARGV[2] then
  return ''
end
if (at[1] == 'validating' or at[1] == 'in_progress') and not at[4] then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'cancel_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
end
return at[1]
