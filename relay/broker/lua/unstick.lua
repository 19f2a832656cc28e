#!lua flags=allow-oom
-- Puts back what a worker popped and did not claim: it died in between, or the reply to its BLMOVE was lost.
--
-- KEYS  1 RQ intermediate queue  2 RQ queue
-- ARGV  1 prefix of job keys  2 how long, in ms of Redis time, a popped job may stay unclaimed  3 most jobs to look at
-- Returns the ids that were put back, at the head of the queue.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local back = {}
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, ARGV[3] - 1)) do
  local job = ARGV[1] .. id
  local at = redis.call('HMGET', job, 'state', 'popped_ms')
  if at[1] ~= 'queued' then
    redis.call('LREM', KEYS[1], 1, id) -- owned, ended or forgotten: nothing is waiting here
  elseif not at[2] then
    redis.call('HSET', job, 'popped_ms', string.format('%.0f', now)) -- seen for the first time
  elseif now - at[2] >= tonumber(ARGV[2]) then
    redis.call('HDEL', job, 'popped_ms')
    redis.call('LREM', KEYS[1], 1, id)
    redis.call('LPUSH', KEYS[2], id)
    back[#back + 1] = id
  end
end
return back
