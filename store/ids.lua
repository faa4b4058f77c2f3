-- What remembers order ids; stands before record.lua and claim.lua.
-- Ids are remembered in layers, each some sets of integers, which Redis keeps at 8 bytes each up to 512 of them (its
-- default): two for an id, in a set that a third chooses. Only the last layer is written. When it is full or a window
-- old another begins, and the old one is looked into for one more window. A key lists them: number, sets, the count of
-- ids and the time (seconds) at the begin. Where the word `closed` stands there too, the orders are being moved, or have
-- been: nothing may be written.
local call, format, match = redis.call, string.format, string.match
-- Sets of the first layer, and so many times more when one is full, at MOST_IDS a set. A layer that begins because the
-- last is old has room for as many ids as that one held, at GOOD_IDS a set.
local FIRST_SETS, GROWTH, MOST_IDS, GOOD_IDS = 1024, 32, 192, 64

-- While a slot moves to another node its keys lie on both, and a key that is missing here may be there. Asking for two that
-- are nowhere is an error then on either side: nothing has been written yet, and nothing is until the slot has moved.
local function refuse_while_moving(prefix)
  if prefix ~= "" then call("EXISTS", prefix .. "orders:nowhere:1", prefix .. "orders:nowhere:2") end
end

-- The layers that `list` names, without those that are too old to matter
local function layers_of(list, window_seconds, now)
  local text, layers = call("GET", list) or "", {}
  if string.find(text, "closed", 1, true) then error("ERR closed: the orders here are being moved, or have been") end
  for number, sets, began, at in string.gmatch(text, "(%d+) (%d+) (%d+) (%d+)") do
    if #layers > 0 and at + window_seconds <= now then layers = {} end
    layers[#layers + 1] = { number = number, sets = sets, began = began, at = at }
  end
  for _, layer in ipairs(layers) do layer.key = list .. ":" .. layer.number .. ":" end
  return layers
end

-- Begins another layer where the last is full or old; `count` ids were remembered so far. Answers whether it did
local function extend(layers, list, count, window_seconds, now)
  local last = layers[#layers]
  local ids = count - (last and last.began or 0)
  local sets = nil
  if not last then sets = FIRST_SETS
  elseif ids >= MOST_IDS * last.sets then sets = GROWTH * last.sets
  elseif last.at + window_seconds <= now then sets = math.max(FIRST_SETS, math.ceil(ids / GOOD_IDS)) end
  if not sets then return false end
  local number = last and last.number + 1 or 1
  -- A clock that goes back must not make the layer older than it is.
  local at = math.max(now, last and tonumber(last.at) or 0)
  layers[#layers + 1] = { number = number, sets = sets, began = count, at = at, key = list .. ":" .. number .. ":" }
  return true
end

local function write_list(layers, list)
  local words = {}
  for index, layer in ipairs(layers) do words[index] = format("%d %d %d %d", layer.number, layer.sets, layer.began, layer.at) end
  call("SET", list, table.concat(words, " "))
end

-- Adds an id's two integers to the layer; answers how many were new, or what SADD says against it
local function remember(layer, low, high, chosen, window_seconds)
  local key = layer.key .. chosen % layer.sets
  local added = redis.pcall("SADD", key, low, high)
  if type(added) == "number" and added > 0 and call("SCARD", key) <= 2 then
    call("EXPIREAT", key, layer.at + 2 * window_seconds)
  end
  return added, key
end
