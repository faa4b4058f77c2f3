-- wrk asks for another user with each request: U1 to as many as its argument says, of a prime step, so that
-- neighbours in time are none in memory.
local users, user = 1, 0

function init(args)
  users = tonumber(args[1])
end

function request()
  user = (user + 7919) % users
  return wrk.format("GET", "/users/U" .. user + 1 .. "/stats")
end
