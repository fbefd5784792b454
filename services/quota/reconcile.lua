-- Sets the counters of a customer anew while calls run: what was used as the meter says, and what
-- open holds have taken as their records say. It is asked twice, since the meter answers in between:
-- first how counters stand, then to set them, adding what was settled meanwhile. Who else has set them
-- in between has changed what is settled as well, so then nothing is set.
--
-- KEYS  counters and holds
-- ARGV  msgpack: epoch, whether nothing need be kept yet, nil or the turn after which to set, targets
--         target  field, stamp, what was used in parts by the meter, whether the counter was there
--                 when it was asked, its stamp then, what was settled then; all in one flat list
-- Returns {epoch that is kept} where it is another; else msgpack
--   of the first call   the turn: how often counters were set; {field, stamp, settled ...}, late
--                       holds left out
--   of the second call  how many counters were set, how many holds are open, and of each counter that
--                       has changed {field, used and held before, used and held after ...}; or false
--                       where it is another turn
--
-- What expired and was booked until its late commit is used still, though the meter does not know
-- of it. Rolling rates and counters of what is in flight say what happens now: of them only what
-- holds have taken is set.

local MOST = 4503599627370496

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch, may_begin, turn, targets = cmsgpack.unpack(ARGV[1])

local counters, fields, held, late = {}, {}, {}, {}
local holds_count, kept_epoch, kept_turn = 0, false, 0

local function read_hold(hold)
  local _, flat = cmsgpack.unpack_one(hold[2])
  local slots = 0
  for i = 2, #flat, 2 do slots = math.max(slots, flat[i]) end
  for i = 1, #flat, 2 do
    local field, amount = flat[i], hold[4 + flat[i + 1]]
    if hold[3] ~= 2 then
      held[field] = (held[field] or 0) + amount
    elseif hold[1] > now and not string.find(field, '#', 1, true) then
      local place = field .. ' ' .. hold[4 + slots + (i + 1) / 2]
      late[place] = (late[place] or 0) + amount
    end
  end
  if hold[3] ~= 2 then holds_count = holds_count + 1 end
end

local kept = redis.call('HGETALL', KEYS[1])
for i = 1, #kept, 2 do
  local name, value = kept[i], kept[i + 1]
  if name == '_e' then
    kept_epoch = value
  elseif name == '_t' then
    kept_turn = tonumber(value)
  elseif string.find(name, '[|#]') then
    local stamp, taken, settled, counted, drain, scale = cmsgpack.unpack(value)
    fields[#fields + 1] = name
    counters[name] =
      {stamp = stamp, taken = taken, settled = settled, held = counted, drain = drain, scale = scale}
  elseif string.sub(name, 1, 1) == 'h' then
    read_hold({cmsgpack.unpack(value)})
  end
end
if kept_epoch ~= epoch and (kept_epoch or not may_begin) then return {kept_epoch} end

local function late_on(field, stamp) return late[field .. ' ' .. stamp] or 0 end

if not turn then
  local figures = {}
  for i = 1, #fields do
    local counter = counters[fields[i]]
    figures[#figures + 1] = fields[i]
    figures[#figures + 1] = counter.stamp
    figures[#figures + 1] = counter.settled - late_on(fields[i], counter.stamp)
  end
  return cmsgpack.pack({kept_turn, figures})
end
if turn ~= kept_turn then return cmsgpack.pack(false) end

local function used(counter)
  local rest = counter.settled % counter.scale
  return (counter.settled - rest) / counter.scale + (rest > 0 and 1 or 0)
end

-- Answers whether the counter was set; one whose window has turned meanwhile has counted all of it.
local function set_used(field, stamp, parts, was_there, stamp_then, settled_then)
  if stamp > 0 and stamp <= now then return false end
  local counter = counters[field]
  if not counter then
    counter = {stamp = stamp, taken = 0, settled = 0, held = 0, drain = 0, scale = 1}
    counters[field] = counter
    fields[#fields + 1] = field
  end
  local is_over = counter.stamp > 0 and counter.stamp <= now
  local net = is_over and 0 or counter.settled - late_on(field, counter.stamp)
  if was_there and counter.stamp == stamp_then and not is_over then
    net = math.max(net - settled_then, 0)
  end
  if is_over then counter.settled = 0 end
  counter.before = used(counter)
  counter.stamp, counter.drain, counter.scale = stamp, 0, 1
  counter.settled = math.min(parts + late_on(field, stamp) + net, MOST)
  return true
end

local set_count = 0
for i = 1, #targets, 6 do
  if set_used(unpack(targets, i, i + 5)) then set_count = set_count + 1 end
end

local values, changed = {'_e', epoch, '_t', turn + 1}, {}
for i = 1, #fields do
  local field = fields[i]
  local counter, by_holds = counters[field], held[field] or 0
  local before, held_before = counter.before or used(counter), counter.held
  if counter.before then
    counter.taken = math.min(counter.settled + by_holds, MOST)
  else
    counter.taken = math.max(counter.taken + (by_holds - counter.held) * counter.scale, 0)
  end
  counter.held = by_holds
  if counter.before or by_holds ~= held_before then
    values[#values + 1] = field
    values[#values + 1] = cmsgpack.pack(
      counter.stamp, counter.taken, counter.settled, counter.held, counter.drain, counter.scale
    )
  end
  if before ~= used(counter) or held_before ~= by_holds then
    for _, part in ipairs({field, before, held_before, used(counter), by_holds}) do
      changed[#changed + 1] = part
    end
  end
end
for i = 1, #values, 4000 do
  redis.call('HSET', KEYS[1], unpack(values, i, math.min(i + 3999, #values)))
end
return cmsgpack.pack({set_count, holds_count, changed})
