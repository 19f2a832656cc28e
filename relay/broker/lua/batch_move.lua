#!lua flags=allow-oom
-- Moves a batch on: items that are jobs now, items that have a result now. Its lines, its counts and its end are one step,
-- and whoever was overtaken by another process changes nothing.
--
-- KEYS  1 batch  2 requests that are no jobs yet  3 items that ended  4 bits of the items that ended  5 names
--       6 pieces of the output  7 pieces of the errors  8 the tenant's files (left out: the lines are no files of its own)
-- ARGV  1 items that were jobs or had a result before  2 items that had a result before
--       3 items that are jobs or have a result now, more  4 items to take from those that ended
--       5 more succeeded  6 errored  7 canceled  8 expired  9 lines for the output  10 lines for the errors
--       11 TTL in ms of a batch that has ended  12 largest piece in bytes
--       then the numbers of the items that have a result and were not taken from those that ended
-- Returns 1 moved  2 moved, and that was the last item  0 overtaken (or a lost reply)  -3 no such batch.

local at = redis.call('HMGET', KEYS[1], 'fed', 'collected', 'total', 'state')
if not at[1] then
  return -3
elseif at[1] ~= ARGV[1] or at[2] ~= ARGV[2] or at[4] ~= 'in_progress' then
  return 0
end
local lives = redis.call('PTTL', KEYS[1])

local function append(pieces, lines, size)
  if lines == '' then
    return
  end
  local last = redis.call('HLEN', pieces) - 1
  if last >= 0 and redis.call('HSTRLEN', pieces, last) + #lines <= tonumber(ARGV[12]) then
    lines = redis.call('HGET', pieces, last) .. lines
    redis.call('HINCRBY', KEYS[1], size, -redis.call('HSTRLEN', pieces, last))
  else
    last = last + 1
  end
  redis.call('HSET', pieces, last, lines)
  redis.call('HINCRBY', KEYS[1], size, #lines)
  redis.call('PEXPIRE', pieces, lives)
end

append(KEYS[6], ARGV[9], 'output_bytes')
append(KEYS[7], ARGV[10], 'error_bytes')
local results = 0
for i, kind in ipairs({'succeeded', 'errored', 'canceled', 'expired'}) do
  if ARGV[4 + i] ~= '0' then
    redis.call('HINCRBY', KEYS[1], kind, ARGV[4 + i])
    results = results + ARGV[4 + i]
  end
end
local fed = redis.call('HINCRBY', KEYS[1], 'fed', ARGV[3])
local collected = redis.call('HINCRBY', KEYS[1], 'collected', results)
if ARGV[3] ~= '0' then
  redis.call('LTRIM', KEYS[2], ARGV[3], -1)
end
if ARGV[4] ~= '0' then
  redis.call('LTRIM', KEYS[3], ARGV[4], -1)
end
for i = 13, #ARGV do
  redis.call('SETBIT', KEYS[4], ARGV[i], 1)
end
if #ARGV >= 13 then
  redis.call('PEXPIRE', KEYS[4], lives)
end
if collected < tonumber(at[3]) or fed < tonumber(at[3]) then
  return 1
end

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'state', 'ended', 'ended_ms', now)
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
for _, name in ipairs({KEYS[1], KEYS[6], KEYS[7]}) do
  redis.call('PEXPIRE', name, ARGV[11])
end

local function publish(pieces, size, name)
  local bytes = redis.call('HGET', KEYS[1], size)
  if not bytes then
    return
  end
  local file, id = string.match(pieces, '^(.-file:(.-)):data$')
  local batch = redis.call('HMGET', KEYS[1], 'id', 'tenant')
  redis.call('HSET', file, 'id', id, 'tenant', batch[2], 'purpose', 'batch_output', 'bytes', bytes, 'created_ms', now,
    'filename', batch[1] .. name, 'expires_ms', string.format('%.0f', now + ARGV[11]))
  redis.call('PEXPIRE', file, ARGV[11])
  redis.call('ZADD', KEYS[8], 0, id)
  if redis.call('PTTL', KEYS[8]) < tonumber(ARGV[11]) then
    redis.call('PEXPIRE', KEYS[8], ARGV[11])
  end
end

if KEYS[8] then
  publish(KEYS[6], 'output_bytes', '_output.jsonl')
  publish(KEYS[7], 'error_bytes', '_error.jsonl')
end
return 2
