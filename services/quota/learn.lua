-- Adds what one replica has seen to what all have, and tells it what all have seen.
--
-- The rule is that of `Tally.joined` in services/quota/learning.py; a test holds the two equal.
--
-- KEYS  the tallies of one tenant
-- ARGV  msgpack {field, {bucket, weight, largest, ...}, field, ...}; the most that weights add up to;
--       how many tallies are kept at most; for how many milliseconds
-- Returns msgpack {{bucket, weight, largest, ...}, ...} in the order of the fields.

local asked = cmsgpack.unpack(ARGV[1])
local weight_max, tallies_max = tonumber(ARGV[2]), tonumber(ARGV[3])
local count = redis.call('HLEN', KEYS[1])

local function joined(flat, more)
  local weights, largest, total = {}, {}, 0
  for _, part in ipairs({flat, more}) do
    for i = 1, #part, 3 do
      local bucket = part[i]
      weights[bucket] = (weights[bucket] or 0) + part[i + 1]
      largest[bucket] = math.max(largest[bucket] or 0, part[i + 2])
      total = total + part[i + 1]
    end
  end
  while total > weight_max do
    total = 0
    for bucket, weight in pairs(weights) do
      local half = math.floor(weight / 2)
      weights[bucket] = half > 0 and half or nil
      total = total + half
    end
  end
  local result = {}
  for bucket, weight in pairs(weights) do
    result[#result + 1] = bucket
    result[#result + 1] = weight
    result[#result + 1] = largest[bucket]
  end
  return result
end

local answers = {}
for i = 1, #asked, 2 do
  local field, more = asked[i], asked[i + 1]
  local packed = redis.call('HGET', KEYS[1], field)
  local tally = packed and cmsgpack.unpack(packed) or {}
  if #more > 0 then
    tally = joined(tally, more)
    if packed or count < tallies_max then
      if not packed then count = count + 1 end
      redis.call('HSET', KEYS[1], field, cmsgpack.pack(tally))
    end
  end
  answers[#answers + 1] = tally
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return cmsgpack.pack(answers)
