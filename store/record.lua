-- Counts a batch of orders, each exactly once, in one atomic step.
-- KEYS[1]  global:stats. Every other key (see redis-keys.ts) has the same prefix and so, in a cluster, the same slot
-- ARGV[1]  key prefix: "", "shop1:", or in a cluster a hash tag such as "{orders}"
-- ARGV[2]  marker window, seconds
-- ARGV[3]  maximum of total_revenue, cents
-- ARGV[4]  maximum amount of one order, cents
-- ARGV[5]  maximum number of users that one read of a leaderboard returns
-- ARGV[6]  JSON array: for each day of the batch its leaderboards, the day itself first
-- ARGV[7]  JSON array: for each order (at most 1000) its user id, its cents and the index of its day, starting at 1
-- ARGV[8]  the markers of the orders, 12 bytes each
-- ARGV[9]  time zone of the days
-- Returns  one digit per order: 1 recorded, 0 duplicate, 2 refused because the key of its user holds data of another program
--
-- Without orders, changes no order data but checks permissions, types of keys, room for one more order, and that Redis
-- accepts a write. Redis does not roll back a script that fails, so everything that can fail is done before the first write.
local call, format, match = redis.call, string.format, string.match
local prefix, window_seconds = ARGV[1], tonumber(ARGV[2])
local max_total_cents, max_order_cents, MAX_TOP = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local day_boards, rows, markers, time_zone = cjson.decode(ARGV[6]), cjson.decode(ARGV[7]), ARGV[8], ARGV[9]
local keys = { -- names as in redis-keys.ts
  global = KEYS[1],
  user = function(user) return prefix .. "user:" .. user end,
  store = prefix .. "orders:store",
  markers = function(generation, hash) return prefix .. format("orders:ids:%d:%d", generation, hash) end,
  days = prefix .. "orders:days",
  users = prefix .. "orders:users",
  board = function(board) return prefix .. "orders:board:" .. board end,
  top = function(board) return prefix .. "orders:top:" .. board end,
  recent = function(outcome) return prefix .. "orders:recent:" .. outcome end,
  history = function(outcome) return prefix .. "orders:history:" .. outcome end,
  history_times = function(outcome) return prefix .. "orders:history-times:" .. outcome end,
  check = prefix .. "orders:check",
}
if #rows > 3000 or #markers * 3 ~= #rows * 12 then error("ERR a batch has at most 1000 orders, and a marker for each") end

-- While a slot is migrated to another node, each of its keys is on one of the two nodes: a key that is missing here may exist
-- there. A command with two keys that do not exist fails during a migration (TRYAGAIN), so nothing is written until its end.
if prefix:sub(1, 1) == "{" then call("EXISTS", prefix .. "orders:nowhere:1", prefix .. "orders:nowhere:2") end

-- Permissions of this Redis user. Redis before version 7 cannot check them in advance: there, a missing one fails between writes.
local function need(key, ...)
  if not redis.acl_check_cmd then return end
  for _, command in ipairs({ ... }) do
    -- The key three times: some of these commands take several keys, and any text is valid as a count or a field.
    if not redis.acl_check_cmd(command, key, key, key) then error("ERR this needs the right to " .. command .. " " .. key) end
  end
end
for _, key in ipairs({ keys.global, keys.user("1"), keys.markers(1, 1), keys.store, keys.days, keys.board("1") }) do
  need(key, "HSET")
end
need(keys.board("1"), "HGETALL")
need(keys.top("1"), "ZADD", "ZREMRANGEBYRANK")
need(keys.users, "RPUSH")

-- 1. Read the stored state.

-- "3200.75" -> 320075; doubles are exact for integers below 2^53. nil if the text is not an amount
local function cents_of(text)
  local whole, fraction = match(text or "0", "^(%d+)%.?(%d?%d?)$")
  return whole and whole * 100 + (fraction .. "00"):sub(1, 2)
end
local function decimal_of(cents) return format("%d.%02d", math.floor(cents / 100), cents % 100) end

local totals = call("HMGET", keys.global, "total_orders", "total_revenue")
local total_orders, revenue = tonumber(totals[1] or 0), cents_of(totals[2])
if not total_orders or not revenue then error("ERR " .. keys.global .. " does not hold a count and an amount: restore it") end

