-- Whose turn it is: shared by the scripts that put jobs into the queue and take them out (`scripts.py` puts it before them).
--
-- A job stands in the lane of its priority, provider and tenant. A few jobs at a time are called up from the lanes into
-- RQ's queue, which is all that workers look at. So a tenant with 10,000 jobs is, for everybody else, a tenant with a few.
-- The lanes take turns by virtual time (start-time fair queueing): each call costs a lane its priority's price, and the
-- cheapest lane is next. Low comes slower than high, but it always comes.
-- A tenant or provider at its limit is passed over until a job of its ends, or its pace allows the next one.
--
-- In Redis, behind `base`:  lanes (by virtual time)  lane:<lane> (its jobs)  waiting (jobs per tenant; '' all of them)
--   vtime  limits (tenant:<name> and provider:<name>: calls at a time, per minute, tokens per minute; 0 for none)
--   busy:<who> (jobs called up or running, until when at most)  paced (the time each one's allowance is used up to)

local lanes = {}

local WINDOW = 64 -- jobs called up at a time: enough for workers to take sixteen at once, few enough to pass quickly
local LANES = 1000 -- looked at in one step, which then takes a millisecond
local PRICE = {high = 1, normal = 4, low = 16}
local MINUTE = 60000
local LONGEST = 7200000 -- no call lasts two hours; whoever vanished without a word holds its place no longer

function lanes.base(job)
  return string.match(job, '^(.-)job:')
end

local function parts(lane) -- "high:anthropic:acme"; a tenant may be called anything
  local priority, provider, tenant = string.match(lane, '^(%a+):([^:]*):(.*)$')
  return priority, {'provider:' .. provider, 'tenant:' .. tenant}, tenant
end

-- Those of them that have limits. Mostly nobody has any, which costs one look.
local function limited(base, whos)
  local found = {}
  for i, text in ipairs(redis.call('HMGET', base .. 'limits', whos[1], whos[2])) do
    if text then
      local calls, requests, tokens = string.match(text, '^(%d+) (%d+) (%d+)$')
      if calls then -- what somebody spoilt by hand is no limit
        found[#found + 1] = {who = whos[i], calls = tonumber(calls), requests = tonumber(requests), tokens = tonumber(tokens)}
      end
    end
  end
  return found
end

local function may_go(base, limit, now)
  local who, requests, tokens = limit.who, limit.requests, limit.tokens
  if limit.calls > 0 and redis.call('ZCOUNT', base .. 'busy:' .. who, now, '+inf') >= limit.calls then
    return false
  end
  local used = redis.call('HMGET', base .. 'paced', who, who .. ' tokens')
  -- A tenth of a minute's requests may come at once; tokens are known afterwards, so a minute's worth may be owed.
  return (requests == 0 or (tonumber(used[1] or 0) - now) <= MINUTE / 10)
    and (tokens == 0 or (tonumber(used[2] or 0) - now) < MINUTE)
end

local function use(base, who, key, share, now)
  local used = math.max(tonumber(redis.call('HGET', base .. 'paced', key) or 0), now)
  redis.call('HSET', base .. 'paced', key, string.format('%.0f', used + MINUTE * share))
end

local function call(base, queue, id, limits, now)
  for _, limit in ipairs(limits) do
    redis.call('ZADD', base .. 'busy:' .. limit.who, now + LONGEST, id)
    redis.call('PEXPIRE', base .. 'busy:' .. limit.who, LONGEST)
    if limit.requests > 0 then
      use(base, limit.who, limit.who, 1 / limit.requests, now)
    end
  end
  redis.call('RPUSH', queue, id)
end

local function count(base, tenant, by)
  for _, field in ipairs({tenant, ''}) do
    if redis.call('HINCRBY', base .. 'waiting', field, by) <= 0 then
      redis.call('HDEL', base .. 'waiting', field)
    end
  end
end

local function all_may_go(base, limits, now)
  for _, limit in ipairs(limits) do
    if not may_go(base, limit, now) then
      return false
    end
  end
  return true
end

-- Jobs that wait, in all and of this tenant.
function lanes.waiting(base, queue, tenant)
  local found = redis.call('HMGET', base .. 'waiting', '', tenant)
  return redis.call('LLEN', queue) + (found[1] or 0), tonumber(found[2] or 0)
end

-- Calls up as many jobs as there is room for.
function lanes.call_up(base, queue, now)
  if redis.call('EXISTS', base .. 'lanes') == 0 then
    return 0
  end
  local room, called = WINDOW - redis.call('LLEN', queue), 0
  local found, line = room > 0 and redis.call('ZRANGE', base .. 'lanes', 0, LANES - 1, 'WITHSCORES') or {}, {}
  for i = 1, #found, 2 do
    line[#line + 1] = {name = found[i], at = tonumber(found[i + 1])}
  end
  local looks = 16 * WINDOW -- at jobs that are gone, too
  while called < room and #line > 0 and looks > 0 do
    local first = 1
    for i = 2, #line do
      if line[i].at < line[first].at then
        first = i
      end
    end
    local lane = line[first]
    local priority, whos, tenant = parts(lane.name)
    local limits = limited(base, whos)
    looks = looks - 1
    if not all_may_go(base, limits, now) then
      table.remove(line, first)
    else
      local id = redis.call('LPOP', base .. 'lane:' .. lane.name)
      if not id then
        redis.call('ZREM', base .. 'lanes', lane.name)
        table.remove(line, first)
      else
        count(base, tenant, -1)
        if redis.call('HGET', base .. 'job:' .. id, 'state') == 'queued' then
          call(base, queue, id, limits, now)
          redis.call('SET', base .. 'vtime', lane.at)
          lane.at, called = lane.at + PRICE[priority], called + 1
          redis.call('ZADD', base .. 'lanes', lane.at, lane.name)
        end
      end
    end
  end
  return called
end

-- A new job lines up; where nobody waits and nothing forbids it, it is called at once.
function lanes.join(base, queue, id, lane, now)
  local priority, whos, tenant = parts(lane)
  if redis.call('EXISTS', base .. 'lanes') == 0 and redis.call('LLEN', queue) < WINDOW then
    local limits = limited(base, whos)
    if all_may_go(base, limits, now) then
      call(base, queue, id, limits, now)
      return
    end
  end
  redis.call('RPUSH', base .. 'lane:' .. lane, id)
  count(base, tenant, 1)
  local start = tonumber(redis.call('GET', base .. 'vtime') or 0) + PRICE[priority]
  redis.call('ZADD', base .. 'lanes', 'NX', start, lane)
  lanes.call_up(base, queue, now)
end

-- A job is no longer busy: it has ended, or was never run.
function lanes.release(base, id, lane)
  if lane and redis.call('EXISTS', base .. 'limits') == 1 then
    local _, whos = parts(lane)
    for _, who in ipairs(whos) do
      redis.call('ZREM', base .. 'busy:' .. who, id)
    end
  end
end

-- A job leaves the line before its turn.
function lanes.leave(base, queue, id, lane)
  if redis.call('LREM', queue, 1, id) == 0 and lane and redis.call('LREM', base .. 'lane:' .. lane, 1, id) == 1 then
    local _, _, tenant = parts(lane)
    count(base, tenant, -1)
  end
  lanes.release(base, id, lane)
end

-- What a call has cost, where tokens are limited.
function lanes.spend(base, lane, spent, now)
  if lane and spent > 0 then
    local _, whos = parts(lane)
    for _, limit in ipairs(limited(base, whos)) do
      if limit.tokens > 0 then
        use(base, limit.who, limit.who .. ' tokens', spent / limit.tokens, now)
      end
    end
  end
end

