#!lua flags=allow-oom
-- Settles jobs whose worker is gone: those whose lease ran out, or, for a worker that must leave, those it names itself.
--
--   claimed     the provider was not called        queued again, up to the limit of attempts
--   dispatched  it may have been called            usage record `unknown`; queued again, once
--   streaming   output was shown                   ended with an explicit error; usage record `partial`; never run again
--
-- KEYS  1 leases  2 usage stream  3 RQ queue  4 RQ started registry  5 RQ failed registry
-- ARGV  1 prefix of job keys  2 prefix of RQ job keys  3 prefix of RQ execution keys  4 prefix of RQ execution registries
--       5 prefix of RQ worker keys  6 now in RQ's text form  7 now in s by the caller's clock, for RQ's records only
--       8 most attempts  9 TTL of the log in ms  10 TTL of an ended job in s  11 TTL of a queued job in ms
--       12 most usage records kept  13 most jobs to settle  14 message for `interrupted`  15 message for `worker_lost`
--       16 message for `cancelled`  then per named job: id, lease (none: those whose lease ran out)
-- Returns per settled job {id, what became of it: queued, interrupted, worker_lost or cancelled, state it was in}.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local named = #ARGV > 16
local settled = {}

local function record_usage(job, id, state, outcome)
  local draft = redis.call('HGET', job, 'draft')
  if state == 'claimed' or not draft then
    return
  end
  local record, kind = cjson.decode(draft), state == 'streaming' and 'partial' or 'unknown'
  local call = record[4] -- behind v, its value, and the name
  if redis.call('HSETNX', job, 'usage:' .. string.sub(call, #id + 2), kind) == 0 then
    return
  end
  redis.call('HSET', job, 'usage_kind', kind)
  local created = redis.call('HGET', job, 'created_ms')
  for _, value in ipairs({'cache_note', '', 'kind', kind, 'outcome', outcome, 'error', outcome,
    'total_ms', string.format('%.0f', now - created), 'ended_ms', string.format('%.0f', now)}) do
    record[#record + 1] = value
  end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[12], '*', unpack(record))
  local mark, facts = redis.call('HGET', job, 'budget'), {}
  if mark then
    for i = 1, #record, 2 do
      facts[record[i]] = record[i + 1]
    end
    budgets().count(job, mark, facts, now)
  end
end

local function settle(id)
  local job, rq_job = ARGV[1] .. id, ARGV[2] .. id
  redis.call('ZREM', KEYS[1], id)
  local at = redis.call('HMGET', job, 'state', 'generation', 'lease', 'attempts', 'sequence', 'worker', 'cancel')
  local state, generation, lease = at[1], at[2], at[3]
  if not lease then
    return -- ended or queued again meanwhile
  end
  local composite = id .. ':' .. lease
  redis.call('DEL', ARGV[3] .. composite)
  redis.call('ZREM', ARGV[4] .. id, lease)
  redis.call('ZREM', KEYS[4], composite)
  redis.call('SREM', ARGV[5] .. at[6] .. ':executions', composite)
  redis.call('HDEL', job, 'lease')

  local code, message
  if at[7] then
    code, message = 'cancelled', ARGV[16]
  elseif state == 'streaming' then
    code, message = 'interrupted', ARGV[14]
  elseif state == 'claimed' and named then
    redis.call('HINCRBY', job, 'attempts', -1) -- handed back by a worker that is well: no attempt of the job's
  elseif tonumber(at[4]) >= tonumber(ARGV[8]) or (state == 'dispatched' and redis.call('HINCRBY', job, 'lost_calls', 1) > 1) then
    code, message = 'worker_lost', ARGV[15]
  end
  record_usage(job, id, state, code or 'worker_lost')
  if not code then
    redis.call('HSET', job, 'state', 'queued')
    redis.call('HDEL', job, 'worker', 'draft')
    redis.call('HSET', rq_job, 'status', 'queued', 'worker_name', '')
    for _, name in ipairs({job, job .. ':body', rq_job}) do
      redis.call('PEXPIRE', name, ARGV[11])
    end
    redis.call('LPUSH', KEYS[3], id)
    settled[#settled + 1] = {id, 'queued', state}
    return
  end

  local ended = code == 'cancelled' and 'cancelled' or 'failed'
  local sequence = string.format('%.0f', at[5] + 1)
  local entry = generation .. '-' .. sequence
  local frame = entry .. ' 0 x\n' .. cjson.encode({state = ended, error = {code = code, message = message}})
  redis.call('XADD', job .. ':log', entry, 'f', frame)
  redis.call('PEXPIRE', job .. ':log', ARGV[9])
  redis.call('PUBLISH', job .. ':live', frame)
  redis.call('HSET', job, 'state', ended, 'sequence', sequence, 'ended_ms', string.format('%.0f', now), 'error', code, 'message', message)
  redis.call('HDEL', job, 'draft')
  lanes.release(lanes.base(job), id, redis.call('HGET', job, 'lane'))
  batches.ended(job)
  outbox.add(job, id, now)
  redis.call('EXPIRE', job, ARGV[10])
  redis.call('EXPIRE', job .. ':body', ARGV[10])
  redis.call('HSET', rq_job, 'status', 'failed', 'ended_at', ARGV[6])
  redis.call('EXPIRE', rq_job, ARGV[10])
  redis.call('ZADD', KEYS[5], ARGV[7] + ARGV[10], id)
  settled[#settled + 1] = {id, code, state}
end

if named then
  for i = 17, #ARGV, 2 do
    if redis.call('HGET', ARGV[1] .. ARGV[i], 'lease') == ARGV[i + 1] then
      settle(ARGV[i])
    end
  end
else
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[13])) do
    if not pcall(settle, id) then -- a record that somebody spoilt by hand must not keep the others waiting
      settled[#settled + 1] = {id, 'unsettled', 'unknown'}
    end
  end
end
if #settled > 0 then
  lanes.call_up(lanes.base(ARGV[1]), KEYS[3], now)
end
return settled