local stored = call("HMGET", keys.store, "generations", "window_seconds", "closed", "seen_at", "time_zone")
if stored[3] then error("ERR the store is closed: " .. stored[3]) end
window_seconds = math.max(window_seconds, tonumber(stored[2] or 0))

-- Markers. An order id is a field of 12 bytes in one of many small hashes, for which Redis needs some 16 bytes a field. The
-- hashes are grouped into generations, and only the newest generation is written. When it is full or one window old, the next
-- one is opened, a larger one if it was full. An older generation is read until its last marker is one window old, then deleted.
local FIRST_HASHES, FIELDS_PER_HASH, MAX_HASHES, REMOVED_AT_ONCE = 131072, 96, 2 ^ 24, 32
local now, generations = tonumber(call("TIME")[1]), {}
for number, hashes, began, at, left in string.gmatch(stored[1] or "", "(%d+) (%d+) (%d+) (%d+) (%d+)") do
  generations[#generations + 1] = {
    number = tonumber(number), hashes = tonumber(hashes),
    began = tonumber(began), -- total_orders when it was opened
    at = tonumber(at), -- when it was opened, seconds since the epoch
    left = tonumber(left), -- hashes that are not deleted yet
  }
end

-- Time without orders does not count towards the window: it may be a jump of the clock.
local MAX_GAP_SECONDS, SEEN_EVERY_SECONDS = 24 * 3600, 3600
local gap = now - tonumber(stored[4] or now)
local shifted = gap > MAX_GAP_SECONDS
if shifted then for _, g in ipairs(generations) do g.at = g.at + gap end end
local current = generations[#generations]
if current and not (totals[1] and totals[2]) then
  error("ERR " .. keys.global .. " is lost: `bun scripts/audit.ts --repair` restores it from the days")
end
local stored_zone = stored[5] or current and "UTC" or time_zone
if stored_zone ~= time_zone then
  error("ERR the store was begun with TIME_ZONE=" .. stored_zone .. ", this program has TIME_ZONE=" .. time_zone .. ": restart it with the former")
end
if not current and (totals[1] or call("EXISTS", keys.days) == 1) then
  error("ERR " .. keys.store .. ", without which counted orders are not recognized, is lost: restore it, or begin with an empty Redis")
end

if #rows == 0 then
  for _, command in ipairs(redis.acl_check_cmd and { "EVAL", "EVALSHA" } or {}) do
    if not redis.acl_check_cmd(command, "", "1", keys.global) then error("ERR this needs the right to " .. command) end
  end
  need(keys.global, "HMGET")
  need(keys.user("1"), "HMGET", "EXISTS")
  need(keys.store, "HMGET")
  need(keys.markers(1, 1), "HEXISTS", "UNLINK", "HSCAN")
  need(keys.days, "HMGET", "HKEYS", "EXISTS")
  need(keys.board("1"), "HMGET", "HLEN", "HSCAN")
  need(keys.top("1"), "ZRANGE")
  need(keys.users, "LRANGE")
  for outcome in string.gmatch("corrected rejected duplicate implausible_date", "%S+") do
    need(keys.recent(outcome), "LPUSH", "LTRIM", "LRANGE")
    need(keys.history(outcome), "HGET", "HSET", "HDEL")
    need(keys.history_times(outcome), "ZADD", "ZRANGE", "ZCARD", "ZREMRANGEBYRANK")
  end
  call("HLEN", keys.days)
  call("LLEN", keys.users)
  if current then call("HLEN", keys.markers(current.number, 0)) end
  for _, boards in ipairs(day_boards) do
    for _, board in ipairs(boards) do
      call("HLEN", keys.board(board))
      call("ZCARD", keys.top(board))
    end
  end
  if revenue + max_order_cents > max_total_cents then
    error("ERR total_revenue has no room for one more order: larger sums would not be exact")
  end
  call("SET", keys.check, "", "EX", 60)
  return ""
end

-- A generation expires when the next one is one window old.
local first_live = 1
while generations[first_live + 1] and generations[first_live + 1].at + window_seconds <= now do first_live = first_live + 1 end

local full = current and current.hashes < MAX_HASHES and total_orders - current.began >= FIELDS_PER_HASH * current.hashes
local opened = not current or full or current.at + window_seconds <= now
if opened then
  local hashes = FIRST_HASHES
  if full then hashes = current.hashes * 8
  -- Large enough for twice the orders of the last window.
  elseif current then hashes = math.max(hashes, math.ceil(2 * (total_orders - current.began) / FIELDS_PER_HASH)) end
  local number = current and current.number + 1 or 1
  current = {
    number = number, hashes = math.min(hashes, MAX_HASHES), began = total_orders, left = math.min(hashes, MAX_HASHES),
    at = math.max(now, current and current.at or 0), -- if the clock was set back, not earlier than the previous generation
  }
  generations[#generations + 1] = current
end

-- The key to write a marker to, in the newest generation; nil if the order is counted
local function key_of_new(marker)
  local high, middle, low = marker:byte(1, 3)
  local newest
  for index = #generations, first_live, -1 do
    local generation = generations[index]
    local key = keys.markers(generation.number, ((high * 256 + middle) * 256 + low) % generation.hashes)
    if call("HEXISTS", key, marker) == 1 then return nil end
    newest = newest or key
  end
  return newest
end

-- The stored totals of a user; false if the key holds data of another program
local new_users = {}
local function stored_totals(user)
  local key = keys.user(user)
  local fields = redis.pcall("HMGET", key, "order_count", "total_spend")
  if fields.err and not fields.err:find("WRONGTYPE", 1, true) then error(fields.err) end
  if fields.err then return false end
  if not fields[1] and not fields[2] and call("EXISTS", key) == 0 then
    new_users[#new_users + 1] = user
    return { key = key, orders = 0, cents = 0 }
  end
  local orders, cents = match(fields[1] or "", "^%d+$"), fields[2] and cents_of(fields[2])
  return orders and cents and { key = key, orders = tonumber(orders), cents = cents } or false
end

-- 2. Find the new orders and add them up.
local function new_sums() return { names = {}, orders = {}, cents = {} } end
local function add(sums, name, cents)
  local orders = sums.orders[name]
  if not orders then
    orders, sums.cents[name], sums.names[#sums.names + 1] = 0, 0, name
  end
  sums.orders[name], sums.cents[name] = orders + 1, sums.cents[name] + cents
end

-- The sums of each leaderboard, by user. A leaderboard that includes every day of the batch, often its year, uses `batch_sums`.
local batch_sums, by_day, days_on, sums_of, sums_of_day = new_sums(), new_sums(), {}, {}, {}
for _, boards in ipairs(day_boards) do
  for _, board in ipairs(boards) do days_on[board] = (days_on[board] or 0) + 1 end
end
for day, boards in ipairs(day_boards) do
  sums_of_day[day] = { batch_sums }
  for _, board in ipairs(boards) do
    local is_shared = days_on[board] == #day_boards
    sums_of[board] = sums_of[board] or is_shared and batch_sums or new_sums()
    if not is_shared then table.insert(sums_of_day[day], sums_of[board]) end
  end
end

local results, new_keys, users = {}, {}, {}
local count, cents_sum = 0, 0
for order = 1, #rows / 3 do
  local user, cents, day = rows[order * 3 - 2], rows[order * 3 - 1], rows[order * 3]
  local marker = markers:sub(order * 12 - 11, order * 12)
  local key = not new_keys[marker] and key_of_new(marker)
  if key and users[user] == nil then users[user] = stored_totals(user) end
  if not key then
    results[order] = "0"
  elseif not users[user] then
    results[order] = "2"
  else
    results[order], new_keys[marker] = "1", key
    local sums = sums_of_day[day]
    for index = 1, #sums do add(sums[index], user, cents) end
    add(by_day, day_boards[day][1], cents)
    count, cents_sum = count + 1, cents_sum + cents
  end
end
if count == 0 then return table.concat(results) end
if revenue + cents_sum > max_total_cents then error("ERR total_revenue would exceed the limit up to which it is exact") end

-- 3. Add the stored totals. Leaderboards and days are hashes: name -> "orders cents".
local function with_stored(key, sums)
  local names, cents, row, new_names = sums.names, {}, {}, 0
  local values = call("HMGET", key, unpack(names))
  for index = 1, #names do
    local name, text = names[index], values[index]
    local orders, stored_cents = 0, 0
    if text then
      orders, stored_cents = match(text, "^(%d+) (%d+)$")
      if not orders then error("ERR " .. key .. " does not hold orders and cents: " .. text) end
    else
      new_names = new_names + 1
    end
    cents[index] = stored_cents + sums.cents[name]
    row[index * 2 - 1], row[index * 2] = name, format("%d %d", orders + sums.orders[name], cents[index])
  end
  return { key = key, names = names, cents = cents, row = row, new_names = new_names }
end

local boards = {}
for name, sums in pairs(sums_of) do
  if #sums.names > 0 then
    local board = with_stored(keys.board(name), sums)
    board.size = call("HLEN", board.key)
    if board.size + board.new_names > MAX_TOP then
      board.top = keys.top(name)
      board.least_cents = -(call("ZRANGE", board.top, MAX_TOP - 1, MAX_TOP - 1, "WITHSCORES")[2] or 0)
    end
    boards[#boards + 1] = board
  end
end
local days = with_stored(keys.days, by_day)
-- Fails if the key has another type.
if #new_users > 0 then call("LLEN", keys.users) end

-- 4. Write.
local expired = first_live > 1 and generations[1]
if expired then
  local removed = {}
  for hash = expired.left - 1, math.max(0, expired.left - REMOVED_AT_ONCE), -1 do
    removed[#removed + 1] = keys.markers(expired.number, hash)
  end
  if #removed > 0 then call("UNLINK", unpack(removed)) end
  expired.left = expired.left - #removed
  if expired.left == 0 then table.remove(generations, 1) end
end
if opened or expired or shifted then
  local texts = {}
  for index, g in ipairs(generations) do texts[index] = format("%d %d %d %d %d", g.number, g.hashes, g.began, g.at, g.left) end
  call("HSET", keys.store, "generations", table.concat(texts, " "))
end
if not stored[4] or math.abs(gap) > SEEN_EVERY_SECONDS then call("HSET", keys.store, "seen_at", now) end
if not stored[5] then call("HSET", keys.store, "time_zone", time_zone) end
if window_seconds > tonumber(stored[2] or 0) then call("HSET", keys.store, "window_seconds", window_seconds) end

for marker, key in pairs(new_keys) do call("HSET", key, marker, "") end

-- The first MAX_TOP users of a larger leaderboard are also in a sorted set, by negative cents, so that users with equal spend
-- are sorted by the bytes of their ids. Totals only grow, so a user can only move up, and only with an order in this batch.
local function rank(board)
  local row = {}
  if board.size > MAX_TOP then
    for index, user in ipairs(board.names) do
      local cents = board.cents[index]
      if cents >= board.least_cents then row[#row + 1], row[#row + 2] = format("-%d", cents), user end
    end
  else
    -- A value of another program must not fail here, between two writes. It is ranked last.
    local members = call("HGETALL", board.key)
    for index = 1, #members, 2 do
      row[index], row[index + 1] = "-" .. (match(members[index + 1], "%d+$") or "0"), members[index]
    end
  end
  if #row == 0 then return end
  call("ZADD", board.top, unpack(row))
  call("ZREMRANGEBYRANK", board.top, MAX_TOP, -1)
end

for _, board in ipairs(boards) do
  call("HSET", board.key, unpack(board.row))
  if board.top then rank(board) end
end
call("HSET", days.key, unpack(days.row))
for _, user in ipairs(batch_sums.names) do
  local user_totals = users[user]
  local orders, cents = user_totals.orders + batch_sums.orders[user], user_totals.cents + batch_sums.cents[user]
  call("HSET", user_totals.key, "order_count", format("%d", orders), "total_spend", decimal_of(cents))
end
if #new_users > 0 then call("RPUSH", keys.users, unpack(new_users)) end
call("HSET", keys.global, "total_orders", total_orders + count, "total_revenue", decimal_of(revenue + cents_sum))
return table.concat(results)
