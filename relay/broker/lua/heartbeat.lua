#!lua flags=allow-oom
-- Renews the leases of a worker's jobs, in Redis time, where they are still its own; RQ's records of them live on with them.
--
-- KEYS  1 leases  2 RQ started registry  3 RQ executions of this worker
-- ARGV  1 prefix of job keys  2 lease in ms  3 prefix of RQ execution keys  4 prefix of RQ execution registries
--       5 now in s by the worker's clock, for RQ's records only  6 TTL in s of RQ's execution records
--       then per job: id, lease
-- Returns per job: 0 renewed  -1 no longer ours  -3 no such job  -5 renewed, and the job is to be cancelled.

local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
local codes, ttl = {}, tonumber(ARGV[6])
for i = 7, #ARGV, 2 do
  local id, lease = ARGV[i], ARGV[i + 1]
  local at = redis.call('HMGET', ARGV[1] .. id, 'state', 'lease', 'cancel')
  if not at[1] then
    codes[#codes + 1] = -3
  elseif at[2] ~= lease then
    codes[#codes + 1] = -1
  else
    redis.call('ZADD', KEYS[1], deadline, id)
    redis.call('ZADD', KEYS[2], 'XX', ARGV[5] + ttl, id .. ':' .. lease)
    redis.call('HSET', ARGV[3] .. id .. ':' .. lease, 'last_heartbeat', ARGV[5])
    redis.call('EXPIRE', ARGV[3] .. id .. ':' .. lease, ttl)
    redis.call('ZADD', ARGV[4] .. id, 'XX', ARGV[5] + ttl, lease)
    redis.call('EXPIRE', ARGV[4] .. id, ttl)
    codes[#codes + 1] = at[3] and -5 or 0
  end
end
redis.call('EXPIRE', KEYS[3], ttl + 60)
return codes
