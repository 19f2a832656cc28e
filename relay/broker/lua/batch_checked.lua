#!lua flags=allow-oom
-- Ends the checking of a batch's input: its items may run, or it has failed.
--
-- KEYS  1 batch
-- ARGV  1 count of items  2 what was wrong, as JSON ('' nothing)  3 TTL in ms of a batch that has ended
-- Returns 1 done  0 done before.

if redis.call('HGET', KEYS[1], 'state') ~= 'validating' then
  return 0
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
if ARGV[2] == '' then
  redis.call('HSET', KEYS[1], 'state', 'in_progress', 'total', ARGV[1], 'begun_ms', now)
else
  redis.call('HSET', KEYS[1], 'state', 'failed', 'errors', ARGV[2], 'ended_ms', now)
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
