-- For wrk. Prints what a run measured as one line of JSON, latencies in microseconds. What a run does besides is said by arguments:
--
--   routes=N              asks for /route/1/ to /route/N/ in an order of chance
--   length=N, calls=N     looks at each answer: its status is 200, its body has that length, its header x-bench says that

local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(arguments)
    local options = {}
    for _, argument in ipairs(arguments) do
        local name, value = argument:match("^(%a+)=(%d+)$")
        options[name] = tonumber(value)
    end
    if options.routes then
        local all = {}
        for number = 1, options.routes do
            all[number] = wrk.format("GET", "/route/" .. number .. "/")
        end
        math.randomseed(os.time())
        request = function() return all[math.random(#all)] end
    end
    if options.length then
        wrong = 0
        response = function(status, headers, body)
            if status ~= 200 or #body ~= options.length or options.calls and tonumber(headers["x-bench"] or headers["X-Bench"]) ~= options.calls then
                wrong = wrong + 1
            end
        end
    end
end

function done(summary, latency)
    local errors, wrong = summary.errors, 0
    for _, thread in ipairs(threads) do
        wrong = wrong + (thread:get("wrong") or 0)
    end
    io.write(string.format(
        '{"requests": %d, "microseconds": %d, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d, "wrong": %d, ' ..
        '"latency": {"50": %.1f, "90": %.1f, "99": %.1f, "99.9": %.1f}}\n',
        summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.status, errors.timeout, wrong,
        latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9)))
end
