-- Adds messages to the order history of one outcome and removes orders that are too old or too many, in one atomic step.
-- KEYS[1]  hash: order id -> number of messages, then the latest of them as JSON, a line each, newest last
-- KEYS[2]  sorted set: order id -> when its latest message was processed, ms
-- ARGV[1]  maximum number of orders
-- ARGV[2]  maximum number of messages of an order that are kept
-- ARGV[3]  time before which orders are too old, ms
-- ARGV[4]  and so on, for each order (at most 50): its id, the time of its latest message in ms, a text as in KEYS[1]
-- Returns  nothing
local call = redis.call
local max_orders, max_lines = tonumber(ARGV[1]), tonumber(ARGV[2])

local function parse(text)
  local count, lines = string.match(text, "^(%d+)\n(.*)$")
  return tonumber(count or 0), lines or ""
end

for index = 4, #ARGV, 3 do
  local id, at = ARGV[index], tonumber(ARGV[index + 1])
  local stored_count, stored_lines = parse(call("HGET", KEYS[1], id) or "")
  local added_count, added_lines = parse(ARGV[index + 2])
  local lines = {}
  for line in string.gmatch(stored_lines .. "\n" .. added_lines, "[^\n]+") do lines[#lines + 1] = line end
  local latest = table.concat(lines, "\n", math.max(1, #lines - max_lines + 1))
  call("HSET", KEYS[1], id, string.format("%d\n", stored_count + added_count) .. latest)
  call("ZADD", KEYS[2], "GT", at, id)
end

-- At most twice as many as were added, so that no call takes long. Later calls remove the others.
local most = (#ARGV - 3) / 3 * 2
local removed = call("ZRANGE", KEYS[2], "-inf", "(" .. ARGV[3], "BYSCORE", "LIMIT", 0, most)
local excess = call("ZCARD", KEYS[2]) - max_orders
if excess > #removed then removed = call("ZRANGE", KEYS[2], 0, math.min(excess, most) - 1) end
if #removed > 0 then
  call("HDEL", KEYS[1], unpack(removed))
  call("ZREMRANGEBYRANK", KEYS[2], 0, #removed - 1)
end
