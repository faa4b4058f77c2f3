-- Claims order ids for the shards of their users, each id for one shard, in one atomic step. A claim counts nothing: it
-- decides in which shard the id may be counted when orders of several users come with it. Safe to run again.
-- KEYS[1]  list of the layers of claims (ids.lua); KEYS[2]  how many there are, in its slot
-- ARGV[1]  key prefix, a hash tag
-- ARGV[2]  how long a claim is remembered at least, seconds
-- ARGV[3]  JSON array: for each order half of its id's digest, the other half mixed with the shard (int64 as text), and
--          what chooses the set
-- Returns  a text of as many digits as orders, 1 (the shard has the id) or 0 (another shard has it)
local list, count_key = KEYS[1], KEYS[2]
local window_seconds, rows, WIDTH = tonumber(ARGV[2]), cjson.decode(ARGV[3]), 3
refuse_while_moving(ARGV[1])
local now, count, answers = tonumber(call("TIME")[1]), tonumber(call("GET", count_key) or 0), {}
local layers = layers_of(list, window_seconds, now)
local growth = growth_of(layers, list, count, window_seconds, now)
if growth then grow(layers, list, growth, window_seconds) end
local claimed = 0

for at = 1, #rows, WIDTH do
  local id, mixed, chosen, answer = rows[at], rows[at + 1], rows[at + 2], nil
  for index = 1, #layers - 1 do
    local found = call("SMISMEMBER", key_of(layers[index], chosen), id, mixed)
    if found[1] == 1 then answer = found[2] end
  end
  if not answer then
    local added, key = remember(layers[#layers], id, mixed, chosen, window_seconds)
    if type(added) == "table" then error("ERR " .. key .. ": " .. added.err) end
    -- Both are new, or both are there: it is this shard's. Of another's claim only the id is there.
    if added == 1 then call("SREM", key, mixed) end
    answer = added == 1 and 0 or 1
    if added == 2 then claimed = claimed + 1 end
  end
  answers[#answers + 1] = answer
end
if claimed > 0 then call("SET", count_key, format("%d", count + claimed)) end
return table.concat(answers)
