-- One atomic decision over everything that the calls of one customer ask at the same time.
--
-- The rule is that of services/quota/decisions.py, where it is explained; tests hold the two equal.
-- counting.lua, admitting.lua and holding.lua come before this file and say it in Lua. Redis's clock
-- is the only clock. How often Redis is called does not depend on how many operations there are.
--
-- KEYS  counters and holds, expiries, what is remembered of even and of odd periods
-- ARGV  msgpack: counters, coverages, operations, sweep_max, epoch, may_begin
--         counter    field, room, drain, scale, window start, its end, the end of the next, whether
--                    it refuses; times are 0 without a window; all in one flat list
--         coverage   {id, description, exhibit, number of slots, counter, slot, counter, slot, ...}
--         operation  kind, coverage, request, fingerprint, hold, detail, extra, an amount for each
--                    slot; all in one flat list
--           detail   the ttl of a reserve or of an extended hold; 0 for a commit whose subject nobody
--                    knows; 1 for a release or dispatch of a hold that may be unknown
--           extra    0; or when usage that is recorded happened; or under what the answer to a
--                    reserve is remembered that a release lets be forgotten; or of a check, reserve or extend
--                    {1 in shadow, least of each slot, flexible units}, and where limits have changed
--                    since a hold was made, its description and the amounts of its slots
--       A description is msgpack {field, slot, ...}, and behind it what only the service reads; an
--       exhibit is what it needs to show a repeated answer.
-- What is kept of a customer carries the token of its epoch. Where that is another, nothing is
-- decided; nor where nothing is kept, unless it may begin, as it is known that nothing was lost.
-- Returns {msgpack {2, now}} then; else msgpack {is stale, now, more is due, {name, what is
-- remembered under it, ...}, {outcome + 16 * kind and detail of each operation ...}, {figures of each
-- coverage, ...}}. Where there are zeros instead, an error or a record follows: fingerprint and
-- coverage id of 8 bytes each, and msgpack {outcome + 16 * kind, now, detail, hold, figures of each
-- counter ..., grant of each flexible unit ...}.
--       What passes or is booked is told with the figures that all operations of this run have left.
--       Where several records would show them they are remembered once, under `f`, coverage id and
--       the number of the run; these records are msgpack {.., now, detail, number} and then the hold.
--
-- Kinds: 0 check, 1 reserve, 2 commit, 3 release, 4 extend, 5 mark dispatched, 6 record. Outcomes: 1
-- allowed, 2 allowed beyond what does not refuse, 3 denied, 4 committed or recorded, 5 released, 6
-- allowed in part, 7 dispatched. The figures are three, and after 2, 3 and 6 four.
-- Errors: 1 request id reused, and outcome and kind of the first; 2 hold not found; 3 hold ended, and
-- how: C committed, R released, X expired; {4, description} the limits are not those of the hold.
-- How a hold ended is remembered, of an expired one with its description.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local given, coverages, operations, sweep_max, epoch, may_begin = cmsgpack.unpack(ARGV[1])

local kept_epoch = redis.call('HGET', KEYS[1], '_e')
if kept_epoch ~= epoch and (kept_epoch or not may_begin) then return {cmsgpack.pack({2, now})} end

