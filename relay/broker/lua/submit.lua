#!lua
-- Accepts a job: its facts, its bytes, its RQ record and its place in the queue, together or not at all.
--
-- KEYS  1 job  2 body  3 RQ job  4 RQ queue  5 RQ's set of queues  6 the tenant's jobs  7 timers
--       8 budgets  9 idempotency key (left out: the client sent none)
-- ARGV  1 most jobs the queue may hold  2 TTL in ms while it waits  3 job id
--       4 the body's bytes ('' when they are stored already: Lua would copy a big body several times)
--       5 prefix of job keys  6 TTL in ms of the tenant's jobs  7 fingerprint of the request  8 TTL in ms of the idempotency key
--       9 when to run it, in ms (0: at once)  10 when it expires, in ms (0: never)
--       11 tenant  12 most jobs of a tenant that may wait  13 the lane it waits in  14 its key as budgets name it
--       15 count of job arguments n, then n of them (field, value, …), then those of the RQ job to the end
-- Returns {1, jobs ahead}, and behind it, where a soft bound of a budget is passed, now in ms and each passed bound as
-- `budgets.lua` has it; {0, 0} when this very job is in already (a lost reply); {-1, jobs ahead} when the queue is full;
-- {-3, jobs of the tenant} when its part of the queue is full; {-6, 0, now in ms, passed bounds} when a budget is used up;
-- {2, id} when the idempotency key has that job already; {-2, id} when it has it for another request.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return {0, 0}
end
if KEYS[9] then
  local id, fingerprint = string.match(redis.call('GET', KEYS[9]) or '', '^(%S+) (%S+)$')
  if id and redis.call('EXISTS', ARGV[5] .. id) == 1 then
    return {fingerprint == ARGV[7] and 2 or -2, id}
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local later, base = tonumber(ARGV[9]) > now, lanes.base(KEYS[1])
local ahead, own = lanes.waiting(base, KEYS[4], ARGV[11])
-- What waits for its time is counted apart: a thousand jobs for tonight must not shut the door now.
if later then
  ahead, own = redis.call('ZCARD', KEYS[7]), 0
end
if ahead >= tonumber(ARGV[1]) then
  return {-1, ahead}
elseif own >= tonumber(ARGV[12]) then
  return {-3, own}
end
local mark, told = nil, {}
-- Where nobody has a budget, to see that costs half as much as to look for two.
local found = redis.call('EXISTS', KEYS[8]) == 1 and redis.call('HMGET', KEYS[8], 'tenant:' .. ARGV[11], ARGV[14])
if found and (found[1] or found[2]) then
  local refused, passed
  mark, refused, passed = budgets().look(base, {'tenant:' .. ARGV[11], ARGV[14]}, found, now)
  told = passed[1] and {string.format('%.0f', now), unpack(passed)} or told
  if refused then
    return {-6, 0, unpack(told)}
  end
end

local n = tonumber(ARGV[15])
redis.call('HSET', KEYS[1], 'state', 'queued', 'generation', '0', 'sequence', '0', 'attempts', '0', 'lane', ARGV[13],
  unpack(ARGV, 16, 15 + n))
redis.call('HSET', KEYS[3], unpack(ARGV, 16 + n))
if mark then
  redis.call('HSET', KEYS[1], 'budget', mark)
end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[2], '0', ARGV[4])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
if KEYS[9] then
  redis.call('SET', KEYS[9], ARGV[3] .. ' ' .. ARGV[7], 'PX', ARGV[8])
end

-- Ids of jobs that have expired are found as Redis finds its own expired keys: by a sample, at every step. With three
-- looks for each new id, one in three of the index is dead in the long run, however long each job lives.
redis.call('ZADD', KEYS[6], 0, ARGV[3])
for _, id in ipairs(redis.call('ZRANDMEMBER', KEYS[6], 3)) do
  if redis.call('EXISTS', ARGV[5] .. id) == 0 then
    redis.call('ZREM', KEYS[6], id)
  end
end
if redis.call('PTTL', KEYS[6]) < tonumber(ARGV[6]) then
  redis.call('PEXPIRE', KEYS[6], ARGV[6] + 60000) -- a minute more, and the next jobs need not
end

if later then
  redis.call('HSET', KEYS[3], 'status', 'scheduled')
  redis.call('ZADD', KEYS[7], ARGV[9], ARGV[3])
  return {1, 0, unpack(told)}
end
if ARGV[10] ~= '0' then
  redis.call('ZADD', KEYS[7], ARGV[10], ARGV[3])
end
redis.call('SADD', KEYS[5], KEYS[4])
lanes.join(base, KEYS[4], ARGV[3], ARGV[13], now)
return {1, ahead, unpack(told)}
