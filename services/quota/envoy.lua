-- Counts the hits of Envoy's descriptors in fixed windows that start at multiples of their length.
--
-- Redis's clock is the only clock. A counter is one text, `<start of its window> <count>`, and goes
-- when its window ends. Counts stop at 2^53 - 1, which a double holds exactly.
--
-- KEYS  counters, each once
-- ARGV  msgpack: stops, requests
--         stops      whether a request that would be refused charges only the limits that refuse it
--         requests   {number of hits, then for each: index of its key, seconds of its window, limit,
--                    addend, ...}; all in one flat list
-- Returns msgpack {now in milliseconds, the counter after each hit ...}.

local COUNT_MAX = 9007199254740991

local time = redis.call('TIME')
local now = tonumber(time[1])
local stops, requests = cmsgpack.unpack(ARGV[1])

local texts = redis.call('MGET', unpack(KEYS))
local counts, starts, ends, is_changed = {}, {}, {}, {}

local function open(index, seconds)
  if ends[index] then return end
  local start = now - now % seconds
  starts[index], ends[index] = start, start + seconds
  counts[index] = 0
  if texts[index] then
    local begun, count = string.match(texts[index], '^(%d+) (%d+)$')
    if tonumber(begun) == start then counts[index] = tonumber(count) end
  end
end

local answer, place = {now * 1000 + math.floor(time[2] / 1000)}, 1
while place <= #requests do
  local first, last = place + 1, place + requests[place] * 4
  local refuses = false
  for i = first, last, 4 do
    open(requests[i], requests[i + 1])
    refuses = refuses or counts[requests[i]] + requests[i + 3] > requests[i + 2]
  end
  local before = {}
  for i = first, last, 4 do before[i] = counts[requests[i]] end
  for i = first, last, 4 do
    local index, limit, addend = requests[i], requests[i + 2], requests[i + 3]
    local is_charged = not (stops and refuses) or before[i] + addend > limit
    if is_charged and addend > 0 then
      counts[index] = math.min(counts[index] + addend, COUNT_MAX)
      is_changed[index] = true
    end
    answer[#answer + 1] = counts[index]
  end
  place = last + 1
end

for index in pairs(is_changed) do
  local text = string.format('%.0f %.0f', starts[index], counts[index])
  redis.call('SET', KEYS[index], text, 'EXAT', ends[index])
end
return cmsgpack.pack(answer)
