#!lua
-- Keeps the next items of a batch, in order, until they are jobs. Refused when memory is full.
--
-- KEYS  1 requests that are no jobs yet  2 the items' names
-- ARGV  1 how many items there are before these  2 TTL in ms  then per item: name, request
-- Returns how many there are now; fewer than asked for, or more, when somebody else is at it.

local known = redis.call('LLEN', KEYS[2])
if known ~= tonumber(ARGV[1]) then
  return known -- a lost reply, or another process
end
for i = 3, #ARGV, 2 do
  redis.call('RPUSH', KEYS[2], ARGV[i])
  redis.call('RPUSH', KEYS[1], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return redis.call('LLEN', KEYS[2])
