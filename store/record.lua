-- Counts a batch of orders, each exactly once, in one atomic step.
-- KEYS[1]  hash of the overall totals. Every other key is made here from the same prefix, and so lies in its slot.
-- ARGV[1]  key prefix, "" or a hash tag
-- ARGV[2]  how long an order id is remembered, seconds
-- ARGV[3]  the most that total_revenue may reach, cents
-- ARGV[4…] for each order: order id, user id, cents, and its boards of day, week, month and year
-- Returns  for each order 1 (counted) or 0 (duplicate)
-- A script does not roll back: everything that can be refused is refused before the first write.
local global = KEYS[1]
local prefix, ttl_seconds, max_cents = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local FIRST, WIDTH = 4, 7

-- "3200.75" -> 320075; doubles are exact for integers below 2^53
local function cents_of(key, text)
  if not text then return 0 end
  local whole, fraction = string.match(text, "^(%d+)%.?(%d?%d?)$")
  if not whole then error("ERR " .. key .. " holds an amount that is not in cents: " .. text) end
  return tonumber(whole) * 100 + tonumber((fraction .. "00"):sub(1, 2))
end

local function decimal_of(cents)
  return string.format("%d.%02d", math.floor(cents / 100), cents % 100)
end

-- 1. Which orders are new? A copy later in the batch is a duplicate of the first.
local markers = {}
for at = FIRST, #ARGV, WIDTH do markers[#markers + 1] = prefix .. "order:" .. ARGV[at] end
local known = redis.call("MGET", unpack(markers))
local outcomes, seen, users, days, batch = {}, {}, {}, {}, { orders = 0, cents = 0 }
for index, marker in ipairs(markers) do
  local fresh = not known[index] and not seen[marker]
  outcomes[index] = fresh and 1 or 0
  if fresh then
    local at = FIRST + (index - 1) * WIDTH
    local user, cents, day = ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
    seen[marker] = at
    users[user] = users[user] or { orders = 0, cents = 0 }
    days[day] = days[day] or { orders = 0, cents = 0 }
    for _, sum in ipairs({ users[user], days[day], batch }) do
      sum.orders, sum.cents = sum.orders + 1, sum.cents + cents
    end
  end
end
if batch.orders == 0 then return outcomes end

-- 2. What do their totals become? Reading them also finds a key of the wrong type before anything is written.
local revenue = cents_of(global, redis.call("HGET", global, "total_revenue")) + batch.cents
if revenue > max_cents then return redis.error_reply("ERR total_revenue would pass the most that is exact") end
for user, sum in pairs(users) do
  sum.key = prefix .. "user:" .. user
  sum.total = cents_of(sum.key, redis.call("HGET", sum.key, "total_spend")) + sum.cents
end

-- 3. Write.
for marker, at in pairs(seen) do
  local user, cents = ARGV[at + 1], ARGV[at + 2]
  redis.call("SET", marker, "", "EX", ttl_seconds)
  for column = 3, 6 do
    local board = prefix .. "board:" .. ARGV[at + column]
    -- Negative, so that ascending order is most spend first and then user id, byte by byte
    redis.call("ZINCRBY", board, "-" .. cents, user)
    redis.call("HINCRBY", board .. ":orders", user, 1)
  end
end
for day, sum in pairs(days) do
  redis.call("HINCRBY", prefix .. "days", day .. ":orders", sum.orders)
  redis.call("HINCRBY", prefix .. "days", day .. ":cents", sum.cents)
end
for _, sum in pairs(users) do
  redis.call("HINCRBY", sum.key, "order_count", sum.orders)
  redis.call("HSET", sum.key, "total_spend", decimal_of(sum.total))
end
redis.call("HINCRBY", global, "total_orders", batch.orders)
redis.call("HSET", global, "total_revenue", decimal_of(revenue))
return outcomes
