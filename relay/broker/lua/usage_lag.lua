#!lua flags=no-writes
-- How far a group is behind the usage stream.
--
-- KEYS  1 usage stream
-- ARGV  1 group  2 most records counted one by one, where Redis has lost count
-- Returns records not stored yet, the age of the oldest of them in ms.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return {0, 0}
end

local last, pending, lag = '0-0', 0, nil
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #flat, 2 do
    group[flat[i]] = flat[i + 1]
  end
  if group['name'] == ARGV[1] then
    last, pending, lag = group['last-delivered-id'], group['pending'], group['lag']
  end
end

local next_one = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1]
if last == '0-0' then
  lag = redis.call('XLEN', KEYS[1])
elseif not lag then
  lag = next_one and #redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', ARGV[2]) or 0
end

local oldest = next_one and next_one[1]
if pending > 0 then
  oldest = redis.call('XPENDING', KEYS[1], ARGV[1])[2] -- read before anything that was not read yet
end
if not oldest then
  return {0, 0}
end
local time = redis.call('TIME')
local age = time[1] * 1000 + math.floor(time[2] / 1000) - string.match(oldest, '%d+')
return {pending + lag, math.max(0, age)}
