-- Coverages, holds, and what each kind of operation does: the rule of services/quota/decisions.py.
--
-- A hold is a list: expiry, description, phase, when it was made, an amount for each slot; and of a
-- hold that is late, the stamp of each of its counters. Phases: 0 open, 1 dispatched, 2 late.

local LATE = 86400000

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
        field = field, room = false, starts = 0, ends = 0, is_changed = false,
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
  local count = #news
  books.recent[name] = value
  -- Lua makes room for a key also when it gets nil.
  if books.is_any_forgotten then books.forgotten[name] = nil end
  news[count + 1], news[count + 2] = name, value
end

local function put_hold(books, id, hold)
  books.holds[id] = hold
  books.changed_ids[#books.changed_ids + 1] = id
end

local function end_hold(books, id, state)
  put_hold(books, id, nil)
  remember(books, 'e' .. id, state)
end

local function give_back(books, hold, instant)
  local coverage = books.coverages[hold[2]]
  for i = 5, #coverage, 2 do
    if instant then bring(coverage[i], instant) end
    settle(books, coverage[i], hold[4 + coverage[i + 1]], 0)
  end
end

local function is_gauge(counter) return string.find(counter.field, '#', 1, true) end

-- The call of a hold had left when it expired: what it held is booked, until its commit comes.
local function make_late(books, hold)
  local coverage = books.coverages[hold[2]]
  for i = 5, #coverage, 2 do
    local counter, amount = coverage[i], hold[4 + coverage[i + 1]]
    bring(counter, hold[1])
    settle(books, counter, amount, is_gauge(counter) and 0 or amount)
  end
  books.late[#books.late + 1] = hold
end

local function stamp_late(books, id, hold)
  local coverage = books.coverages[hold[2]]
  hold[1], hold[3] = hold[1] + LATE, 2
  for i = 5, #coverage, 2 do
    local counter = coverage[i]
    hold[#hold + 1] = counter.drain == 0 and counter.stamp or 0
  end
  put_hold(books, id, hold)
end

local function unbook_late(books, hold)
  local coverage = books.coverages[hold[2]]
  local booked = hold[1] - LATE
  for i = 5, #coverage, 2 do
    local counter = coverage[i]
    if not is_gauge(counter) then
      local stamp = hold[4 + coverage[4] + (i - 3) / 2]
      unbook(books, counter, hold[4 + coverage[i + 1]], booked, stamp)
    end
  end
end

local function find_hold(books, id)
  local hold = books.holds[id]
  if hold and hold[3] == 2 and hold[1] <= books.now then return nil end
  return hold
end

local function keep_expiry(books, expiry)
  if expiry > books.last_expiry then books.last_expiry = expiry end
end

-- The kinds of operations; each answers outcome, detail, hold, misfits and grants, or an error ------

local function check(books, coverage, at)
  local extra = books.operations[at + 6]
  local is_shadow = extra ~= 0 and extra[1] == 1
  local outcome, _, _, _, misfits = admit(coverage, books.operations, at + 6, is_shadow)
  return outcome, 0, '', misfits
end

local function reserve(books, coverage, at)
  local operations = books.operations
  local outcome, sums, base, granted, misfits = 1, operations, at + 6, nil, nil
  local extra, size = operations[at + 6], #coverage
  -- Nearly all calls fit, and Lua calls a function for as much as this costs.
  for i = 5, size, 2 do
    local counter, amount = coverage[i], sums[base + coverage[i + 1]]
    if amount > 0 and counter.room and counter.taken + amount * counter.scale > counter.room then
      local is_shadow, least, flexible
      if extra ~= 0 then is_shadow, least, flexible = extra[1] == 1, extra[2], extra[3] end
      outcome, sums, base, granted, misfits =
        admit(coverage, sums, base, is_shadow, least, flexible)
      if outcome == 3 then return 3, 0, '' end
      break
    end
  end
  local changed = books.changed
  for i = 5, size, 2 do
    local counter, amount = coverage[i], sums[base + coverage[i + 1]]
    counter.taken = counter.taken + amount * counter.scale
    counter.held = counter.held + amount
    if not counter.is_changed then
      counter.is_changed = true
      changed[#changed + 1] = counter
    end
  end
  local id, expiry = operations[at + 4], books.now + operations[at + 5]
  if books.named[id] then
    put_hold(
      books, id, {expiry, coverage[2], 0, books.now, unpack(sums, base + 1, base + coverage[4])}
    )
  else
    -- No other operation of this run speaks of it, so that it is written at once.
    if coverage.expiry ~= expiry then
      coverage.expiry, coverage.expiry_text = expiry, string.format('%d', expiry)
      coverage.hold_head = cmsgpack.pack(expiry, coverage[2], 0, books.now)
    end
    local values, expiries = books.values, books.expiries
    local count = #values
    values[count + 1] = 'h' .. id
    values[count + 2] = coverage.hold_head
    if coverage[4] > 0 then
      local amounts = cmsgpack.pack(unpack(sums, base + 1, base + coverage[4]))
      values[count + 2] = coverage.hold_head .. amounts
    end
    count = #expiries
    expiries[count + 1], expiries[count + 2] = coverage.expiry_text, id
  end
  if expiry > books.last_expiry then books.last_expiry = expiry end
  return outcome, expiry, id, misfits, granted
end

local function commit(books, coverage, at)
  local operations = books.operations
  local id, is_known = operations[at + 4], operations[at + 5] == 1
  local ended = id ~= '' and books.recent['e' .. id]
  if ended and string.sub(ended, 1, 1) ~= 'X' then return nil, '3' .. ended end
  if id ~= '' and not is_known then return nil, '2' end
  local hold, held = find_hold(books, id), {}
  local is_late = hold and hold[3] == 2
  if is_late then unbook_late(books, hold) end
  local former = hold and not is_late and books.coverages[hold[2]] or {}
  for i = 5, #former, 2 do held[former[i]] = hold[4 + former[i + 1]] end
  for i = 5, #coverage, 2 do
    local counter = coverage[i]
    settle(books, counter, held[counter] or 0, operations[at + 6 + coverage[i + 1]])
    held[counter] = nil
  end
  for i = 5, #former, 2 do
    if held[former[i]] then settle(books, former[i], held[former[i]], 0) end
  end
  if id ~= '' then end_hold(books, id, 'C') end
  return 4, hold and not is_late and 1 or 0, ''
end

local function release(books, coverage, at)
  local id = books.operations[at + 4]
  local hold, ended = find_hold(books, id), books.recent['e' .. id]
  if ended and string.sub(ended, 1, 1) ~= 'X' then return nil, '3' .. ended end
  if not hold and not ended and books.operations[at + 5] == 0 then return nil, '2' end
  local forgotten = books.operations[at + 6]
  if forgotten ~= 0 then
    books.recent[forgotten], books.forgotten[forgotten] = nil, true
    books.is_any_forgotten = true
  end
  local is_late = hold and hold[3] == 2
  if is_late then unbook_late(books, hold) elseif hold then give_back(books, hold) end
  end_hold(books, id, 'R')
  return 5, hold and not is_late and 1 or 0, ''
end

local function extend(books, coverage, at)
  local operations = books.operations
  local id, ttl, extra = operations[at + 4], operations[at + 5], operations[at + 6]
  local hold, ended = find_hold(books, id), books.recent['e' .. id]
  if ended and string.sub(ended, 1, 1) ~= 'X' then return nil, '3' .. ended end
  if not hold and not ended then return nil, '2' end
  if not hold or hold[3] == 2 then return nil, '3X' end
  local sums, base, least, flexible, description = operations, at + 6, nil, nil, coverage[2]
  local is_shadow = extra ~= 0 and extra[1] == 1
  if extra ~= 0 then least, flexible = extra[2], extra[3] end
  if extra ~= 0 and extra[4] then description, sums, base = extra[4], extra[5], 0 end
  if description ~= hold[2] then return nil, {'4', hold[2]} end
  local own = books.coverages[hold[2]]
  local outcome, given, first, granted, misfits = admit(own, sums, base, is_shadow, least, flexible)
  if outcome == 3 then return 3, hold[1], '' end
  for i = 5, #own, 2 do take(books, own[i], given[first + own[i + 1]]) end
  for slot = 1, own[4] do hold[4 + slot] = hold[4 + slot] + given[first + slot] end
  if ttl > 0 and books.now + ttl > hold[1] then hold[1] = books.now + ttl end
  put_hold(books, id, hold)
  keep_expiry(books, hold[1])
  return outcome, hold[1], '', misfits, granted
end

local function mark_dispatched(books, coverage, at)
  local id = books.operations[at + 4]
  local hold, ended = find_hold(books, id), books.recent['e' .. id]
  if ended and string.sub(ended, 1, 1) ~= 'X' then return nil, '3' .. ended end
  if not hold and not ended and books.operations[at + 5] == 0 then return nil, '2' end
  local is_open = hold and hold[3] ~= 2
  if is_open and hold[3] == 0 then
    hold[3] = 1
    put_hold(books, id, hold)
  end
  return 7, is_open and 1 or 0, ''
end

local function book(books, coverage, at)
  local operations = books.operations
  local instant = operations[at + 6]
  if instant == 0 or instant > books.now then instant = books.now end
  for i = 5, #coverage, 2 do
    book_at(books, coverage[i], operations[at + 6 + coverage[i + 1]], instant)
  end
  return 4, 0, ''
end
