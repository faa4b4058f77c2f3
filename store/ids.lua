-- What remembers order ids; stands before record.lua and claim.lua.
-- An id is two integers of 19 digits in one of many sets, which Redis keeps at 8 bytes each up to 512 of them (its default).
-- The first eight digits of both choose the set. The sets grow with the ids, one at a time, so that no order pays
-- for many (linear hashing, W. Litwin, VLDB 1980): a new set takes the ids from an older one that now choose it.
-- The sets of a window are a layer. Only the last layer is written; when it is a window old another begins, and the old one
-- is looked into for one more window. A key lists them: number, sets, the count of ids and the time (seconds) at the begin.
-- Where the word `closed` stands there too, the orders are being moved, or have been: nothing may be written.
local call, format, match = redis.call, string.format, string.match
-- A set that is to be split soon has twice as many ids as IDS_PER_SET, and no more than 256 but by a rare chance. There are
-- not more sets than eight digits can choose: 3.2 billion ids, and more make the sets larger.
local FIRST_SETS, IDS_PER_SET, MOST_SPLITS, MOST_SETS = 64, 96, 16, 2 ^ 25

-- While a slot moves to another node its keys lie on both, and a key that is missing here may be there. Asking for two that
-- are nowhere is an error then on either side: nothing has been written yet, and nothing is until the slot has moved.
local function refuse_while_moving(prefix)
  if prefix ~= "" then call("EXISTS", prefix .. "orders:nowhere:1", prefix .. "orders:nowhere:2") end
end

-- A right that this Redis user has not would be missed in the middle of the writing
local function need(command, key, ...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(command, key, ...) then
    error("ERR this needs the right to " .. command .. " " .. key)
  end
end

local function need_ids(list)
  local set = list .. ":1:1"
  need("SMISMEMBER", set, "1", "2")
  need("SADD", set, "1", "2")
  need("SREM", set, "1", "2")
  need("SMEMBERS", set)
  need("SCARD", set)
  need("EXPIREAT", set, "1")
  need("SET", list, "1")
end

-- The layers that `list` names, without those that are too old to matter
local function layers_of(list, window_seconds, now)
  local text, layers = call("GET", list) or "", {}
  if string.find(text, "closed", 1, true) then
    local next = list:sub(1, 1) == "{" and "" or "; then start with REDIS_CLUSTER_NODES"
    error("ERR closed: orders are being moved from here. Let the move end, or run it again" .. next)
  end
  for number, sets, began, at in string.gmatch(text, "(%d+) (%d+) (%d+) (%d+)") do
    if #layers > 0 and at + window_seconds <= now then layers = {} end
    layers[#layers + 1] = { key = list .. ":" .. number .. ":", number = number, sets = tonumber(sets), began = began, at = at }
  end
  local last = layers[#layers]
  -- Ids of sets that it does not know would not be found.
  if last and call("EXISTS", last.key .. last.sets) == 1 then
    error("ERR " .. list .. " is older than the ids that it tells of, or " .. last.key .. last.sets .. " is somebody else's")
  end
  return layers
end

-- The number of sets when the last round of splits began: a power of two
local function round_of(sets)
  local _, bits = math.frexp(sets)
  return 2 ^ (bits - 1)
end

-- The set of an id in a layer of so many sets
local function set_of(sets, chosen)
  local round = round_of(sets)
  local set = chosen % (2 * round)
  -- One that is not there yet is still part of another.
  return set < sets and set or set - round
end

local function key_of(layer, chosen) return layer.key .. set_of(layer.sets, chosen) end

-- What is to be changed before more ids are added to the `count` that were remembered so far: another layer where the last
-- is old, more sets where it is full. This only reads; nil where nothing is to be changed
local function growth_of(layers, list, count, window_seconds, now)
  local last, splits = layers[#layers], {}
  if not last or last.at + window_seconds <= now then
    local number = last and last.number + 1 or 1
    -- A clock that goes back must not make the layer older than it is.
    local at = math.max(now, last and tonumber(last.at) or 0)
    layers[#layers + 1] = { key = list .. ":" .. number .. ":", number = number, sets = FIRST_SETS, began = count, at = at }
    return splits
  end
  while count - last.began > IDS_PER_SET * last.sets and last.sets < MOST_SETS and #splits < MOST_SPLITS do
    local new = last.sets
    local split = { from = last.key .. new - round_of(new), to = last.key .. new, ids = {} }
    -- The next call says so.
    if call("EXISTS", split.to) == 1 then break end
    last.sets = new + 1
    for _, id in ipairs(call("SMEMBERS", split.from)) do
      if set_of(last.sets, tonumber(id:sub(-19, -12))) == new then table.insert(split.ids, id) end
    end
    splits[#splits + 1] = split
  end
  return #splits > 0 and splits or nil
end

local function grow(layers, list, splits, window_seconds)
  local words = {}
  for _, split in ipairs(splits) do
    if #split.ids > 0 then
      call("SADD", split.to, unpack(split.ids))
      call("EXPIREAT", split.to, layers[#layers].at + 2 * window_seconds)
      call("SREM", split.from, unpack(split.ids))
    end
  end
  for index, layer in ipairs(layers) do words[index] = format("%d %d %d %d", layer.number, layer.sets, layer.began, layer.at) end
  call("SET", list, table.concat(words, " "))
end

-- Adds an id's two integers to the layer; answers how many were new, or what SADD says against it
local function remember(layer, low, high, chosen, window_seconds)
  local key = key_of(layer, chosen)
  local added = redis.pcall("SADD", key, low, high)
  if type(added) == "number" and added > 0 and call("SCARD", key) <= 2 then
    call("EXPIREAT", key, layer.at + 2 * window_seconds)
  end
  return added, key
end
