-- Whether a call fits on every limit at once, and which part of it: services/quota/admission.py.
--
-- A coverage is a list: id, description, exhibit, number of slots, counter, slot, counter, slot, ...
-- Sums are looked up at `base + slot` in a list. A counter without room is of a limit that is gone;
-- it refuses nothing.

local function all_fit(coverage, sums, base)
  for i = 5, #coverage, 2 do
    local counter, amount = coverage[i], sums[base + coverage[i + 1]]
    if amount > 0 and counter.room and counter.taken + amount * counter.scale > counter.room then
      return false
    end
  end
  return true
end

local function none_refuses(coverage, sums, base)
  for i = 5, #coverage, 2 do
    local counter = coverage[i]
    if counter.room and counter.refuses and not fits(counter, sums[base + coverage[i + 1]]) then
      return false
    end
  end
  return true
end

-- Answers the outcome, the list and base of what may be taken, what is granted of each flexible
-- unit, and the counters on which not everything fits.
-- A flexible unit is {most extra, slot, num, den, slot, num, den, ...}.
local function admit(coverage, sums, base, is_shadow, least, flexible)
  if all_fit(coverage, sums, base) then return 1, sums, base end
  local misfits = {}
  for i = 5, #coverage, 2 do
    local counter = coverage[i]
    if counter.room and not fits(counter, sums[base + coverage[i + 1]]) then
      misfits[counter] = true
    end
  end
  if is_shadow or none_refuses(coverage, sums, base) then return 2, sums, base, nil, misfits end
  if not least or not none_refuses(coverage, least, 0) then return 3 end
  local amounts, granted = {unpack(least)}, {}
  for i = 1, #flexible do
    local unit = flexible[i]
    local quantity = unit[1]
    for j = 2, #unit, 3 do
      local slot, num, den = unit[j], unit[j + 1], unit[j + 2]
      for k = 5, #coverage, 2 do
        local counter = coverage[k]
        if coverage[k + 1] == slot and counter.room and counter.refuses then
          local left = math.floor((counter.room - counter.taken) / counter.scale) - amounts[slot]
          local rest = left % num
          local most = (left - rest) / num * den + math.floor(rest * den / num)
          if most < quantity then quantity = most end
        end
      end
    end
    if quantity < 0 then quantity = 0 end
    granted[i] = quantity
    for j = 2, #unit, 3 do
      local slot, num, den = unit[j], unit[j + 1], unit[j + 2]
      local rest = quantity % den
      amounts[slot] = amounts[slot] + (quantity - rest) / den * num + math.ceil(rest * num / den)
    end
  end
  return 6, amounts, 0, granted, misfits
end
