-- What wrk sends, and what it says at the end. The file named by the first argument sets `work`:
-- method, path, headers, body, expected (a status, or nil: then wrk's own count of 4xx and 5xx is taken) and first.
-- In path and body, @STEP@ is a number that no other request has, and @RUN@ one of `work.runs` in turn.

local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init(args)
  dofile(args[1])
  unexpected = 0
  local step = work.first + number * 10000000
  local varies = (work.path .. (work.body or "")):find("@STEP@", 1, true)
  local fixed = wrk.format(work.method, work.path, work.headers, work.body)
  request = function()
    if not varies then return fixed end
    step = step + 1
    local values = {STEP = step, RUN = work.runs[step % #work.runs + 1]}
    local path = work.path:gsub("@(%u+)@", values)
    local body = work.body and work.body:gsub("@(%u+)@", values)
    return wrk.format(work.method, path, work.headers, body)
  end
  if work.expected then
    response = function(status)
      if status ~= work.expected then unexpected = unexpected + 1 end
    end
  end
end

function done(summary, latency)
  local unexpected_in_all = 0
  for _, thread in ipairs(threads) do unexpected_in_all = unexpected_in_all + thread:get("unexpected") end
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "refused": %d, "unexpected": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, unexpected_in_all, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
