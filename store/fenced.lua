-- Runs commands of a move only while no other move has taken over: one that was stopped for a while, and goes on when
-- another has finished, must not undo it.
-- KEYS[1]  what tells whose turn it is: a text, or a hash with the field `owner`
-- ARGV[1]  what must stand there   ARGV[2]  JSON array of commands, whose keys all lie in the slot of KEYS[1]
-- Returns  how many commands were run
local held
if redis.call("TYPE", KEYS[1]).ok == "hash" then held = redis.call("HGET", KEYS[1], "owner")
else held = redis.call("GET", KEYS[1]) end
if held ~= ARGV[1] then error("ERR another move has taken over, or has finished: this one ends") end
local commands = cjson.decode(ARGV[2])
for _, command in ipairs(commands) do redis.call(unpack(command)) end
return #commands
