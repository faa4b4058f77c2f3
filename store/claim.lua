-- Claims order ids for the shards of their users, each id for one shard, in one atomic step. A claim counts nothing: it
-- decides in which shard the id may be counted when orders of several users come with it. Safe to run again.
-- KEYS[1]  list of the layers of claims (ids.lua); KEYS[2]  how many there are, in its slot
-- ARGV[1]  key prefix, a hash tag
-- ARGV[2]  how long a claim is remembered at least, seconds
-- ARGV[3]  how many shards there are
-- ARGV[4]  JSON array: for each order half of its id's digest, the other half with the shard as its last three digits
--          (integers as text), and what chooses the set
-- Returns  a text of as many digits as orders, 1 (the shard has the id) or 0 (another shard has it)
local list, count_key = KEYS[1], KEYS[2]
local window_seconds, shards, rows, WIDTH = tonumber(ARGV[2]), tonumber(ARGV[3]), cjson.decode(ARGV[4]), 3
refuse_while_moving(ARGV[1])
need_ids(list)
need("SET", count_key, "1")
local now, count, answers = tonumber(call("TIME")[1]), tonumber(call("GET", count_key) or 0), {}
local layers = layers_of(list, window_seconds, now)
local growth = growth_of(layers, list, count, window_seconds, now)
if growth then grow(layers, list, growth, window_seconds) end
local claimed = 0

-- Whether another shard than that of the claim has the id. Its first half alone does not tell: of billions two share one
local function is_others(key, claim)
  local others = {}
  for shard = 0, shards - 1 do
    local other = claim:sub(1, -4) .. format("%03d", shard)
    if other ~= claim then others[#others + 1] = other end
  end
  for _, there in ipairs(call("SMISMEMBER", key, unpack(others))) do
    if there == 1 then return true end
  end
  return false
end

for at = 1, #rows, WIDTH do
  local id, claim, chosen, answer = rows[at], rows[at + 1], rows[at + 2], nil
  for index = 1, #layers - 1 do
    local key = key_of(layers[index], chosen)
    local found = call("SMISMEMBER", key, id, claim)
    if found[1] + found[2] == 2 then answer = 1
    elseif found[1] == 1 and is_others(key, claim) then answer = 0 end
  end
  if not answer then
    local added, key = remember(layers[#layers], id, claim, chosen, window_seconds)
    if type(added) == "table" then error("ERR " .. key .. ": " .. added.err) end
    answer = 1
    if added == 1 and is_others(key, claim) then
      call("SREM", key, claim)
      answer = 0
    elseif added > 0 then claimed = claimed + 1 end
  end
  answers[#answers + 1] = answer
end
if claimed > 0 then call("SET", count_key, format("%d", count + claimed)) end
return table.concat(answers)
