#!lua flags=allow-oom
-- A page of a tenant's jobs, newest first. It changes nothing.
--
-- KEYS  1 the tenant's jobs
-- ARGV  1 prefix of job keys  2 id before which to begin  3 id at which to end, both as ZRANGE … BYLEX takes them
--       4 most jobs to return  5 most jobs to look at
--       6 states, with commas around each ('' any)  7 model ('' any)  then pairs of metadata: key, value
-- Returns the id last looked at ('' at the end of all), then per job that fits its fields and values.

local ids = redis.call('ZRANGE', KEYS[1], ARGV[2], ARGV[3], 'BYLEX', 'REV', 'LIMIT', 0, ARGV[5])
local most, states, model = tonumber(ARGV[4]), ARGV[6], ARGV[7]
local found = {''}

local function fits(job)
  local at = redis.call('HMGET', job, 'state', 'model', 'metadata')
  if not at[1] then
    return false -- expired, and not yet found to be
  elseif states ~= '' and not string.find(states, ',' .. at[1] .. ',', 1, true) then
    return false
  elseif model ~= '' and at[2] ~= model then
    return false
  elseif ARGV[8] then
    local metadata = cjson.decode(at[3] or '{}')
    for i = 8, #ARGV, 2 do
      if metadata[ARGV[i]] ~= ARGV[i + 1] then
        return false
      end
    end
  end
  return true
end

for i, id in ipairs(ids) do
  if fits(ARGV[1] .. id) then
    found[#found + 1] = redis.call('HGETALL', ARGV[1] .. id)
  end
  if #found > most or (i == #ids and i == tonumber(ARGV[5])) then
    found[1] = id
    return found
  end
end
return found
