-- wrk: requests another user each time, of U1 to U<argument>, in steps of a prime so that successive users are far apart in memory.
local users, user = 1, 0

function init(args)
  users = tonumber(args[1])
end

function request()
  user = (user + 7919) % users
  return wrk.format("GET", "/users/U" .. user + 1 .. "/stats")
end
