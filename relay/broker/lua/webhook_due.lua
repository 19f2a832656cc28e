#!lua flags=allow-oom
-- Hands out webhooks that are due, with a lease: one that is not settled before it ends is due again, so a worker may
-- die with it. Those of a host that has enough under way are passed over; where there are so many of them that others
-- may stand behind, they are put off for a moment.
--
-- KEYS  1 jobs by when their webhooks are due
-- ARGV  1 prefix of job keys  2 most to hand out  3 most to look at  4 lease, new for every call  5 its length in ms
--       6 most at a time for one host  7 how long, in ms, those of a busy one are put off
--       8… hosts with webhooks under way: host, how many
-- Returns {now, in how many ms to look again (-1: nothing else will be due), {id, {job's fields and values}}, …}.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due, lease, busy = KEYS[1], ARGV[4], {}
for i = 8, #ARGV, 2 do
  busy[ARGV[i]] = tonumber(ARGV[i + 1])
end
local ids = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, ARGV[3])
local answer, room, others_behind = {}, tonumber(ARGV[2]), #ids == tonumber(ARGV[3])

local function put_off(id, ms)
  redis.call('ZADD', due, string.format('%.0f', now + ms), id)
end

local function hand_out(id)
  local job = ARGV[1] .. id
  local at = redis.call('HMGET', job, 'webhook', 'webhook_state')
  if not at[1] or at[2] ~= 'pending' then
    redis.call('ZREM', due, id) -- the job has expired
    return
  end
  local host = string.lower(string.match(at[1], '^%a+://([^/]+)'))
  busy[host] = (busy[host] or 0) + 1
  if busy[host] > tonumber(ARGV[6]) then
    if others_behind then
      put_off(id, ARGV[7])
    end
    return
  end
  put_off(id, ARGV[5])
  redis.call('HSET', job, 'webhook_lease', lease)
  answer[#answer + 1] = {id, redis.call('HGETALL', job)}
end

for _, id in ipairs(ids) do
  if #answer >= room then
    break
  elseif not pcall(hand_out, id) then -- a record that somebody spoilt by hand must not keep the others waiting
    redis.call('ZREM', due, id)
  end
end
local later = redis.call('ZRANGEBYSCORE', due, '(' .. string.format('%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local wait = others_behind and 0 or later[2] and later[2] - now or -1
return {string.format('%.0f', now), wait, unpack(answer)}
