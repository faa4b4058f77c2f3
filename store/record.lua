-- Counts a batch of orders, each exactly once, in one atomic step. ids.lua stands before it.
-- KEYS[1]  hash of the overall totals. Every other key is made here from the same prefix, and so lies in its slot.
-- ARGV[1]  key prefix, "" or a hash tag
-- ARGV[2]  how long an order id is remembered at least, seconds; never a shorter time than before on the same data
-- ARGV[3]  the most that total_revenue may reach, cents
-- ARGV[4]  TOP, the most users that a read of a board asks for; never more than before on the same data
-- ARGV[5]  JSON array: for each day of the batch its boards of day, week, month and year
-- ARGV[6]  JSON array: for each order, at most 1000, two halves of its id's digest (integers as text), a number that
--          chooses its set, user id, cents and which of the days, from 1. One argument is cheaper than thousands
-- Returns  a text of as many digits as orders, 1 (counted) or 0 (duplicate)
-- Without orders it writes one key that nobody reads: whether it may.
-- A script does not roll back: everything that can be refused is refused before the first write.
--
-- A board is a hash, user -> "orders cents". One of at most TOP users is ranked when it is read; a larger one has its
-- first TOP users in a sorted set. Sums only grow, so a user who is not among them comes in by an order of their own.
local global, prefix = KEYS[1], ARGV[1]
local window_seconds, max_cents = tonumber(ARGV[2]), tonumber(ARGV[3])
local TOP, day_boards, rows, WIDTH = tonumber(ARGV[4]), cjson.decode(ARGV[5]), cjson.decode(ARGV[6]), 6

-- "3200.75" -> 320075; doubles are exact for integers below 2^53
local function cents_of(key, text)
  if not text then return 0 end
  local whole, fraction = match(text, "^(%d+)%.?(%d?%d?)$")
  if not whole then error("ERR " .. key .. " holds an amount that is not in cents: " .. text) end
  return whole * 100 + (fraction .. "00"):sub(1, 2)
end

local function decimal_of(cents)
  return format("%d.%02d", math.floor(cents / 100), cents % 100)
end

local function count_of(key, text)
  if text and not match(text, "^%d+$") then error("ERR " .. key .. " holds a count that is not a number: " .. text) end
  return tonumber(text or 0)
end

-- What orders add up to, by name: arrays by the place of the name
local function new_sums() return { names = {}, places = {}, orders = {}, cents = {} } end

local function place_of(sums, name)
  local place = sums.places[name]
  if place then return place end
  place = #sums.names + 1
  sums.names[place], sums.places[name], sums.orders[place], sums.cents[place] = name, place, 0, 0
  return place
end

local function add(sums, place, orders, cents)
  sums.orders[place], sums.cents[place] = sums.orders[place] + orders, sums.cents[place] + cents
end

-- The sums of several days; the places stay the same while the names do
local function merged(list)
  if #list == 1 then return list[1] end
  local all = new_sums()
  for _, sums in ipairs(list) do
    for place, name in ipairs(sums.names) do add(all, place_of(all, name), sums.orders[place], sums.cents[place]) end
  end
  return all
end

-- What a hash of "orders cents" holds for the names
local function held_by(key, names)
  local held = { orders = {}, cents = {} }
  for place, text in ipairs(call("HMGET", key, unpack(names))) do
    local orders, cents = match(text or "0 0", "^(%d+) (%d+)$")
    if not orders then error("ERR " .. key .. " holds what is not orders and cents: " .. text) end
    held.orders[place], held.cents[place] = orders, cents
  end
  return held
end

