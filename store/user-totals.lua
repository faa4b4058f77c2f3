-- Reads the all-time totals of users, in one atomic step.
-- KEYS     the hashes of the users
-- Returns  for each user { order_count, total_spend }, both null for a user without orders, or an error in its place; it contains
--          WRONGTYPE for a key that holds data of another program
local result = {}
for index, key in ipairs(KEYS) do
  local fields = redis.pcall("HMGET", key, "order_count", "total_spend")
  local incomplete = not fields.err and not (fields[1] and fields[2])
  if incomplete and redis.call("EXISTS", key) == 1 then fields = redis.error_reply("WRONGTYPE fields are missing") end
  result[index] = fields
end
return result
