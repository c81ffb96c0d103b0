-- wrk's side: posts the body that is in the file named by the first argument, and prints one line of JSON.

function init(args)
    local file = assert(io.open(args[1], "rb"))
    wrk.method = "POST"
    wrk.body = file:read("*a")
    wrk.headers["content-type"] = "application/json"
    file:close()
end

function done(summary, latency)
    local errors = summary.errors
    local refused = errors.status + errors.connect + errors.read + errors.write + errors.timeout
    io.write(string.format('figure {"requests":%d,"refused":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f}\n',
        summary.requests, refused, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