-- Writes the sums that have grown
local function write_sums(key, held, sums)
  local row = {}
  for place, orders in ipairs(sums.orders) do
    if orders > 0 then
      row[#row + 1] = sums.names[place]
      row[#row + 1] = format("%d %d", held.orders[place] + orders, held.cents[place] + sums.cents[place])
    end
  end
  if #row > 0 then call("HSET", key, unpack(row)) end
end

refuse_while_moving(prefix)
local totals = call("HMGET", global, "total_orders", "total_revenue")
local total_orders, revenue = count_of(global, totals[1]), cents_of(global, totals[2])
if #rows > 1000 * WIDTH then return redis.error_reply("ERR a batch has at most 1000 orders") end

-- 1. What this Redis user may do.
local ids = prefix .. "orders:ids"
need_ids(ids)
for _, key in ipairs({ "user:1", "orders:days", "orders:board:1" }) do need("HSET", prefix .. key, "1", "1") end
need("HSET", global, "1", "1")
need("HGETALL", prefix .. "orders:board:1")
need("DEL", prefix .. "orders:top:1")
need("ZADD", prefix .. "orders:top:1", "1", "1")
need("ZREMRANGEBYRANK", prefix .. "orders:top:1", "1", "1")

-- 2. The layers of order ids, and what they are to become.
local now = tonumber(call("TIME")[1])
local layers = layers_of(ids, window_seconds, now)
local last = layers[#layers]
if not last and total_orders > 0 then
  error("ERR " .. ids .. ", which tells where the counted order ids are, is lost: restore it, or begin with an empty Redis")
end
if #rows == 0 then
  call("SET", prefix .. "orders:check", "", "EX", 60)
  return ""
end
local growth = growth_of(layers, ids, total_orders, window_seconds, now)

-- 3. Read what the batch may change. This also finds every key that holds something else.
local days, by_day, places, most_cents = {}, new_sums(), {}, revenue
local boards, board_of = {}, {}
for day, names in ipairs(day_boards) do
  days[day] = new_sums()
  place_of(by_day, names[1])
  for _, name in ipairs(names) do
    if not board_of[name] then
      board_of[name] = { key = prefix .. "orders:board:" .. name, top = prefix .. "orders:top:" .. name, days = {} }
      boards[#boards + 1] = board_of[name]
    end
    table.insert(board_of[name].days, days[day])
  end
end
local known = {}
for at = 1, #rows, WIDTH do
  places[at] = place_of(days[rows[at + 5]], rows[at + 3])
  most_cents = most_cents + rows[at + 4]
  for index = 1, #layers - 1 do
    local halves = call("SMISMEMBER", key_of(layers[index], rows[at + 2]), rows[at], rows[at + 1])
    known[at] = known[at] or halves[1] + halves[2] == 2
  end
end
if most_cents > max_cents then return redis.error_reply("ERR total_revenue would pass the most that is exact") end
for _, board in ipairs(boards) do
  board.held = held_by(board.key, merged(board.days).names)
  board.size = call("HLEN", board.key)
  local least = call("ZRANGE", board.top, TOP - 1, TOP - 1, "WITHSCORES")[2]
  board.least = least and -least or 0
end
local days_key = prefix .. "orders:days"
local held_days = held_by(days_key, by_day.names)
local held_users = { orders = {}, cents = {} }
for place, user in ipairs(merged(days).names) do
  local key = prefix .. "user:" .. user
  local held = call("HMGET", key, "order_count", "total_spend")
  held_users.orders[place], held_users.cents[place] = count_of(key, held[1]), cents_of(key, held[2])
end

-- 4. Write. The markers first: they say which orders are new, copies later in the batch included.
last = layers[#layers]
if growth then grow(layers, ids, growth, window_seconds) end
local outcomes, count, cents_sum = {}, 0, 0

-- Takes back the markers of the orders so far: the one thing that is written before all is known to be right
local function forget()
  for index, outcome in ipairs(outcomes) do
    local at = 1 + (index - 1) * WIDTH
    if outcome == 1 then call("SREM", key_of(last, rows[at + 2]), rows[at], rows[at + 1]) end
  end
end

-- Whether the order is not in the last layer yet; it is now
local function is_new(low, high, chosen)
  local added, key = remember(last, low, high, chosen, window_seconds)
  if type(added) == "table" then
    forget()
    error("ERR " .. key .. ": " .. added.err)
  end
  return added > 0
end

for at = 1, #rows, WIDTH do
  local fresh = not known[at] and is_new(rows[at], rows[at + 1], rows[at + 2])
  outcomes[#outcomes + 1] = fresh and 1 or 0
  if fresh then
    local day, cents = rows[at + 5], rows[at + 4]
    add(days[day], places[at], 1, cents)
    add(by_day, day, 1, cents)
    count, cents_sum = count + 1, cents_sum + cents
  end
end
if count == 0 then return table.concat(outcomes) end

-- Negative cents, so that ascending order is most spend first and then user id, byte by byte
local function rank(top, row)
  if #row == 0 then return end
  call("ZADD", top, unpack(row))
  call("ZREMRANGEBYRANK", top, TOP, -1)
end

for _, board in ipairs(boards) do
  local sums, row = merged(board.days), {}
  write_sums(board.key, board.held, sums)
  if board.size > TOP then
    for place, orders in ipairs(sums.orders) do
      local cents = board.held.cents[place] + sums.cents[place]
      if orders > 0 and cents >= board.least then row[#row + 1], row[#row + 2] = format("-%d", cents), sums.names[place] end
    end
  elseif call("HLEN", board.key) > TOP then
    call("DEL", board.top)
    local whole = call("HGETALL", board.key)
    for index = 1, #whole, 2 do row[index], row[index + 1] = "-" .. match(whole[index + 1], "%d+$"), whole[index] end
  end
  rank(board.top, row)
end
write_sums(days_key, held_days, by_day)
local users = merged(days)
for place, user in ipairs(users.names) do
  if users.orders[place] > 0 then
    local orders = format("%d", held_users.orders[place] + users.orders[place])
    local spend = decimal_of(held_users.cents[place] + users.cents[place])
    call("HSET", prefix .. "user:" .. user, "order_count", orders, "total_spend", spend)
  end
end
call("HSET", global, "total_orders", total_orders + count, "total_revenue", decimal_of(revenue + cents_sum))
return table.concat(outcomes)
