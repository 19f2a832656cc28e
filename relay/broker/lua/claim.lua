#!lua flags=allow-oom
-- Gives queued jobs to a worker: those it popped, and up to `more` from the head of the queue. One owner, one new
-- generation; the lease is `<generation>-<token>`, and every later write of the worker must carry it.
-- Allowed when memory is full: a Redis full of queued requests must still be drained.
--
-- KEYS  1 leases  2 RQ queue  3 RQ intermediate queue  4 RQ started registry  5 RQ executions of this worker
--       6 RQ failed registry  7 what this worker took along last  8 timers
-- ARGV  1 prefix of job keys  2 prefix of RQ job keys  3 prefix of RQ execution keys  4 prefix of RQ execution registries
--       5 worker's name  6 token, new for every claim and kept for its repetition after a lost reply  7 lease in ms
--       8 now in RQ's text form  9 now in s, both by the worker's clock, for RQ's records only
--       10 TTL in s of RQ's execution records  11 more  12 TTL in s of a refused RQ job  13 TTL in ms of a running job
--       14… ids popped by BLMOVE
-- Returns per job {id, generation, {job's fields and values}, the body if it came inline}, or {id, 0} where there is
-- nothing to do for it: it was cancelled, has an owner, has ended (an `rq requeue` of a relayed job), comes too late or is
-- none of ours.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local worker, token = ARGV[5], ARGV[6]

local function refuse(id)
  -- What RQ takes for queued and we do not, somebody else has put there: say so in RQ's own terms, and never run it.
  local rq_job = ARGV[2] .. id
  if redis.call('HGET', rq_job, 'status') == 'queued' then
    redis.call('HSET', rq_job, 'status', 'failed')
    redis.call('EXPIRE', rq_job, ARGV[12])
    redis.call('ZADD', KEYS[6], ARGV[9] + ARGV[12], id)
  end
  return {id, 0}
end

local seen = {}

local function claim(id)
  local job, rq_job = ARGV[1] .. id, ARGV[2] .. id
  local at = redis.call('HMGET', job, 'state', 'generation', 'lease', 'expires_at_ms', 'attempts', 'body_pieces', 'popped_ms', 'draft')
  local generation = at[2]
  if seen[id] then
    return {id, 0} -- its second entry in the queue (a `put_back` cut short, a requeue by hand)
  end
  seen[id] = true
  if at[1] == 'queued' and at[4] and at[5] == '0' then
    if now >= tonumber(at[4]) then
      redis.call('ZADD', KEYS[8], 'NX', at[4], id) -- too late: `timers.lua` ends it
      return {id, 0}
    end
    redis.call('ZREM', KEYS[8], id)
  end
  if at[1] == 'queued' then
    generation = string.format('%.0f', math.max(tonumber(generation) + 1, now))
    local lease = generation .. '-' .. token
    redis.call('HSET', job, 'state', 'claimed', 'generation', generation, 'lease', lease, 'worker', worker,
      'sequence', '0', 'claimed_ms', string.format('%.0f', now), 'attempts', string.format('%.0f', (at[5] or 0) + 1))
    if at[7] or at[8] then -- it was in somebody's hands before
      redis.call('HDEL', job, 'popped_ms', 'draft')
    end
    redis.call('ZADD', KEYS[1], now + ARGV[7], id)
    for _, name in ipairs({job, job .. ':body', rq_job}) do
      redis.call('PEXPIRE', name, ARGV[13])
    end
    -- RQ's records of a started job: rq/executions.py Execution.create, rq/job.py prepare_for_execution.
    local execution, composite, ttl = ARGV[3] .. id .. ':' .. lease, id .. ':' .. lease, tonumber(ARGV[10])
    redis.call('HSET', rq_job, 'status', 'started', 'started_at', ARGV[8], 'last_heartbeat', ARGV[8], 'worker_name', worker)
    redis.call('HSET', execution, 'id', lease, 'job_id', id, 'created_at', ARGV[9], 'last_heartbeat', ARGV[9], 'worker_name', worker)
    redis.call('EXPIRE', execution, ttl)
    redis.call('ZADD', ARGV[4] .. id, ARGV[9] + ttl, lease)
    redis.call('EXPIRE', ARGV[4] .. id, ttl)
    redis.call('ZADD', KEYS[4], ARGV[9] + ttl, composite)
    redis.call('SADD', KEYS[5], composite)
  elseif at[1] ~= 'claimed' or at[3] ~= at[2] .. '-' .. token then
    return refuse(id)
  end
  local inline = at[6] == '0'
  return {id, generation, redis.call('HGETALL', job), inline and redis.call('HGET', job .. ':body', '0') or ''}
end

local function take_along()
  local last, ids = redis.call('GET', KEYS[7]) or '', {}
  if string.sub(last, 1, #token) == token then -- said again: the same, and no others
    for id in string.gmatch(last, ' (%S+)') do
      ids[#ids + 1] = id
    end
  elseif tonumber(ARGV[11]) > 0 then
    ids = redis.call('LPOP', KEYS[2], ARGV[11]) or ids
    if #ids > 0 then
      redis.call('SET', KEYS[7], token .. ' ' .. table.concat(ids, ' '), 'EX', ARGV[10])
    end
  end
  return ids
end

local claimed = {}
for i = 14, #ARGV do
  claimed[#claimed + 1] = claim(ARGV[i])
  redis.call('LREM', KEYS[3], 1, ARGV[i])
end
for _, id in ipairs(take_along()) do
  claimed[#claimed + 1] = claim(id)
end
lanes.call_up(lanes.base(ARGV[1]), KEYS[2], now)
if #claimed > 0 then
  redis.call('EXPIRE', KEYS[5], ARGV[10] + 60)
end
return claimed
