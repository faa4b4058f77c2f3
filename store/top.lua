-- The first users of a board with what they ordered and spent, read at one moment.
-- KEYS[1]  the board, a hash of "orders cents"   KEYS[2]  sorted set of its first users, by negative cents
-- ARGV[1]  how many users   ARGV[2]  the most users of a board that is not in a sorted set
-- Returns  1 and the first, in their order, or 0 and all users of a small board, in none: user id, "orders cents"; and so on
if redis.call("HLEN", KEYS[1]) <= tonumber(ARGV[2]) then return { 0, redis.call("HGETALL", KEYS[1]) } end
local first, users, answer = redis.call("ZRANGE", KEYS[2], 0, tonumber(ARGV[1]) - 1, "WITHSCORES"), {}, {}
if #first == 0 then return { 1, answer } end
for index = 1, #first, 2 do users[#users + 1] = first[index] end
for index, sums in ipairs(redis.call("HMGET", KEYS[1], unpack(users))) do
  local orders = string.match(sums or "0", "^%d+")
  answer[2 * index - 1], answer[2 * index] = users[index], orders .. " " .. string.sub(first[2 * index], 2)
end
return { 1, answer }
