-- One atomic decision over everything that the calls of one customer ask at the same time.
--
-- The rule is that of services/quota/decisions.py, where it is explained; tests hold the two equal.
-- Redis's clock is the only clock. How often Redis is called does not depend on how many operations
-- there are. All numbers are integers that a double holds exactly. Functions capture hardly
-- anything, because Lua pays for each capture in each run; they are given the `books` instead.
--
-- KEYS  counters and holds, expiries, what is remembered of even and of odd periods
-- ARGV  msgpack: counters, coverages, operations, sweep_max
--         counter    field, room, drain, scale, window start, its end, the end of the next; times
--                    are 0 without a window; all in one flat list
--         coverage   {id, description, exhibit, number of slots, counter, slot, counter, slot, ...}
--         operation  kind, coverage, request, fingerprint, hold, detail, an amount for each slot; all
--                    in one flat list; the detail is the ttl of a reserve, and 0 for a commit whose
--                    subject nobody knows
--       A description is msgpack {field, slot, ...}, and behind it what only the service reads; an
--       exhibit is what it needs to show a repeated answer.
-- Returns msgpack {is stale, now, more is due, {coverage id, exhibit, ...}}, then for each operation
-- an error of 1 or 2 bytes, or its record: fingerprint and coverage id of 8 bytes each, and msgpack
-- {outcome, now, detail, hold, figures of each counter ...}.
--
-- Kinds: 0 check, 1 reserve, 2 commit, 3 release. Outcomes: 1 allowed, 3 denied, 4 committed,
-- 5 released. Errors: 1 request id reused, and the outcome of the first; 2 hold not found;
-- 3 hold ended, and how.
-- A hold ended: C committed, R released, X expired, followed by its description.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local given, coverages, operations, sweep_max = cmsgpack.unpack(ARGV[1])

