#!lua flags=allow-oom
-- Hands out the jobs whose answers are to be put together before their logs expire. One that is not taken off the list
-- is handed out again, so a worker may die with it.
--
-- KEYS  1 jobs by when their answer is due
-- ARGV  1 most jobs to hand out  2 after how long, in ms, they are handed out again
-- Returns their ids.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), id)
end
return ids
