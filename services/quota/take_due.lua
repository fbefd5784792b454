-- Takes customers whose holds are to be looked at, so that no two replicas look at once.
--
-- What was taken and not given back within the lease is due again: whoever took it has died.
--
-- KEYS  who is to be looked at, by instant; who is being looked at, by the end of the lease
-- ARGV  how many at most; the lease in milliseconds
-- Returns the names.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local lapsed = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
for i = 1, #lapsed do redis.call('ZADD', KEYS[1], 'LT', now, lapsed[i]) end

local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for i = 1, #due do redis.call('ZADD', KEYS[2], now + ARGV[2], due[i]) end
if #due > 0 then redis.call('ZREM', KEYS[1], unpack(due)) end
return due
