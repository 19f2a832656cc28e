#!lua flags=allow-oom
-- Gives a worker that lost its job the last word on what the call cost: partial or unknown becomes final, once.
--
-- KEYS  1 job  2 usage stream
-- ARGV  1 the call's name  2 most usage records kept  3… the record (field, value, …), with the call id of the first and version 2
-- Returns 1 written  0 not needed: a final record exists, or the first was never written.

local field = 'usage:' .. ARGV[1]
local kind = redis.call('HGET', KEYS[1], field)
if kind ~= 'partial' and kind ~= 'unknown' then
  return 0
end
redis.call('HSET', KEYS[1], field, 'final', 'usage_kind', 'final')
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 3))
local mark, facts = redis.call('HGET', KEYS[1], 'budget'), {}
if mark then
  for i = 3, #ARGV, 2 do
    facts[ARGV[i]] = ARGV[i + 1]
  end
  local time = redis.call('TIME')
  budgets().count(KEYS[1], mark, facts, time[1] * 1000 + math.floor(time[2] / 1000))
end
return 1
