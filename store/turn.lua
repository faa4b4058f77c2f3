-- Begins or ends the turn of a move, in one step.
-- KEYS[1]  the lock   KEYS[2]  hash of the move, in its slot: `owner` is whose turn it is
-- ARGV[1]  who asks   ARGV[2]  how long the lock is good without being renewed, ms; 0 ends the turn
-- Returns  1 when it is theirs, or was; 0 while it is another's
local lock, move, id, ms = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
if ms > 0 then
  if not redis.call("SET", lock, id, "NX", "PX", ms) then return 0 end
  redis.call("HSET", move, "owner", id)
  return 1
end
if redis.call("GET", lock) == id then redis.call("DEL", lock) end
-- Nothing has begun, or all is done.
if redis.call("HGET", move, "owner") == id and redis.call("HEXISTS", move, "from") == 0 then redis.call("DEL", move) end
return 1
