-- wrk -s req.lua URL -- PATH [RANGE]: sends the same request again and again, prints one line of JSON.
local text

function init(args)
  local headers = { Host = "bench" } -- one key in every cache, whatever the port
  if args[2] then headers["Range"] = "bytes=" .. args[2] end
  text = wrk.format("GET", args[1], headers)
end

function request()
  return text
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format('JSON {"requests":%d,"bytes":%d,"us":%d,"errors":%d,"p50_us":%.1f,"p99_us":%.1f}\n',
    summary.requests, summary.bytes, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