local counters, fields = {}, {}
for i = 1, #given, 7 do
  local ends, next_ends = given[i + 5], given[i + 6]
  if ends > 0 and ends <= now then ends = next_ends end
  if ends > 0 and (now < given[i + 4] or ends <= now) then return {cmsgpack.pack({true, now})} end
  fields[#fields + 1] = given[i]
  counters[#fields] = {
    field = given[i], room = given[i + 1], ends = ends, is_changed = false,
    stamp = 0, taken = 0, settled = 0, held = 0, drain = given[i + 2], scale = given[i + 3],
  }
end

local books = {
  now = now, operations = operations,
  counters = counters, fields = fields, by_field = false, changed = {},
  coverages = {}, holds = {}, changed_ids = {},
  recent = {}, news = {},
  last_expiry = 0, is_last_expiry_known = false,
}

-- Redis, in calls of bounded size ----------------------------------------------------------------

local function read(key, names)
  local count = #names
  if count <= 4000 then return count > 0 and redis.call('HMGET', key, unpack(names)) or {} end
  local values = {}
  for first = 1, count, 4000 do
    local last = math.min(first + 3999, count)
    local part = redis.call('HMGET', key, unpack(names, first, last))
    for i = 1, #part do values[first + i - 1] = part[i] end
  end
  return values
end

local function write(command, key, arguments)
  for first = 1, #arguments, 4000 do
    redis.call(command, key, unpack(arguments, first, math.min(first + 3999, #arguments)))
  end
end

-- Counters ---------------------------------------------------------------------------------------

local function whole(parts, scale)
  local rest = parts % scale
  if rest > 0 then return (parts - rest) / scale + 1 end
  return (parts - rest) / scale
end

local function touch(books, counter)
  if not counter.is_changed then
    counter.is_changed = true
    books.changed[#books.changed + 1] = counter
  end
end

local function bring(counter, instant)
  local stamp = counter.stamp
  if counter.drain > 0 then
    if instant > stamp then
      local drained = counter.drain * (instant - stamp)
      counter.taken = counter.taken > drained and counter.taken - drained or 0
      counter.settled = counter.settled > drained and counter.settled - drained or 0
      counter.stamp = instant
    end
  elseif stamp > 0 and stamp <= instant then
    counter.taken, counter.settled, counter.stamp = counter.held, 0, 0
  end
end

local function follow(books, counter, drain, scale)
  if counter.drain ~= drain or counter.scale ~= scale then
    local most = 4503599627370496
    counter.settled = math.min(whole(counter.settled, counter.scale) * scale, most)
    counter.taken = math.min(whole(counter.taken, counter.scale) * scale, most)
    if drain == 0 then counter.taken = counter.settled + counter.held end
    counter.drain, counter.scale, counter.stamp = drain, scale, books.now
    touch(books, counter)
  end
  if drain == 0 then
    if counter.stamp ~= 0 and counter.stamp ~= counter.ends then touch(books, counter) end
    counter.stamp = counter.ends
  end
end

local function settle(books, counter, held, actual)
  local scale, taken, most = counter.scale, counter.taken, 4503599627370496
  if held > counter.held then held = counter.held end
  local kept = actual < held and actual or held
  local settled = counter.settled + kept * scale
  if settled > taken then settled = taken end
  if actual > kept then
    local extra = (actual - kept) * scale
    if extra > most then extra = most end
    settled, taken = settled + extra, taken + extra
    if settled > most then settled = most end
    if taken > most then taken = most end
  end
  counter.held = counter.held - held
  local ceiling = settled + counter.held * scale
  counter.settled = settled
  counter.taken = taken < ceiling and taken or ceiling
  touch(books, counter)
end

local function wait_for(books, counter, amount)
  local missing = counter.taken + amount * counter.scale - counter.room
  if amount == 0 or missing <= 0 then return -1 end
  if amount * counter.scale > counter.room then return 0 end
  if counter.drain > 0 then return whole(missing, counter.drain) end
  if not books.is_last_expiry_known then
    local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
    books.last_expiry = math.max(books.last_expiry, tonumber(last[2] or 0))
    books.is_last_expiry_known = true
  end
  local expiry = math.max(books.last_expiry - books.now, 1)
  local turn = counter.stamp > 0 and counter.stamp - books.now or nil
  local expiry_helps = counter.settled + amount <= counter.room
  local turn_helps = turn and counter.held + amount <= counter.room
  if expiry_helps and turn_helps then return math.min(expiry, turn) end
  if expiry_helps then return expiry end
  if turn_helps then return turn end
  return turn and math.max(expiry, turn) or 0
end

-- Coverages and holds ----------------------------------------------------------------------------

local function describe(books, description)
  local coverage = books.coverages[description]
  if coverage then return coverage end
  if not books.by_field then
    books.by_field = {}
    for i = 1, #books.counters do books.by_field[books.fields[i]] = books.counters[i] end
  end
  local _, flat = cmsgpack.unpack_one(description)
  coverage = {false, description, false, 0}
  for i = 1, #flat, 2 do
    local field, slot = flat[i], flat[i + 1]
    local counter = books.by_field[field]
    if not counter then
      counter = {
        field = field, room = false, ends = 0, is_changed = false,
        stamp = 0, taken = 0, settled = 0, held = 0, drain = 0, scale = 1,
      }
      books.by_field[field] = counter
      books.fields[#books.fields + 1] = field
      books.counters[#books.fields] = counter
    end
    coverage[i + 4], coverage[i + 5] = counter, slot
    if slot > coverage[4] then coverage[4] = slot end
  end
  books.coverages[description] = coverage
  return coverage
end

local function remember(books, name, value)
  local news = books.news
  books.recent[name] = value
  news[#news + 1] = name
  news[#news + 1] = value
end

local function put_hold(books, id, hold)
  books.holds[id] = hold
  books.changed_ids[#books.changed_ids + 1] = id
end

local function end_hold(books, id, state)
  put_hold(books, id, nil)
  remember(books, 'e' .. id, state)
end

local function give_back(books, hold)
  local coverage = hold.coverage
  for i = 5, #coverage, 2 do settle(books, coverage[i], hold[2 + coverage[i + 1]], 0) end
end

-- The four kinds of operations; each answers the head of its record, or an error ------------------

local function check(books, coverage, at)
  local operations = books.operations
  for i = 5, #coverage, 2 do
    local counter, amount = coverage[i], operations[at + 5 + coverage[i + 1]]
    if amount > 0 and counter.taken + amount * counter.scale > counter.room then
      return 3, 0, ''
    end
  end
  return 1, 0, ''
end

local function reserve(books, coverage, at)
  if check(books, coverage, at) == 3 then return 3, 0, '' end
  local operations = books.operations
  for i = 5, #coverage, 2 do
    local counter, amount = coverage[i], operations[at + 5 + coverage[i + 1]]
    counter.taken = counter.taken + amount * counter.scale
    counter.held = counter.held + amount
    touch(books, counter)
  end
  local id, expiry = operations[at + 4], books.now + operations[at + 5]
  local hold = {expiry, coverage[2], unpack(operations, at + 6, at + 5 + coverage[4])}
  hold.coverage = coverage
  put_hold(books, id, hold)
  if expiry > books.last_expiry then books.last_expiry = expiry end
  return 1, expiry, id
end

local function commit(books, coverage, at)
  local operations = books.operations
  local id, is_known = operations[at + 4], operations[at + 5] == 1
  local ended = id ~= '' and books.recent['e' .. id]
  if ended and string.sub(ended, 1, 1) ~= 'X' then return nil, '3' .. ended end
  if id ~= '' and not is_known then return nil, '2' end
  local hold, held = books.holds[id], {}
  local former = hold and hold.coverage or {}
  for i = 5, #former, 2 do held[former[i]] = hold[2 + former[i + 1]] end
  for i = 5, #coverage, 2 do
    local counter = coverage[i]
    settle(books, counter, held[counter] or 0, operations[at + 5 + coverage[i + 1]])
    held[counter] = nil
  end
  for i = 5, #former, 2 do
    if held[former[i]] then settle(books, former[i], held[former[i]], 0) end
  end
  if id ~= '' then end_hold(books, id, 'C') end
  return 4, hold and 1 or 0, ''
end

local function release(books, coverage, at)
  local id = books.operations[at + 4]
  local hold, ended = books.holds[id], books.recent['e' .. id]
  if ended and string.sub(ended, 1, 1) ~= 'X' then return nil, '3' .. ended end
  if not hold and not ended then return nil, '2' end
  if hold then give_back(books, hold) end
  end_hold(books, id, 'R')
  return 5, hold and 1 or 0, ''
end

local function record(books, coverage, at, outcome, detail, hold)
  local operations, now = books.operations, books.now
  local values = {outcome, now, detail, hold, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
  local count = 4
  for i = 5, #coverage, 2 do
    local counter = coverage[i]
    local scale, used, total, reset = counter.scale, counter.settled, counter.taken, -1
    if scale > 1 then used, total = whole(used, scale), whole(total, scale) end
    if counter.drain > 0 then
      reset = whole(counter.taken, counter.drain)
    elseif counter.stamp > 0 then
      reset = counter.stamp - now
    end
    values[count + 1], values[count + 2], values[count + 3] = used, total - used, reset
    count = count + 3
    if outcome == 3 then
      count = count + 1
      values[count] = wait_for(books, counter, operations[at + 5 + coverage[i + 1]])
    end
  end
  for i = count + 1, 16 do values[i] = nil end
  return operations[at + 3] .. coverage[1] .. cmsgpack.pack(values)
end

-- Reading: what is remembered, then the counters and holds that the operations name ----------------

for i = 1, #coverages do
  local coverage = coverages[i]
  for j = 5, #coverage, 2 do coverage[j] = counters[coverage[j]] end
  books.coverages[coverage[2]] = coverage
end

local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, sweep_max)
local hold_ids, names = {}, {}
for i = 1, #due do hold_ids[i] = due[i] end
local at, last = 1, #operations
while at < last do
  local kind, id = operations[at], operations[at + 4]
  if kind > 0 then names[#names + 1] = operations[at + 2] end
  if kind > 1 and id ~= '' then
    hold_ids[#hold_ids + 1] = id
    names[#names + 1] = 'e' .. id
  end
  at = at + 6 + coverages[operations[at + 1]][4]
end

local period = math.floor(now / 600000)
local recent_key, former_key = KEYS[3 + period % 2], KEYS[4 - period % 2]
local is_new_period = true
if #names > 0 or #due > 0 then
  local last_name = #names + 1
  names[last_name] = '_'
  local former = read(former_key, names)
  for i = 1, #coverages do names[last_name + i] = 's' .. coverages[i][1] end
  local recent = read(recent_key, names)
  is_new_period = tonumber(recent[last_name] or 0) ~= period
  local is_former_over = tonumber(former[last_name] or 0) ~= period - 1
  for i = 1, last_name - 1 do
    books.recent[names[i]] = not is_new_period and recent[i] or not is_former_over and former[i]
  end
  for i = 1, #coverages do
    coverages[i].is_remembered = not is_new_period and recent[last_name + i]
  end
end

local function open(counters, packed, first)
  for i = 1, #packed do
    local counter = counters[first + i]
    if counter and packed[i] then
      counter.stamp, counter.taken, counter.settled, counter.held, counter.drain, counter.scale =
        cmsgpack.unpack(packed[i])
    elseif counter then
      counter.is_new = true
      if counter.drain > 0 then counter.stamp = now end
    end
  end
end

local rules = {}
local known = #fields
for i = 1, known do rules[2 * i - 1], rules[2 * i] = counters[i].drain, counters[i].scale end
names = fields
if #hold_ids > 0 then
  names = {unpack(fields)}
  for i = 1, #hold_ids do names[known + i] = 'h' .. hold_ids[i] end
end
local packed = read(KEYS[1], names)
open(counters, packed, 0)
for i = 1, #hold_ids do
  if packed[known + i] then
    local hold = {cmsgpack.unpack(packed[known + i])}
    hold.coverage = describe(books, hold[2])
    books.holds[hold_ids[i]] = hold
  end
end
if #fields > known then
  open(counters, read(KEYS[1], {unpack(fields, known + 1)}), known)
end

-- Holds end at their expiry, each at its own instant, before anything is decided ---------------------

for i = 1, #due do
  local hold = books.holds[due[i]]
  if hold then
    for j = 5, #hold.coverage, 2 do bring(hold.coverage[j], hold[1]) end
    give_back(books, hold)
    end_hold(books, due[i], 'X' .. hold[2])
  else
    put_hold(books, due[i], nil)
  end
end

for i = 1, #fields do
  bring(counters[i], now)
  if i <= known then follow(books, counters[i], rules[2 * i - 1], rules[2 * i]) end
end

-- Deciding ---------------------------------------------------------------------------------------

local replies, exhibits = {''}, {}
local decide = {[0] = check, reserve, commit, release}

at = 1
while at < last do
  local kind, request = operations[at], operations[at + 2]
  local coverage = coverages[operations[at + 1]]
  local reply = kind > 0 and books.recent[request]
  if not reply then
    local outcome, detail, hold = decide[kind](books, coverage, at)
    reply = outcome and record(books, coverage, at, outcome, detail, hold) or detail
    if outcome and kind > 0 then
      remember(books, request, reply)
      if not coverage.is_remembered then
        coverage.is_remembered = true
        remember(books, 's' .. coverage[1], coverage[3])
      end
    end
  elseif string.sub(reply, 1, 8) ~= operations[at + 3] then
    reply = '1' .. cmsgpack.unpack(string.sub(reply, 17))[1]
  elseif string.sub(reply, 9, 16) ~= coverage[1] then
    local name = 's' .. string.sub(reply, 9, 16)
    exhibits[#exhibits + 1] = string.sub(reply, 9, 16)
    exhibits[#exhibits + 1] = books.recent[name]
      or redis.call('HGET', recent_key, name) or redis.call('HGET', former_key, name)
  end
  replies[#replies + 1] = reply
  at = at + 6 + coverage[4]
end

-- Writing ----------------------------------------------------------------------------------------

local values, expiries, gone, gone_ids = {}, {}, {}, {}
local made = 0
for i = 1, #books.changed do
  local c = books.changed[i]
  values[2 * i - 1] = c.field
  values[2 * i] = cmsgpack.pack(c.stamp, c.taken, c.settled, c.held, c.drain, c.scale)
  if c.is_new then made = made + 1 end
end

-- Whoever makes counters looks at some others, and removes those that say nothing any more: drained,
-- or of a window that is over, and without a hold. So runs that come and go leave nothing behind.
if made > 0 then
  local cursor = redis.call('HGET', KEYS[1], '_') or '0'
  local seen = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', 8 + 4 * made)
  local idle = {}
  for i = 1, #seen[2], 2 do
    local field = seen[2][i]
    if string.find(field, '|', 1, true) then
      local stamp, taken, _, held, drain = cmsgpack.unpack(seen[2][i + 1])
      local is_over = drain == 0 and stamp > 0 and stamp <= now
      local is_drained = taken <= drain * (now - stamp)
      if held == 0 and (is_over or is_drained) then idle[#idle + 1] = field end
    end
  end
  write('HDEL', KEYS[1], idle)
  values[#values + 1] = '_'
  values[#values + 1] = seen[1]
end
for i = 1, #books.changed_ids do
  local id = books.changed_ids[i]
  local hold = books.holds[id]
  if hold then
    values[#values + 1] = 'h' .. id
    values[#values + 1] = cmsgpack.pack(unpack(hold))
    expiries[#expiries + 1] = hold[1]
    expiries[#expiries + 1] = id
  else
    gone[#gone + 1] = 'h' .. id
    gone_ids[#gone_ids + 1] = id
  end
end
write('HSET', KEYS[1], values)
write('ZADD', KEYS[2], expiries)
write('HDEL', KEYS[1], gone)
write('ZREM', KEYS[2], gone_ids)

if #books.news > 0 then
  if is_new_period then
    redis.call('UNLINK', recent_key)
    redis.call('HSET', recent_key, '_', period)
    redis.call('PEXPIRE', recent_key, 1200000)
  end
  write('HSET', recent_key, books.news)
end

replies[1] = cmsgpack.pack({false, now, #due == sweep_max, exhibits})
return replies
