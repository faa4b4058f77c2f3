-- Reads one page of the list of users with their all-time totals.
-- KEYS[1]  list of all user ids
-- ARGV[1]  prefix of the users' keys; they are in the slot of KEYS[1]
-- ARGV[2]  index of the first user, from 0
-- ARGV[3]  index of the last user
-- Returns  a flat list: user id, order_count, total_spend, user id, ...; "0" for a key that holds data of another program
local result = {}
for index, user in ipairs(redis.call("LRANGE", KEYS[1], ARGV[2], ARGV[3])) do
  local fields = redis.pcall("HMGET", ARGV[1] .. user, "order_count", "total_spend")
  result[3 * index - 2], result[3 * index - 1], result[3 * index] = user, fields[1] or "0", fields[2] or "0"
end
return result
