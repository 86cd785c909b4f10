-- For wrk: requests for /route/1/, /route/2/, ... in an order of chance, as many of them as the argument says.
local directory = debug.getinfo(1, "S").source:match("^@(.*/)")
dofile(directory .. "report.lua")

local all = {}

function init(arguments)
    for number = 1, tonumber(arguments[1]) do
        all[number] = wrk.format("GET", "/route/" .. number .. "/")
    end
    math.randomseed(os.time())
end

function request()
    return all[math.random(#all)]
end
