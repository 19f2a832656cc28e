#!lua flags=allow-oom
-- Takes a dispatch back: the call failed, nothing of it was shown, and the same worker will make another one. Its usage
-- record is written now, so that whatever happens to the worker next, this call is accounted for and none twice.
--
-- KEYS  1 job  2 usage stream
-- ARGV  1 lease  2 most usage records kept  3… the usage record (field, value, …)
-- Returns 1 taken back (said again after a lost reply)  -1 no longer ours  -3 no such job.

local at = redis.call('HMGET', KEYS[1], 'state', 'lease', 'budget')
if not at[1] then
  return -3
elseif at[2] ~= ARGV[1] then
  return -1
end
local id, record = string.match(KEYS[1], '[^:]+$'), {unpack(ARGV, 3)}
local facts = {}
for i = 1, #record, 2 do
  facts[record[i]] = record[i + 1]
end
if redis.call('HSETNX', KEYS[1], 'usage:' .. string.sub(facts.call, #id + 2), facts.kind) == 1 then
  redis.call('HSET', KEYS[1], 'state', 'claimed', 'usage_kind', facts.kind)
  redis.call('HDEL', KEYS[1], 'draft')
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(record))
  if at[3] then
    local time = redis.call('TIME')
    budgets().count(KEYS[1], at[3], facts, time[1] * 1000 + math.floor(time[2] / 1000))
  end
end
return 1
