-- What the scripts that end jobs do for those who want to be told (`scripts.py` puts it before them).

local outbox = {}

-- Whoever wants to be told of this job's end is due now.
function outbox.add(job, id, now)
  if redis.call('HEXISTS', job, 'webhook') == 1 then
    now = string.format('%.0f', now)
    redis.call('HDEL', job, 'webhook_lease')
    redis.call('HSET', job, 'webhook_state', 'pending', 'webhook_attempts', '0', 'webhook_since_ms', now, 'webhook_next_ms', now)
    redis.call('ZADD', string.match(job, '^(.-)job:') .. 'webhooks', now, id)
  end
end
