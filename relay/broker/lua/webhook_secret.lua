#!lua flags=allow-oom
-- The secrets that sign a tenant's webhooks, the newest first. The first is made when it is first asked for; a rotation
-- puts a new one before them, and the one before goes on signing for a while.
--
-- KEYS  1 secrets by tenant: "<secret> <when it ends, in ms; 0: not yet>", …
-- ARGV  1 tenant  2 a new secret  3 whether to rotate: 1 or 0  4 how long, in ms, the one before goes on
-- Returns the secrets in force.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local rotates = ARGV[3] == '1' and stored and string.sub(stored, 1, #ARGV[2]) ~= ARGV[2]
local kept, answer = {}, {}

local function keep(secret, ends)
  kept[#kept + 1] = secret .. ' ' .. ends
  answer[#answer + 1] = secret
end

if rotates or not stored then
  keep(ARGV[2], '0')
end
for secret, ends in string.gmatch(stored or '', '(%S+) (%d+)') do
  if ends == '0' and rotates then
    ends = string.format('%.0f', now + ARGV[4])
  end
  if ends == '0' or tonumber(ends) > now then
    keep(secret, ends)
  end
end
if rotates or not stored then
  redis.call('HSET', KEYS[1], ARGV[1], table.concat(kept, ' '))
end
return answer
