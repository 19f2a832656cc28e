#!lua flags=allow-oom
-- Does what is due: a job whose time has come goes to the queue, a job that nobody took in time ends as failed.
--
-- KEYS  1 timers  2 RQ queue  3 RQ's set of queues  4 RQ failed registry
-- ARGV  1 prefix of job keys  2 prefix of RQ job keys  3 most jobs to look at  4 TTL of the log in ms
--       5 TTL of an ended job in s  6 now in RQ's text form  7 now in s by the caller's clock, for RQ's records only
--       8 message for `expired`
-- Returns how many jobs it has queued, how many have ended, and in how many ms the next one is due (-1: there is none).

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local queued, ended = 0, 0

local function give_up(id, job, rq_job, generation)
  generation = string.format('%.0f', math.max(generation + 1, now))
  local frame = generation .. '-1 0 x\n' .. cjson.encode({state = 'failed', error = {code = 'expired', message = ARGV[8]}})
  redis.call('XADD', job .. ':log', generation .. '-1', 'f', frame)
  redis.call('PEXPIRE', job .. ':log', ARGV[4])
  redis.call('PUBLISH', job .. ':live', frame)
  redis.call('HSET', job, 'state', 'failed', 'generation', generation, 'sequence', '1',
    'ended_ms', string.format('%.0f', now), 'error', 'expired', 'message', ARGV[8])
  redis.call('HSET', rq_job, 'status', 'failed', 'ended_at', ARGV[6])
  for _, name in ipairs({job, job .. ':body', rq_job}) do
    redis.call('EXPIRE', name, ARGV[5])
  end
  lanes.leave(lanes.base(ARGV[1]), KEYS[2], id, redis.call('HGET', job, 'lane'))
  redis.call('ZADD', KEYS[4], ARGV[7] + ARGV[5], id)
  batches.ended(job)
  outbox.add(job, id, now)
  ended = ended + 1
end

local function settle(id)
  local job, rq_job = ARGV[1] .. id, ARGV[2] .. id
  local at = redis.call('HMGET', job, 'state', 'attempts', 'expires_at_ms', 'generation')
  redis.call('ZREM', KEYS[1], id)
  if at[1] ~= 'queued' or at[2] ~= '0' then
    return -- somebody took it, or it has ended
  end
  local expires = tonumber(at[3] or 'inf')
  if now >= expires then
    give_up(id, job, rq_job, at[4])
  elseif redis.call('HGET', rq_job, 'status') == 'scheduled' then
    redis.call('HSET', rq_job, 'status', 'queued')
    redis.call('SADD', KEYS[3], KEYS[2])
    lanes.join(lanes.base(ARGV[1]), KEYS[2], id, redis.call('HGET', job, 'lane'), now)
    queued = queued + 1
  end
  if now < expires and at[3] then
    redis.call('ZADD', KEYS[1], expires, id)
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[3])) do
  if not pcall(settle, id) then -- a record that somebody spoilt by hand must not keep the others waiting
    redis.call('ZREM', KEYS[1], id)
  end
end
local next_one = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {queued, ended, next_one[2] and math.max(0, next_one[2] - now) or -1}
