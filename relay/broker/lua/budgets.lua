-- What keys and tenants may spend: shared by the scripts that let calls in and those that record what they cost
-- (`scripts.py` puts it before them). A job under a budget is marked when it is let in, so that the ends of all others
-- cost nothing here. The mark is `money` where its price has to be known, else `tokens`.
-- All of it is one function, called where there is a budget: to make eight would cost every script two microseconds.
--
-- In Redis, behind `base`:  budgets (key:<id> and tenant:<name>: JSON [[period, unit, soft, hard], …]; 0: no such bound)
--   spent:<period>:<holder> (money in nano-dollars, tokens, unpriced calls; told:<…> what was said of it once)

local function budgets()
  local budgets = {}

  local DAY = 86400000
  local KEPT = 2 * DAY -- after its end a period may still get what a worker reports late, or a clock that is behind
  local LONGEST_CALL = 7200000 -- a worker's clock that is further off than a call can last is not believed
  local MOST = 9007199254740992 -- of one call; no call costs nine million dollars, and above it Lua cannot count

  local function whole(number) -- Lua itself would write 1e+15
    return string.format('%.0f', number)
  end

  local function civil(days) -- year, month, day: days_from_civil of Howard Hinnant, turned round
    local shifted = days + 719468
    local era = math.floor(shifted / 146097)
    local of_era = shifted - era * 146097
    local years = math.floor(
      (of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
    local of_year = of_era - (365 * years + math.floor(years / 4) - math.floor(years / 100))
    local march = math.floor((5 * of_year + 2) / 153)
    local month = march < 10 and march + 3 or march - 9
    return years + era * 400 + (month <= 2 and 1 or 0), month, of_year - math.floor((153 * march + 2) / 5) + 1
  end

  -- The periods of a moment, in ms: their names and when they end.
  function budgets.periods(ms)
    local today = math.floor(ms / DAY)
    local year, month, day = civil(today)
    local first = today - day + 1
    local _, _, beyond = civil(first + 31)
    return {
      day = {name = string.format('%04d-%02d-%02d', year, month, day), ends = (today + 1) * DAY},
      month = {name = string.format('%04d-%02d', year, month), ends = (first + 31 - beyond + 1) * DAY},
    }
  end

  local function spent_name(base, period, holder)
    return base .. 'spent:' .. period.name .. ':' .. holder
  end

  local function bounds_of(text) -- what somebody spoilt by hand is no bound; the rest goes on
    local is_json, entries = pcall(cjson.decode, text)
    local bounds = {}
    for _, entry in ipairs(is_json and type(entries) == 'table' and entries or {}) do
      local period, unit, soft, hard = unpack(type(entry) == 'table' and entry or {})
      if (period == 'day' or period == 'month') and (unit == 'money' or unit == 'tokens')
        and type(soft) == 'number' and type(hard) == 'number' and soft % 1 == 0 and hard % 1 == 0 then
        bounds[#bounds + 1] = {period = period, unit = unit, soft = soft, hard = hard}
      end
    end
    return bounds
  end

  -- Whether a call may begin whose `holders` are its tenant and its key, with what is `found` of their budgets. Returns
  -- its job's mark, whether it is refused, and each bound that is passed: {holder, period, unit, soft, hard, spent,
  -- 1 if that is said for the first time}.
  function budgets.look(base, holders, found, now)
    local periods, mark, refused, passed = budgets.periods(now), 'tokens', false, {}
    for i, holder in ipairs(holders) do
      for _, bound in ipairs(found[i] and bounds_of(found[i]) or {}) do
        local name = spent_name(base, periods[bound.period], holder)
        local spent = tonumber(redis.call('HGET', name, bound.unit) or 0) or 0
        local over = bound.hard > 0 and spent >= bound.hard
        if bound.unit == 'money' then
          mark = 'money'
        end
        refused = refused or over
        if over or bound.soft > 0 and spent >= bound.soft then
          local soft, hard = whole(bound.soft), whole(bound.hard)
          local told = redis.call('HSETNX', name, 'told:' .. bound.unit .. ':' .. (over and hard or soft), '1')
          passed[#passed + 1] = {holder, bound.period, bound.unit, soft, hard, whole(spent), told}
        end
      end
    end
    return mark, refused, passed
  end

  local function counts_of(mark, facts) -- tokens, money, calls without a price
    local tokens = 0
    for _, name in ipairs({'input_tokens', 'cache_read_tokens', 'cache_write_5m_tokens', 'cache_write_1h_tokens',
      'output_tokens'}) do
      tokens = tokens + (tonumber(facts[name]) or 0)
    end
    local money = tonumber(facts.cost)
    return {
      tokens = math.min(tokens, MOST),
      money = math.min(money or 0, MOST),
      unpriced = mark == 'money' and not money and tokens > 0 and 1 or 0,
    }
  end

  local function minus(job, field, counts) -- a better count of a call takes the place of the one before
    local before = redis.call('HGET', job, field)
    for name, count in string.gmatch(before or '', '(%a+) (%d+)') do
      counts[name] = counts[name] - tonumber(count)
    end
  end

  -- Counts a usage record, in the periods its call began in: that is where the ledger has it, too. A count that is not
  -- the last word is kept with the job, so that the last word counts what it says more.
  function budgets.count(job, mark, facts, now)
    local base, field = string.match(job, '^(.-)job:'), 'counted:' .. facts.call
    local counts = counts_of(mark, facts)
    if facts.v == '2' then
      minus(job, field, counts)
    elseif facts.kind ~= 'final' then
      local text = string.format('tokens %.0f money %.0f unpriced %d', counts.tokens, counts.money, counts.unpriced)
      redis.call('HSET', job, field, text)
    end
    local began = math.max(now - LONGEST_CALL, math.min(now, tonumber(facts.started_ms) or now))
    local holders = {'tenant:' .. facts.tenant, 'key:' .. facts.key_id}
    local found = redis.call('HMGET', base .. 'budgets', unpack(holders))
    for i, holder in ipairs(holders) do
      for _, period in pairs(found[i] and budgets.periods(began) or {}) do
        local name = spent_name(base, period, holder)
        for unit, count in pairs(counts) do
          if count ~= 0 then
            redis.pcall('HINCRBY', name, unit, whole(count)) -- one that is full stays so: it is over
          end
        end
        redis.call('PEXPIREAT', name, whole(period.ends + KEPT))
      end
    end
  end

  return budgets
end

