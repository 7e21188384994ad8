-- For wrk: POST a body, and count the answers that are not the same body.
wrk.method = "POST"
wrk.body = string.rep("0123456789abcdef", 64)
wrk.headers["content-type"] = "application/octet-stream"

local threads = {}
wrong = 0

function setup(thread)
  table.insert(threads, thread)
end

function response(status, headers, body)
  if status ~= 200 or body ~= wrk.body then
    wrong = wrong + 1
  end
end

function done(summary, latency, requests)
  local total = 0
  for _, thread in ipairs(threads) do
    total = total + thread:get("wrong")
  end
  print("wrong answers: " .. total)
end
