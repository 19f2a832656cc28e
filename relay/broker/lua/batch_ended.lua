-- An item of a batch has ended: shared by the scripts that end jobs (`scripts.py` puts it before them).
--
-- The job's field `batch` is `<batch> <number of the item>`. Its number is noted once, for whoever writes the results;
-- how it counts is decided there, together with its line, so that the counts and the lines cannot disagree.

local batches = {}

function batches.ended(job)
  local batch, number = string.match(redis.call('HGET', job, 'batch') or '', '^(%S+) (%d+)$')
  if not batch then
    return
  end
  local name = string.match(job, '^(.-)job:') .. 'batch:' .. batch
  local lives = redis.call('PTTL', name)
  if lives > 0 and redis.call('SETBIT', name .. ':bits', number, 1) == 0 then -- a batch that is deleted wants no more
    redis.call('RPUSH', name .. ':ended', number)
    redis.call('PEXPIRE', name .. ':bits', lives)
    redis.call('PEXPIRE', name .. ':ended', lives)
  end
end

