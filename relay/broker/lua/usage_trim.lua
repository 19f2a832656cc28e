#!lua flags=allow-oom
-- Trims the usage stream behind what every group has stored, and forgets consumers that are gone.
--
-- KEYS  1 usage stream
-- ARGV  1 how long a record stays in any case, in ms  2 silence after which a consumer that owes nothing is gone, in ms
-- Returns the number of records trimmed.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end

local function fields(flat)
  local found = {}
  for i = 1, #flat, 2 do
    found[flat[i]] = flat[i + 1]
  end
  return found
end

local function before(a, b)
  local a_ms, a_seq = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_seq = string.match(b, '(%d+)-(%d+)')
  if a_ms == b_ms then
    return tonumber(a_seq) < tonumber(b_seq)
  end
  return tonumber(a_ms) < tonumber(b_ms)
end

local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then
  return 0 -- nobody has stored anything
end
local time = redis.call('TIME')
local keep_from = math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[1]))
local from = string.format('%.0f-0', keep_from)
for _, flat in ipairs(groups) do
  local group = fields(flat)
  -- What is pending was delivered and may not be stored; nothing after the last delivered was even read.
  local owed = group['pending'] > 0 and redis.call('XPENDING', KEYS[1], group['name'])[2] or group['last-delivered-id']
  if before(owed, from) then
    from = owed
  end
  for _, other in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group['name'])) do
    local consumer = fields(other)
    if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group['name'], consumer['name'])
    end
  end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', from)
