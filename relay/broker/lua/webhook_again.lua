#!lua flags=allow-oom
-- Makes a webhook due once more, whatever became of it; what is under way does not count any more.
--
-- KEYS  1 job
-- ARGV  1 id
-- Returns 1 due now  0 due already, and not tried yet  -3 no such job, or it has not ended, or has no webhook.

local at = redis.call('HMGET', KEYS[1], 'webhook_state', 'webhook_attempts', 'webhook_lease')
if not at[1] then
  return -3
elseif at[1] == 'pending' and at[2] == '0' and not at[3] then
  return 0
end
local time = redis.call('TIME')
outbox.add(KEYS[1], ARGV[1], time[1] * 1000 + math.floor(time[2] / 1000))
return 1
