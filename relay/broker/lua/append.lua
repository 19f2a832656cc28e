#!lua flags=allow-oom
-- One flush of a worker: every frame its jobs have ready goes into the job's log and out on its channel, in one step, so
-- nothing is shown that is not in the log. Allowed when memory is full: running streams outrank new work.
-- This runs for every event of every stream: it compares texts, and reads and writes no more than it must.
--
-- KEYS  the job of each frame (several frames of one job stand in order)
-- ARGV  1 TTL of the log in ms
--       then per frame: lease, sequence before it ('' for the head, which counts no event), sequence after it,
--       id of its log entry, the frame
--       then pairs: index of a frame, usage record so far, for whoever must end its job in the worker's place
-- Returns per frame: 0 logged (or logged before: a lost reply)  -1 no longer ours  -3 no such job  -4 a hole before it
--       -5 logged, and the job is to be cancelled.

local call, codes, a = redis.call, {}, 2
for i, job in ipairs(KEYS) do
  local at = call('HMGET', job, 'lease', 'sequence', 'cancel')
  local before, after = ARGV[a + 1], ARGV[a + 2]
  if at[1] ~= ARGV[a] then
    codes[i] = at[2] and -1 or -3
  elseif at[2] == before then
    call('XADD', job .. ':log', ARGV[a + 3], 'f', ARGV[a + 4])
    if before == '0' then
      local time = call('TIME')
      call('HSET', job, 'sequence', after, 'state', 'streaming',
        'first_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
    else
      call('HSET', job, 'sequence', after)
    end
    call('PUBLISH', job .. ':live', ARGV[a + 4])
    codes[i] = at[3] and -5 or 0
  elseif before == '' then
    if redis.pcall('XADD', job .. ':log', ARGV[a + 3], 'f', ARGV[a + 4]).err == nil then
      call('PEXPIRE', job .. ':log', ARGV[1])
      call('PUBLISH', job .. ':live', ARGV[a + 4])
    end
    codes[i] = at[3] and -5 or 0
  else
    codes[i] = tonumber(at[2]) < tonumber(before) and -4 or at[3] and -5 or 0
  end
  a = a + 5
end
while a < #ARGV do
  local i = tonumber(ARGV[a])
  if codes[i] == 0 then
    call('HSET', KEYS[i], 'draft', ARGV[a + 1])
  end
  a = a + 2
end
return codes
