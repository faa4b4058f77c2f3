-- Counts a batch of orders, each exactly once, in one atomic step.
-- KEYS[1]  hash of the overall totals. Every other key is made here from the same prefix, and so lies in its slot.
-- ARGV[1]  key prefix, "" or a hash tag
-- ARGV[2]  how long an order id is remembered, seconds
-- ARGV[3]  the most that total_revenue may reach, cents
-- ARGV[4]  how many days the batch has, then for each its boards of day, week, month and year
-- ARGV[…]  for each order: order id, user id, cents and which of the days, from 1
-- Returns  for each order 1 (counted) or 0 (duplicate)
-- Without orders it writes one key that nobody reads: whether it may.
-- A script does not roll back: everything that can be refused is refused before the first write.
local call = redis.call
local global, prefix = KEYS[1], ARGV[1]
local ttl_seconds, max_cents, day_count = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local FIRST, WIDTH = 5 + 4 * day_count, 4

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

local function count_of(key, text)
  local count = tonumber(text or 0)
  if not count then error("ERR " .. key .. " holds a count that is not a number: " .. text) end
  return count
end

local function add(sum, cents)
  sum.orders, sum.cents = sum.orders + 1, sum.cents + cents
end

local totals = call("HMGET", global, "total_orders", "total_revenue")
local total_orders, revenue = count_of(global, totals[1]), cents_of(global, totals[2])
if #ARGV < FIRST then
  call("SET", prefix .. "orders:check", "", "EX", 60)
  return {}
end

-- 1. Which orders are new? A copy later in the batch is a duplicate of the first.
local markers = {}
for at = FIRST, #ARGV, WIDTH do markers[#markers + 1] = prefix .. "orders:seen:" .. ARGV[at] end
local known = call("MGET", unpack(markers))
local outcomes, seen, users, days, batch = {}, {}, {}, {}, { orders = 0, cents = 0 }
for index, marker in ipairs(markers) do
  local fresh = not known[index] and not seen[marker]
  outcomes[index] = fresh and 1 or 0
  if fresh then
    local at = FIRST + (index - 1) * WIDTH
    local user, cents, day = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    seen[marker] = at
    users[user] = users[user] or { orders = 0, cents = 0 }
    days[day] = days[day] or { orders = 0, cents = 0 }
    add(users[user], cents)
    add(days[day], cents)
    add(batch, cents)
  end
end
if batch.orders == 0 then return outcomes end

-- 2. What do their totals become? Reading them also finds a key of the wrong type before anything is written.
if revenue + batch.cents > max_cents then return redis.error_reply("ERR total_revenue would pass the most that is exact") end
for user, sum in pairs(users) do
  sum.key = prefix .. "user:" .. user
  local held = call("HMGET", sum.key, "order_count", "total_spend")
  sum.orders = count_of(sum.key, held[1]) + sum.orders
  sum.total = cents_of(sum.key, held[2]) + sum.cents
end
local boards = {}
for index = 5, FIRST - 1 do boards[index - 4] = prefix .. "orders:board:" .. ARGV[index] end
for _, board in ipairs(boards) do
  call("ZCARD", board)
  call("HLEN", board .. ":orders")
end
call("HLEN", prefix .. "orders:days")

-- 3. Write.
for marker, at in pairs(seen) do
  local user, decrement, last = ARGV[at + 1], "-" .. ARGV[at + 2], 4 * ARGV[at + 3]
  call("SET", marker, "", "EX", ttl_seconds)
  for index = last - 3, last do
    -- Negative, so that ascending order is most spend first and then user id, byte by byte
    call("ZINCRBY", boards[index], decrement, user)
    call("HINCRBY", boards[index] .. ":orders", user, 1)
  end
end
for day, sum in pairs(days) do
  local name = ARGV[1 + 4 * day]
  call("HINCRBY", prefix .. "orders:days", name .. ":orders", sum.orders)
  call("HINCRBY", prefix .. "orders:days", name .. ":cents", sum.cents)
end
for _, sum in pairs(users) do
  call("HSET", sum.key, "order_count", sum.orders, "total_spend", decimal_of(sum.total))
end
call("HSET", global, "total_orders", total_orders + batch.orders, "total_revenue", decimal_of(revenue + batch.cents))
return outcomes