local counters, fields = {}, {}
for i = 1, #given, 8 do
  local starts, ends, next_ends = given[i + 4], given[i + 5], given[i + 6]
  if ends > 0 and ends <= now then starts, ends = ends, next_ends end
  if ends > 0 and (now < starts or ends <= now) then return {cmsgpack.pack({true, now})} end
  fields[#fields + 1] = given[i]
  counters[#fields] = {
    field = given[i], room = given[i + 1], refuses = given[i + 7], starts = starts, ends = ends,
    is_changed = false,
    stamp = 0, taken = 0, settled = 0, held = 0, drain = given[i + 2], scale = given[i + 3],
  }
end

local books = {
  now = now, operations = operations,
  counters = counters, fields = fields, by_field = false, changed = {},
  coverages = {}, holds = {}, changed_ids = {}, late = {},
  recent = {}, news = {}, forgotten = {}, is_any_forgotten = false,
  named = {}, values = {}, expiries = {},
  last_expiry = 0, is_last_expiry_known = false,
}

-- Adds the figures of a coverage behind `count` values, and answers how many there are then; with
-- a wait where the operation at `denied_at` is refused. It divides in place, since Lua calls a
-- function for as much as this costs.
local function add_figures(books, coverage, values, count, denied_at, misfits)
  local operations, now, least = books.operations, books.now, false
  local extra = denied_at and operations[denied_at + 6] or 0
  -- Where limits have changed since a hold was made, the least is in terms of those of the hold.
  if extra ~= 0 and not extra[4] then least = extra[2] end
  for i = 5, #coverage, 2 do
    local counter = coverage[i]
    local scale, drain, used, taken = counter.scale, counter.drain, counter.settled, counter.taken
    local total, reset = taken, -1
    if scale > 1 then
      local rest = used % scale
      used = (used - rest) / scale
      if rest > 0 then used = used + 1 end
      rest = total % scale
      total = (total - rest) / scale
      if rest > 0 then total = total + 1 end
    end
    if drain > 0 then
      local rest = taken % drain
      reset = (taken - rest) / drain
      if rest > 0 then reset = reset + 1 end
    elseif counter.stamp > 0 then
      reset = counter.stamp - now
    end
    values[count + 1], values[count + 2], values[count + 3] = used, total - used, reset
    count = count + 3
    if denied_at then
      local slot = coverage[i + 1]
      local amount = least and least[slot] or operations[denied_at + 6 + slot]
      count = count + 1
      values[count] = wait_for(books, counter, amount)
    elseif misfits then
      count = count + 1
      values[count] = misfits[counter] and 0 or -1
    end
  end
  return count
end

-- The record of what did not fit on every limit.
local function record(books, coverage, at, outcome, detail, hold, misfits, granted)
  local operations = books.operations
  local values = {outcome + 16 * operations[at], books.now, detail, hold}
  local count = add_figures(books, coverage, values, 4, outcome == 3 and at, misfits)
  for i = 1, granted and #granted or 0 do values[count + i] = granted[i] end
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
for i = 1, #due do
  hold_ids[i] = due[i]
  books.named[due[i]] = true
end
local at, last = 1, #operations
while at < last do
  local kind, id = operations[at], operations[at + 4]
  if kind > 0 then names[#names + 1] = operations[at + 2] end
  if id ~= '' and kind > 1 then
    hold_ids[#hold_ids + 1] = id
    books.named[id] = true
    names[#names + 1] = 'e' .. id
  end
  at = at + 7 + coverages[operations[at + 1]][4]
end

local period = math.floor(now / 600000)
local recent_key, former_key = KEYS[3 + period % 2], KEYS[4 - period % 2]
local is_new_period, run = true, period * 16777216
if #names > 0 or #due > 0 then
  local last_name = #names + 1
  names[last_name] = '_'
  local former = read(former_key, names)
  for i = 1, #coverages do names[last_name + i] = 's' .. coverages[i][1] end
  names[#names + 1] = '#'
  local recent = read(recent_key, names)
  is_new_period = tonumber(recent[last_name] or 0) ~= period
  local is_former_over = tonumber(former[last_name] or 0) ~= period - 1
  if not is_new_period then run = tonumber(recent[#names] or run) end
  for i = 1, last_name - 1 do
    local known = not is_new_period and recent[i] or not is_former_over and former[i]
    if known then books.recent[names[i]] = known end
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
    describe(books, hold[2])
    books.holds[hold_ids[i]] = hold
  end
end
if #fields > known then
  open(counters, read(KEYS[1], {unpack(fields, known + 1)}), known)
end

-- Holds end at their expiry, each at its own instant, before anything is decided ---------------------

local late_ids = {}
for i = 1, #due do
  local hold = books.holds[due[i]]
  if hold and hold[3] == 1 then
    make_late(books, hold)
    late_ids[#late_ids + 1] = due[i]
  elseif hold and hold[3] == 0 then
    give_back(books, hold, hold[1])
    end_hold(books, due[i], 'X' .. hold[2])
  else
    put_hold(books, due[i], nil)
  end
end

for i = 1, #fields do
  bring(counters[i], now)
  if i <= known then follow(books, counters[i], rules[2 * i - 1], rules[2 * i]) end
end

for i = 1, #late_ids do stamp_late(books, late_ids[i], books.late[i]) end

-- Deciding ---------------------------------------------------------------------------------------

local replies, told, exhibits = {''}, {}, {}
local counts, passed, records, repeats = {}, {}, {}, {}
local told_count, passed_count = 0, 0
local decide = {[0] = check, reserve, commit, release, extend, mark_dispatched, book}

at = 1
while at < last do
  local kind, request, place = operations[at], operations[at + 2], operations[at + 1]
  local coverage, code, detail = coverages[place], 0, 0
  local known = kind > 0 and books.recent[request]
  if known then
    local next_reply, next_repeat = #replies + 1, #repeats
    replies[next_reply] = ''
    repeats[next_repeat + 1], repeats[next_repeat + 2], repeats[next_repeat + 3] = next_reply, at, known
  else
    local outcome, found, hold, misfits, granted = decide[kind](books, coverage, at)
    if not outcome then
      replies[#replies + 1] = found
    elseif outcome == 2 or outcome == 3 or outcome == 6 then
      local reply = record(books, coverage, at, outcome, found, hold, misfits, granted)
      replies[#replies + 1] = reply
      if kind > 0 then remember(books, request, reply) end
    else
      code, detail = outcome + 16 * kind, found
      counts[place] = counts[place] or 0
      if kind > 0 then
        -- Its record is made when all is decided; until then it is known by its number.
        counts[place] = counts[place] + 1
        remember(books, request, passed_count / 4 + 1)
        passed[passed_count + 1], passed[passed_count + 2] = at, code
        passed[passed_count + 3], passed[passed_count + 4] = detail, #books.news
        passed_count = passed_count + 4
      end
    end
    if outcome and kind > 0 and not coverage.is_remembered then
      coverage.is_remembered = true
      remember(books, 's' .. coverage[1], coverage[3])
    end
  end
  told[told_count + 1], told[told_count + 2] = code, detail
  told_count = told_count + 2
  at = at + 7 + coverage[4]
end

-- Telling what passed ------------------------------------------------------------------------------

local shown, is_run_named = {}, false
for place = 1, #coverages do
  local coverage, count, values = coverages[place], counts[place], false
  if count then
    values = {}
    add_figures(books, coverage, values, 0)
    if count > 1 and #values > 0 then
      if not is_run_named then run, is_run_named = run + 1, true end
      remember(books, 'f' .. coverage[1] .. string.format('%d', run), cmsgpack.pack(values))
    end
  end
  shown[place] = values
end
if is_run_named then remember(books, '#', string.format('%d', run)) end

for i = 1, passed_count, 4 do
  local at, code, detail = passed[i], passed[i + 1], passed[i + 2]
  local place, hold = operations[at + 1], operations[at] == 1 and operations[at + 4] or ''
  local coverage, reply = coverages[place], false
  if counts[place] > 1 and #shown[place] > 0 then
    if coverage.code ~= code or coverage.detail ~= detail then
      coverage.code, coverage.detail = code, detail
      coverage.told = coverage[1] .. '\148' .. cmsgpack.pack(code, now, detail, run)
    end
    reply = operations[at + 3] .. coverage.told .. hold
  else
    local values = cmsgpack.pack({code, now, detail, hold, unpack(shown[place])})
    reply = operations[at + 3] .. coverage[1] .. values
  end
  records[#records + 1] = reply
  books.news[passed[i + 3]] = reply
end

local function recall(name)
  exhibits[#exhibits + 1] = name
  exhibits[#exhibits + 1] = books.recent[name]
    or redis.call('HGET', recent_key, name) or redis.call('HGET', former_key, name)
end

for i = 1, #repeats, 3 do
  local at, reply = repeats[i + 1], repeats[i + 2]
  reply = records[reply] or reply
  local id = string.sub(reply, 9, 16)
  local _, values = cmsgpack.unpack_one(string.sub(reply, 17))
  if string.sub(reply, 1, 8) ~= operations[at + 3] then
    reply = '1' .. values[1]
  else
    if id ~= coverages[operations[at + 1]][1] then recall('s' .. id) end
    if type(values[4]) == 'number' then recall('f' .. id .. string.format('%d', values[4])) end
  end
  replies[repeats[i]] = reply
end

-- Writing ----------------------------------------------------------------------------------------

local values, expiries, gone, gone_ids = books.values, books.expiries, {}, {}
local made, written = 0, #books.values
for i = 1, #books.changed do
  local c = books.changed[i]
  values[written + 2 * i - 1] = c.field
  values[written + 2 * i] = cmsgpack.pack(c.stamp, c.taken, c.settled, c.held, c.drain, c.scale)
  if c.is_new then made = made + 1 end
end

-- Whoever makes counters or late holds looks at some others, and removes what says nothing any more:
-- counters that are drained or of a window that is over, and without a hold; late holds whose time is
-- over. So runs that come and go leave nothing behind.
made = made + #late_ids
if made > 0 then
  local cursor = redis.call('HGET', KEYS[1], '_') or '0'
  local seen = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', 8 + 4 * made)
  local idle = {}
  for i = 1, #seen[2], 2 do
    local field = seen[2][i]
    if string.find(field, '[|#]') then
      local stamp, taken, _, held, drain = cmsgpack.unpack(seen[2][i + 1])
      local is_over = drain == 0 and stamp > 0 and stamp <= now
      local is_drained = taken <= drain * (now - stamp)
      if held == 0 and (is_over or is_drained) then idle[#idle + 1] = field end
    elseif string.sub(field, 1, 1) ~= '_' then
      local expiry, _, phase = cmsgpack.unpack(seen[2][i + 1])
      if phase == 2 and expiry <= now then idle[#idle + 1] = field end
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
    if hold[3] == 2 then
      gone_ids[#gone_ids + 1] = id
    else
      expiries[#expiries + 1] = hold[1]
      expiries[#expiries + 1] = id
    end
  else
    gone[#gone + 1] = 'h' .. id
    gone_ids[#gone_ids + 1] = id
  end
end
if not kept_epoch and #values > 0 then
  values[#values + 1] = '_e'
  values[#values + 1] = epoch
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
local forgotten = {}
for name in pairs(books.forgotten) do forgotten[#forgotten + 1] = name end
write('HDEL', recent_key, forgotten)
write('HDEL', former_key, forgotten)

replies[1] = cmsgpack.pack({false, now, #due == sweep_max, exhibits, told, shown})
return replies
