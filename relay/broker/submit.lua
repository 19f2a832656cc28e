#!lua
-- Accepts a job: its facts, its bytes, its RQ record and its place in the queue, together or not at all.
--
-- KEYS  1 job  2 body  3 RQ job  4 RQ queue  5 RQ's set of queues
-- ARGV  1 most jobs the queue may hold  2 TTL in ms while it waits  3 job id
--       4 the body's bytes ('' when they are stored already: Lua would copy a big body several times)
--       5 count of job arguments n, then n of them (field, value, …), then those of the RQ job to the end
-- Returns {1, jobs ahead}; {0, 0} when this very job is in already (a lost reply); {-1, jobs ahead} when the queue is full.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return {0, 0}
end
local ahead = redis.call('LLEN', KEYS[4])
if ahead >= tonumber(ARGV[1]) then
  return {-1, ahead}
end
local n = tonumber(ARGV[5])
redis.call('HSET', KEYS[1], 'state', 'queued', 'generation', '0', 'sequence', '0', 'attempts', '0', unpack(ARGV, 6, 5 + n))
redis.call('HSET', KEYS[3], unpack(ARGV, 6 + n))
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[2], '0', ARGV[4])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
redis.call('SADD', KEYS[5], KEYS[4])
redis.call('RPUSH', KEYS[4], ARGV[3])
return {1, ahead}
