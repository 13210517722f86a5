-- wrk's part of the closed-loop measurement: it POSTs the bodies of a file to a path in turn, and prints one
-- line of JSON at the end. Requests are formatted once, so that wrk's core has time to spare.
-- Arguments: the file, the path, then headers as "Name: value". A file NAME.frames has before each body a line
-- with its length in bytes; any other has a body a line.
local requests = {}
local sent = 0

local function frames(name)
  local file = assert(io.open(name, "rb"))
  return function()
    local length = file:read("*l")
    return length and file:read(tonumber(length))
  end
end

function init(args)
  local headers = { ["Content-Type"] = "application/json" }
  for position = 3, #args do
    local name, value = args[position]:match("^(.-): (.*)$")
    headers[name] = value
  end
  local bodies = args[1]:match("%.frames$") and frames or io.lines
  for body in bodies(args[1]) do
    requests[#requests + 1] = wrk.format("POST", args[2], headers, body)
  end
end

function request()
  sent = sent % #requests + 1
  return requests[sent]
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"answers": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "p999_ms": %f, "refused": %d, "broken": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3, errors.status, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
