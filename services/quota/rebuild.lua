-- Sets the counters of a customer anew in an epoch, unless that was done; then adds open holds that
-- are missing, which each replica knows of its own.
--
-- KEYS  counters and holds, expiries, what is remembered of even and of odd periods
-- ARGV  msgpack: epoch, counters, holds
--         counter  field, stamp, taken, settled, drain, scale; all in one flat list
--         hold     {id, expiry, description, phase, when it was made, amounts}
-- Returns {1 where the counters were set, how many holds were added}.

local epoch, given, holds = cmsgpack.unpack(ARGV[1])

local is_first = redis.call('HGET', KEYS[1], '_e') ~= epoch
if is_first then
  redis.call('UNLINK', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[1], '_e', epoch)
end
-- Who is about to set them by how they stood is to look again.
redis.call('HINCRBY', KEYS[1], '_t', 1)

-- What holds take from is made where it is missing, also when the rest was set before.
for i = 1, #given, 6 do
  local counter = cmsgpack.pack(given[i + 1], given[i + 2], given[i + 3], 0, given[i + 4], given[i + 5])
  redis.call('HSETNX', KEYS[1], given[i], counter)
end

local added = 0
for i = 1, #holds do
  local id, expiry, description, phase, made, amounts = unpack(holds[i])
  local is_known = redis.call('HEXISTS', KEYS[1], 'h' .. id) == 1
    or redis.call('HEXISTS', KEYS[3], 'e' .. id) == 1 or redis.call('HEXISTS', KEYS[4], 'e' .. id) == 1
  if not is_known then
    local _, flat = cmsgpack.unpack_one(description)
    for j = 1, #flat, 2 do
      local packed = redis.call('HGET', KEYS[1], flat[j])
      if packed then
        local stamp, taken, settled, held, drain, scale = cmsgpack.unpack(packed)
        local amount = amounts[flat[j + 1]]
        packed = cmsgpack.pack(stamp, taken + amount * scale, settled, held + amount, drain, scale)
        redis.call('HSET', KEYS[1], flat[j], packed)
      end
    end
    redis.call('HSET', KEYS[1], 'h' .. id, cmsgpack.pack(expiry, description, phase, made, unpack(amounts)))
    redis.call('ZADD', KEYS[2], expiry, id)
    added = added + 1
  end
end
return {is_first and 1 or 0, added}
