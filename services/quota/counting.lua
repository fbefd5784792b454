-- How Redis is called, and how one counter counts: the rule of services/quota/counting.py.
--
-- The script is this file, admitting.lua, holding.lua and decide.lua, in this order. Functions
-- capture hardly anything, because Lua pays for each capture in each run; they are given the
-- `books` instead. All numbers are integers that a double holds exactly.

local MOST = 4503599627370496

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
    counter.settled = math.min(whole(counter.settled, counter.scale) * scale, MOST)
    counter.taken = math.min(whole(counter.taken, counter.scale) * scale, MOST)
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
  local scale, taken, most = counter.scale, counter.taken, MOST
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

local function take(books, counter, amount)
  counter.taken = counter.taken + amount * counter.scale
  counter.held = counter.held + amount
  touch(books, counter)
end

local function book_at(books, counter, amount, instant)
  if counter.drain == 0 then
    if instant >= counter.starts then settle(books, counter, 0, amount) end
    return
  end
  local parts = amount * counter.scale - counter.drain * (books.now - instant)
  if parts <= 0 then return end
  if parts > MOST then parts = MOST end
  counter.settled = math.min(counter.settled + parts, MOST)
  counter.taken = math.min(counter.taken + parts, MOST)
  touch(books, counter)
end

local function unbook(books, counter, amount, booked, stamp)
  local parts = amount * counter.scale
  if counter.drain > 0 then
    parts = parts - counter.drain * (books.now - booked)
  elseif counter.stamp ~= stamp then
    return
  end
  if parts > counter.settled then parts = counter.settled end
  if parts <= 0 then return end
  counter.settled, counter.taken = counter.settled - parts, counter.taken - parts
  touch(books, counter)
end

local function fits(counter, amount)
  return amount == 0 or counter.taken + amount * counter.scale <= counter.room
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
