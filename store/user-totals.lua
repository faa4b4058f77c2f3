-- Reads the all-time totals of users, in one atomic step.
-- KEYS     the hashes of the users
-- Returns  for each user "order_count total_spend"; nil for a user without orders; or the error of the read, which contains
--          WRONGTYPE for a key that holds data of another program
local function read(key)
  local fields = redis.pcall("HMGET", key, "order_count", "total_spend")
  if fields.err then return fields end
  if fields[1] and fields[2] then return fields[1] .. " " .. fields[2] end
  return redis.call("EXISTS", key) == 1 and redis.error_reply("WRONGTYPE fields are missing")
end

local result = {}
for index, key in ipairs(KEYS) do result[index] = read(key) end
return result
