#!lua flags=allow-oom
-- Calls up jobs whose pace allows them now: all else that can free a place calls up by itself.
--
-- KEYS  1 RQ queue
-- ARGV  1 prefix of job keys
-- Returns how many.

local time = redis.call('TIME')
return lanes.call_up(lanes.base(ARGV[1]), KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000))
