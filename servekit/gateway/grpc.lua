-- Gives every gRPC inference request without version and label one of its model's labels, and refuses what it cannot
-- read. The last thing that it does is to name the route (header x-servekit-route). Where it fails before, the route
-- file's last route answers 503: nothing reaches the model server undecided.
local bit, buffer = require("bit"), require("string.buffer")
local labels, protobuf = require("labels"), require("protobuf")
local byte, char, match, min = string.byte, string.char, string.match, math.min

local PIECE = 65536 -- bytes: longer texts would get memory of their own from the system, which costs more than the copy

local HEAD = 1024   -- bytes: what comes before a photo is in them

-- Status codes
local INVALID_ARGUMENT, PERMISSION_DENIED, UNIMPLEMENTED = "3", "7", "12"

local INFERENCE = "tensorflow.serving.PredictionService"
local METHODS = {
  Predict = "predict", Classify = "classify", Regress = "regress", MultiInference = "multi_inference",
  GetModelMetadata = "metadata",
}

local function refuse(handle, status, text)
  handle:respond({ [":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = status }, text)
end

local function prefix(size)
  return char(0, bit.rshift(size, 24), bit.band(bit.rshift(size, 16), 255), bit.band(bit.rshift(size, 8), 255),
    bit.band(size, 255))
end

local function varint(value)
  local text = ""
  while value >= 128 do
    text, value = text .. char(value % 128 + 128), bit.rshift(value, 7)
  end
  return text .. char(value)
end

local pieces = buffer.new()

local function copy(body, from, to)
  while from < to do
    local count = min(PIECE, to - from)
    pieces:put(body:getBytes(from, count))
    from = from + count
  end
end

-- Writes the label in front of the client's own fields: protobuf merges the two, and what comes later wins.
local function write(handle, body, length, label, tasks)
  local spec = char(0x22, #label) .. label
  local field = char(0x0a, #spec) .. spec
  pieces:reset()
  pieces:put(prefix(length - 5 + #field)) -- of one field; with tasks it is written again below
  local from = 5
  if not tasks then pieces:put(field) end
  for _, task in ipairs(tasks or {}) do
    copy(body, from, task.tag)
    pieces:put("\10", varint(#field + task.after - task.first), field)
    copy(body, task.first, task.after)
    from = task.after
  end
  copy(body, from, length)
  local message = pieces:tostring()
  if tasks then message = prefix(#message - 5) .. message:sub(6) end
  local written, headers = body:setBytes(message), handle:headers()
  if headers:get("content-length") then headers:replace("content-length", tostring(written)) end
  if length > labels.LARGE then
    pieces:free()
    collectgarbage()
  end
end

local function on_inference(handle, method)
  local body = handle:body()
  local length = body and body:length() or 0
  local function no(status, text)
    labels.note(handle, method)
    refuse(handle, status, text)
  end
  if length < 5 then return no(INVALID_ARGUMENT, "the request has no message") end
  local head = body:getBytes(0, min(length, HEAD))
  local compressed, a, b, c, d = byte(head, 1, 5)
  local size = ((a * 256 + b) * 256 + c) * 256 + d
  if compressed ~= 0 then
    return no(UNIMPLEMENTED, "the gateway does not read compressed gRPC messages; send them without compression")
  elseif length > 5 + size then
    return no(UNIMPLEMENTED, "the gateway takes one message a call, no streams")
  end
  local spec, tasks, empty
  if length == 5 + size then spec, tasks, empty = protobuf.look(body, length, head, method, labels.rows_matter()) end
  if not spec then
    return no(INVALID_ARGUMENT, "the gateway cannot read this request: it is no protobuf message, or has too many fields")
  end
  local model = spec.name
  local split = model and labels.split_of(model)
  local unlabelled = split and not spec.version and not spec.label
  if empty then
    labels.note(handle, method, not unlabelled and model or nil, spec.label, spec.version)
    return refuse(handle, INVALID_ARGUMENT, "an input has no rows: with batching the model server would never answer it")
  elseif not unlabelled then
    labels.note(handle, method, model, spec.label, spec.version)
    return labels.take_named(handle, "grpc", spec.label)
  end
  local label = labels.chosen(split, model, handle:headers())
  labels.note(handle, method, model, label)
  write(handle, body, length, label, tasks)
  labels.take_labelled(handle, "grpc", split, label, method, model)
end

function envoy_on_request(handle)
  labels.read(handle:filterContext())
  local service, name = match(handle:headers():get(":path") or "", "^/([^/]+)/([^/]+)$")
  if service == INFERENCE and METHODS[name] then return on_inference(handle, METHODS[name]) end
  if service == "tensorflow.serving.ModelService" and name == "GetModelStatus" or service == "grpc.health.v1.Health" then
    labels.note(handle, "status")
    return labels.take(handle, "grpc", "other")
  end
  labels.note(handle, "other")
  if service == "tensorflow.serving.ModelService" then
    refuse(handle, PERMISSION_DENIED,
      "the gateway does not let the model configuration be replaced; edit config/serving.yaml, then: servekit apply")
  elseif service == "tensorflow.ProfilerService" or service == "tensorflow.ProfileAnalysis" then
    refuse(handle, PERMISSION_DENIED, "the gateway does not let the profiler be used")
  elseif service == INFERENCE then
    refuse(handle, UNIMPLEMENTED, "the gateway takes one message a call, no streams")
  else
    refuse(handle, UNIMPLEMENTED, "the gateway knows no such method")
  end
end
