#!lua
-- Makes a batch known: to its tenant, and to those who turn its items into jobs.
--
-- KEYS  1 batch  2 requests  3 names  4 the tenant's batches  5 batches by when to look at them
-- ARGV  1 id  2 TTL in ms  then fields and values
-- Returns 1 made  0 made before (a lost reply).

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
for i = 1, 3 do
  redis.call('PEXPIRE', KEYS[i], ARGV[2])
end
redis.call('ZADD', KEYS[4], 0, ARGV[1])
if redis.call('PTTL', KEYS[4]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[4], ARGV[2])
end
redis.call('ZADD', KEYS[5], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
return 1
