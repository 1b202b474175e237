-- Turns the copy of a request to label stable into one to label canary. Only the gateway itself sends it requests.
local char, gsub, match, sub, byte = string.char, string.gsub, string.match, string.sub, string.byte

local SPEC = char(0x0a, 8, 0x22, 6) .. "canary" -- model_spec { version_label: "canary" }

function envoy_on_request(handle)
  local headers = handle:headers()
  local method, model = match(headers:get("x-servekit-copy") or "", "^([^/]+)/(.*)$")
  local about = handle:streamInfo():dynamicMetadata()
  local is_grpc = match(headers:get("content-type") or "", "^application/grpc") ~= nil
  about:set("servekit", "request", {
    method = method,
    model = (gsub(model, "%%(%x%x)", function(code) return char(tonumber(code, 16)) end)),
    label = "canary",
  })
  if is_grpc then -- behind the other fields: protobuf merges, and what comes later wins
    local body = handle:body()
    local raw = body:getBytes(0, body:length())
    local size = #raw - 5 + #SPEC
    local written = body:setBytes(char(0, math.floor(size / 16777216) % 256, math.floor(size / 65536) % 256,
      math.floor(size / 256) % 256, size % 256) .. sub(raw, 6) .. SPEC)
    headers = handle:headers()
    if headers:get("content-length") then headers:replace("content-length", tostring(written)) end
    if #raw > 1048576 then collectgarbage() end
  else
    local path = gsub(headers:get(":path"), "^(/[^/]+/[^/]+/[^/:]+/[^/]+/)stable", "%1canary")
    headers:replace(":path", path)
  end
  headers:replace("x-servekit-route", is_grpc and "grpc.copied" or "rest.copied")
  handle:clearRouteCache()
end
