-- Sends requests that were written down before, as they are: nothing is formed while it is measured.
--
-- FILES names lists of requests, with commas between; in a list they are separated by NUL. PATTERN says, over and over, from
-- which list the next one is. A list starts again at its end; one whose name ends in .once does not: then the round is over.
-- Prints one line of numbers, which measuring/load.py reads.

local ffi = require("ffi")
ffi.cdef [[
typedef struct { long seconds; long nanoseconds; } bench_time;
int clock_gettime(int clock, bench_time *time);
]]

local MONOTONIC = 1
local HARMLESS = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

local function now()
    local time = ffi.new("bench_time")
    ffi.C.clock_gettime(MONOTONIC, time)
    return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

local lists, pattern = {}, {}
local calls = 0
-- Read by `done` in another interpreter, so they are global.
began_at, began_cpu, over_at = 0, 0, 0

local function read_list(path)
    local file = assert(io.open(path, "rb"))
    local list = { next = 0, is_once = path:sub(-5) == ".once" }
    for request in file:read("*a"):gmatch("[^%z]+") do
        list[#list + 1] = request
    end
    file:close()
    assert(#list > 0, path .. " has no request")
    return list
end

function init()
    for path in os.getenv("FILES"):gmatch("[^,]+") do
        lists[#lists + 1] = read_list(path)
    end
    for number in os.getenv("PATTERN"):gmatch("%d") do
        pattern[#pattern + 1] = lists[tonumber(number)]
    end
end

function request()
    -- wrk asks once before it begins, to see what the requests are.
    if calls == 0 then
        calls = 1
        return HARMLESS
    end
    if calls == 1 then
        began_at, began_cpu = now(), os.clock()
    end
    local list = pattern[(calls - 1) % #pattern + 1]
    calls = calls + 1
    if list.next == #list then
        if list.is_once then
            if over_at == 0 then
                over_at = now()
                wrk.thread:stop()
            end
            -- Sent by connections that are ready in the same moment; their answers are read by nobody.
            return HARMLESS
        end
        list.next = 0
    end
    list.next = list.next + 1
    return list[list.next]
end

local threads = {}

function setup(thread)
    threads[#threads + 1] = thread
end

function done(summary, latency)
    local thread = threads[1]
    local ended_at, began = thread:get("over_at"), thread:get("began_at")
    local seconds = ended_at > 0 and ended_at - began or summary.duration / 1e6
    local errors = summary.errors
    io.write(string.format(
        "RESULT requests=%d seconds=%.6f p50_us=%d p99_us=%d max_us=%d wrong=%d lost=%d load_cpu=%.3f ran_out=%d\n",
        summary.requests, seconds, latency:percentile(50), latency:percentile(99), latency.max, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout, os.clock() - thread:get("began_cpu"),
        ended_at > 0 and 1 or 0))
end
