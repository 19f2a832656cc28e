#!lua flags=allow-oom
-- Ends a job: its last frames, its end frame, its state, its usage record, its lease and RQ's records, together.
--
-- KEYS  1 job  2 RQ job  3 leases  4 usage stream  5 RQ worker  6 RQ executions of the worker  7 RQ execution
--       8 RQ execution registry of the job  9 RQ started registry  10 RQ finished or failed registry  11 RQ results of the job
--       12 jobs by when their answer is due  13 RQ queue
-- ARGV  1 lease  2 state: done, failed or cancelled  3 sequence before the last frames
--       4 TTL of the log in ms  5 TTL of the job in s  6 TTL of the body in s (0: delete it)
--       7 error code ('' none)  8 error message  9 HTTP status
--       10 RQ status  11 RQ result type  12 now in RQ's text form  13 now in s
--       14 most usage records kept  15 RQ result's error text as RQ stores it ('' none)
--       16 in how many ms its answer is to be put together (0: never)
--       17 count of usage arguments n (0: no call was made), then n of them (field, value, …)
--       then the frames: sequence after it, the frame, …; the end frame is the last
-- Returns 1 ended  0 ended before by this very call (a lost reply)  -1 no longer ours  -3 no such job  -4 a hole.

local job, lease = KEYS[1], ARGV[1]
local at = redis.call('HMGET', job, 'generation', 'lease', 'sequence', 'ended_by', 'worker', 'claimed_ms', 'lane',
  'budget', 'batch', 'webhook')
local generation = at[1]
if not generation then
  return -3
elseif at[4] == lease then
  return 0
elseif at[2] ~= lease then
  return -1
elseif at[3] ~= ARGV[3] then
  return -4
end

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local n = tonumber(ARGV[17])
local id = string.match(job, '[^:]+$')
local log = job .. ':log'
local frames = 18 + n
for i = frames, #ARGV, 2 do
  redis.call('XADD', log, generation .. '-' .. ARGV[i], 'f', ARGV[i + 1])
  redis.call('PUBLISH', job .. ':live', ARGV[i + 1])
end
redis.call('PEXPIRE', log, ARGV[4])

redis.call('HSET', job, 'state', ARGV[2], 'sequence', ARGV[#ARGV - 1], 'ended_ms', now, 'ended_by', lease,
  'error', ARGV[7], 'message', ARGV[8], 'status', ARGV[9])
redis.call('HDEL', job, 'lease', 'draft')
redis.call('EXPIRE', job, ARGV[5])
if ARGV[6] == '0' then
  redis.call('DEL', job .. ':body')
else
  redis.call('EXPIRE', job .. ':body', ARGV[6])
end
redis.call('ZREM', KEYS[3], id)
if ARGV[16] ~= '0' then
  redis.call('ZADD', KEYS[12], string.format('%.0f', now + ARGV[16]), id)
end
local base = lanes.base(job)
lanes.release(base, id, at[7])
if at[9] then
  batches.ended(job)
end
if at[10] then
  outbox.add(job, id, now)
end
if n > 0 then
  local record, facts = {unpack(ARGV, 18, 17 + n)}, {}
  for i = 1, n, 2 do
    facts[record[i]] = record[i + 1]
  end
  if redis.call('HSETNX', job, 'usage:' .. string.sub(facts.call, #id + 2), facts.kind) == 1 then
    redis.call('HSET', job, 'usage_kind', facts.kind)
    redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[14], '*', unpack(record))
    local spent = 0 -- as providers count: what was read from the cache is free
    for _, name in ipairs({'input_tokens', 'cache_write_5m_tokens', 'cache_write_1h_tokens', 'output_tokens'}) do
      spent = spent + (tonumber(facts[name]) or 0)
    end
    lanes.spend(base, at[7], spent, tonumber(now))
    if at[8] then
      budgets().count(job, at[8], facts, tonumber(now))
    end
  end
end
lanes.call_up(base, KEYS[13], tonumber(now))

-- RQ's records of an ended job: rq/job.py _handle_success and _handle_failure, rq/executions.py Execution.delete.
local ttl = tonumber(ARGV[5])
redis.call('HSET', KEYS[2], 'status', ARGV[10], 'ended_at', ARGV[12], 'last_heartbeat', ARGV[12])
redis.call('EXPIRE', KEYS[2], ttl)
local result = {'type', ARGV[11], 'worker_name', at[5], 'execution_id', lease,
  'execution_started_at', at[6] / 1000, 'execution_ended_at', now / 1000}
if ARGV[15] ~= '' then
  result[#result + 1], result[#result + 2] = 'exc_string', ARGV[15]
end
redis.call('XADD', KEYS[11], 'MAXLEN', 10, '*', unpack(result))
redis.call('EXPIRE', KEYS[11], ttl)
redis.call('ZADD', KEYS[10], ARGV[13] + ttl, id)
if redis.call('EXISTS', KEYS[5]) == 1 then -- a worker that could not register (a full Redis) has no record yet
  redis.call('HINCRBY', KEYS[5], ARGV[11] == '1' and 'successful_job_count' or 'failed_job_count', 1)
  redis.call('HINCRBYFLOAT', KEYS[5], 'total_working_time', (now - at[6]) / 1000)
end
redis.call('DEL', KEYS[7])
redis.call('ZREM', KEYS[9], id .. ':' .. lease)
redis.call('ZREM', KEYS[8], lease)
redis.call('SREM', KEYS[6], id .. ':' .. lease)
return 1
