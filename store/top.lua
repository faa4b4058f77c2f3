-- The first users of a board with what they spent and ordered, read at one moment.
-- KEYS[1]  board, a sorted set of negative cents   KEYS[2]  its hash of order counts
-- ARGV[1]  how many users
-- Returns  user id, negative cents, orders; and so on
local rows = redis.call("ZRANGE", KEYS[1], 0, tonumber(ARGV[1]) - 1, "WITHSCORES")
if #rows == 0 then return {} end
local users, answer = {}, {}
for at = 1, #rows, 2 do users[#users + 1] = rows[at] end
local orders = redis.call("HMGET", KEYS[2], unpack(users))
for index, user in ipairs(users) do
  answer[#answer + 1] = user
  answer[#answer + 1] = rows[index * 2]
  answer[#answer + 1] = orders[index]
end
return answer
