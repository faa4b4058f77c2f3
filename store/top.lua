-- Reads the first users of a leaderboard with their totals, in one atomic step.
-- KEYS[1]  the leaderboard, a hash: user id -> "orders cents"
-- KEYS[2]  sorted set of its first users, by negative cents; exists only for a leaderboard of more than ARGV[2] users
-- ARGV[1]  number of users to return
-- ARGV[2]  the maximum number of users of a leaderboard without a sorted set
-- Returns  { 1, the first users in order } or, for a small leaderboard, { 0, all users unordered }, both as a flat list:
--          user id, "orders cents", user id, ...
local count, max_unsorted = tonumber(ARGV[1]), tonumber(ARGV[2])
if redis.call("HLEN", KEYS[1]) <= max_unsorted then return { 0, redis.call("HGETALL", KEYS[1]) } end
local first, users, result = redis.call("ZRANGE", KEYS[2], 0, count - 1, "WITHSCORES"), {}, {}
if #first == 0 then return { 1, result } end
for index = 1, #first, 2 do users[#users + 1] = first[index] end
for index, totals in ipairs(redis.call("HMGET", KEYS[1], unpack(users))) do
  local orders = string.match(totals or "0", "^%d+")
  result[2 * index - 1], result[2 * index] = users[index], orders .. " " .. string.sub(first[2 * index], 2)
end
return { 1, result }
