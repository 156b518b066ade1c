-- wrk -s req.lua URL -- PATH RANGE [COUNT [NEXT]]: sends requests, prints one line of JSON. Without COUNT the same request again and
-- again. With it PATH is a format, and its number one of COUNT at random, or from NEXT on one after the other, as "next" says.
local path, headers, text, count
local only

function setup(thread)
  only = thread
end

function init(args)
  path, headers = args[1], { Host = "bench" } -- one key in every cache, whatever the port
  if args[2] ~= "" then headers["Range"] = "bytes=" .. args[2] end
  count, next_number = tonumber(args[3]), tonumber(args[4])
  if not count then text = wrk.format("GET", path, headers) end
end

function request()
  if text then return text end
  local number = next_number
  if number then
    next_number = number + 1
    number = number % count
  else
    number = math.random(0, count - 1)
  end
  return wrk.format("GET", path:format(number), headers)
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format('JSON {"requests":%d,"bytes":%d,"us":%d,"p50_us":%.1f,"p99_us":%.1f,"next":%d,' ..
    '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99), only:get("next_number") or 0,
    e.connect, e.read, e.write, e.status, e.timeout))
end
