-- Gives every inference request without version and label one of its model's labels, and refuses what it cannot read.
-- The last thing it does is to name the route (header x-servekit-route). Where it fails before, the route file's last
-- route answers 503: nothing reaches the model server undecided.
local bit = require("bit")
local byte, char, find, format, lower, match, sub = string.byte, string.char, string.find, string.format, string.lower,
  string.match, string.sub
local min = math.min

local STABLE, CANARY = "stable", "canary"
local MOST_FIELDS = 20000   -- of a protobuf message that are looked at; so many keys of a JSON text, times ten
local LARGE = 1048576       -- bytes from which on Lua's memory is given back at once

-- gRPC status codes
local INVALID_ARGUMENT, PERMISSION_DENIED, UNIMPLEMENTED = "3", "7", "12"

local INFERENCE = "tensorflow.serving.PredictionService"
local METHODS = {
  Predict = "predict", Classify = "classify", Regress = "regress", MultiInference = "multi_inference",
  GetModelMetadata = "metadata",
}
local VERBS = { [":predict"] = "predict", [":classify"] = "classify", [":regress"] = "regress", ["/metadata"] = "metadata" }
local COPIED = { predict = true, classify = true, regress = true }

math.randomseed(os.time() + tonumber(match(tostring({}), "0x(%x+)") or "0", 16) % 2147483647)

-- What the route file says; kept until its generation changes. ------------------------------------------------------

local generation, models, known, batching

local function read_context(context)
  local now = context:get("generation")
  if now == generation then return end
  local found, names = context:get("models") or {}, {}
  for name, split in pairs(found) do
    names[name] = true
    if split.sticky then split.sticky = lower(split.sticky) end
  end
  for _, name in ipairs(context:get("others") or {}) do names[name] = true end
  models, known, batching, generation = found, names, context:get("batching"), now
end

-- FNV-1a of a text, finished by MurmurHash3's mixer: 32 bits, the same for the same text in every process.
local function multiplied(a, b)
  local high, low = bit.rshift(a, 16), bit.band(a, 0xffff)
  return bit.tobit(bit.lshift(bit.tobit(high * bit.band(b, 0xffff) + low * bit.rshift(b, 16)), 16)
    + low * bit.band(b, 0xffff))
end

local function hash(text)
  local h = bit.tobit(0x811c9dc5)
  for i = 1, min(#text, 1024) do h = multiplied(bit.bxor(h, byte(text, i)), 0x01000193) end
  h = multiplied(bit.bxor(h, bit.rshift(h, 16)), 0x85ebca6b)
  h = multiplied(bit.bxor(h, bit.rshift(h, 13)), 0xc2b2ae35)
  return bit.bxor(h, bit.rshift(h, 16)) % 4294967296
end

local function chosen(split, model, headers)
  if split.weight <= 0 then return STABLE end
  if split.weight >= 100 then return CANARY end
  local user = split.sticky and headers:get(split.sticky)
  local place = user and hash(model .. "\0" .. user) / 4294967296 or math.random()
  return place * 100 < split.weight and CANARY or STABLE
end

-- Answers and routes ------------------------------------------------------------------------------------------------

local function note(handle, protocol, method, model, label, version)
  local about = handle:streamInfo():dynamicMetadata()
  about:set("servekit", "protocol", protocol)
  about:set("servekit", "method", method)
  if model and known[model] then about:set("servekit", "model", model) end
  if label then
    if label == STABLE or label == CANARY then about:set("servekit", "label", label) end
    if find(label, "^[%w%._%-]+$") then about:set("servekit", "answered", label) end
  end
  if version and find(version, "^%d+$") then about:set("servekit", "version", version) end
end

local function refuse(handle, protocol, status, text)
  if protocol == "grpc" then
    handle:respond({ [":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = status }, text)
  else
    handle:respond({ [":status"] = status }, text)
  end
end

local function take(handle, protocol, kind)
  handle:headers():replace("x-servekit-route", protocol .. "." .. kind)
  handle:clearRouteCache()
end

local function take_labelled(handle, protocol, split, label, method, model)
  if label == STABLE and COPIED[method] and split.mirror > 0 and math.random() * 100 < split.mirror then
    local escaped = model:gsub("[^%w%._%-]", function(c) return format("%%%02x", byte(c)) end)
    handle:headers():replace("x-servekit-copy", method .. "/" .. escaped)
    return take(handle, protocol, "copied")
  end
  take(handle, protocol, label)
end

local function take_named(handle, protocol, label)
  take(handle, protocol, (label == STABLE or label == CANARY) and label or "other")
end

-- REST --------------------------------------------------------------------------------------------------------------

local ROWS = "%s*:%s*%[%s*[^%]%s]"
local SURELY_ROWS = {
  '^%s*{%s*"instances"' .. ROWS,
  '^%s*{%s*"inputs"' .. ROWS,
  '^%s*{%s*"signature_name"%s*:%s*"[^"\\]*"%s*,%s*"instances"' .. ROWS,
  '^%s*{%s*"signature_name"%s*:%s*"[^"\\]*"%s*,%s*"inputs"' .. ROWS,
}

-- Place after the JSON value that begins at `i`; nil where there is none. `steps` is what it may still look at.
local function skipped(text, i, steps)
  local depth = 0
  while true do
    if steps.left <= 0 then return nil end
    steps.left = steps.left - 1
    local c = sub(text, i, i)
    if c == '"' then
      repeat
        i = find(text, '["\\]', i + 1)
        if not i then return nil end
        local escape = byte(text, i) == 92
        if escape then i = i + 1 end
      until not escape
      i = i + 1
    elseif c == "[" or c == "{" then
      depth, i = depth + 1, i + 1
    elseif c == "]" or c == "}" then
      depth, i = depth - 1, i + 1
    elseif c == "" then
      return nil
    elseif depth == 0 then
      i = find(text, "[%s,%]}]", i) or #text + 1
    end
    if depth <= 0 then return i end
    i = find(text, '["%[%]{}]', i)
    if not i then return nil end
  end
end

-- Calls member(key, place of its value) until it says true, or the object that begins at `i` ends.
local function members(text, i, steps, member)
  i = match(text, "^%s*{%s*()", i)
  while i and sub(text, i, i) == '"' do
    local after = skipped(text, i, steps)
    local value = after and match(text, "^%s*:%s*()", after)
    if not value then return false end
    if member(sub(text, i + 1, after - 2), value) then return true end
    after = skipped(text, value, steps)
    i = after and match(text, "^%s*,%s*()", after)
  end
  return false
end

local NO_ROWS = "the request has no rows: with batching the model server would never answer it"
local TOO_MANY = "the request has too many keys for the gateway to look for rows; use the row format (instances)"

-- A TensorFlow Serving with batching never answers a predict request without rows, and loses a thread to it.
-- Why a request should not go there; nil for most.
local function unanswerable(body)
  local length = body:length()
  local head = body:getBytes(0, min(length, 2048))
  for _, pattern in ipairs(SURELY_ROWS) do
    if find(head, pattern) then return nil end
  end
  local text = length <= 2048 and head or body:getBytes(0, length)
  local i, keys, suspicious = 1, 0, false
  while true do -- "name": [] has to be somewhere, be it in a string
    i = find(text, ":", i, true)
    if not i then break end
    keys = keys + 1
    if keys > 10 * MOST_FIELDS then return TOO_MANY end
    if find(text, "^:%s*%[%s*%]", i) then suspicious = true break end
    i = i + 1
  end
  if not suspicious then return nil end
  local steps = { left = 10 * MOST_FIELDS }
  local function is_empty(_, value) return find(text, "^%[%s*%]", value) ~= nil end
  local start = sub(text, 1, 3) == "\239\187\191" and 4 or 1
  local found = members(text, start, steps, function(key, value)
    if key ~= "instances" and key ~= "inputs" and not find(key, "\\", 1, true) then return false end
    return is_empty(key, value) or (key ~= "instances" and members(text, value, steps, is_empty))
  end)
  return found and NO_ROWS or steps.left <= 0 and TOO_MANY or nil
end

local function on_rest(handle)
  local headers = handle:headers()
  local path, method = headers:get(":path") or "", headers:get(":method")
  local after = match(lower(path), "^/v1/models/[^/:?]+()")
  local query = find(path, "?", 1, true) or #path + 1
  if not after or after > query or (method ~= "POST" and method ~= "GET") then
    note(handle, "rest", "other")
    return take(handle, "rest", "other")
  end
  local model = sub(path, 12, after - 1):gsub("%%(%x%x)", function(code) return char(tonumber(code, 16)) end)
  local rest = sub(path, after, query - 1)
  local kind, named, verb = match(rest, "^/(%a+)/([^/:]*)(.*)$")
  kind = kind and lower(kind)
  local version = kind == "versions" and named or nil
  local label = kind == "labels" and named or nil
  verb = VERBS[(version or label) and verb or rest]
  local split = models[model]
  local unlabelled = split and not version and not label and rest ~= ""
  if not unlabelled then
    note(handle, "rest", verb or "status", model, label, version)
  else
    label = chosen(split, model, headers)
    note(handle, "rest", verb or "other", model, label)
    headers:replace(":path", sub(path, 1, after - 1) .. "/labels/" .. label .. sub(path, after))
  end
  if batching and verb == "predict" and method == "POST" then
    local body = handle:body()
    local reason = body and unanswerable(body)
    if reason then return refuse(handle, "rest", "400", reason) end
    if body and body:length() > LARGE then collectgarbage() end
  end
  if unlabelled then
    take_labelled(handle, "rest", split, label, verb, model)
  else
    take_named(handle, "rest", label)
  end
end

-- gRPC --------------------------------------------------------------------------------------------------------------

local MALFORMED = {}

local function malformed() error(MALFORMED) end

-- Reads a message in windows: a few kilobytes of it are ever copied, whatever its size.
local function reader(body, length)
  local window, from = body:getBytes(0, min(length, 4096)), 0
  return function(i, count)
    if i + count > length then malformed() end
    if i < from or i + count > from + #window then
      window, from = body:getBytes(i, min(length - i, count > 1024 and count or 1024)), i
    end
    return sub(window, i - from + 1, i - from + count), window, i - from + 1
  end
end

local function varint(read, i, stop)
  local value, unit = 0, 1
  for n = i, i + 9 do
    if n >= stop then malformed() end
    local _, window, at = read(n, 1)
    local b = byte(window, at)
    value = value + (b % 128) * unit
    if b < 128 then return value, n + 1 end
    unit = unit * 128
  end
  malformed()
end

-- Calls field(number, wire type, first, after, place of its tag) for each field of the message at [i, stop) until it says true.
local function fields(read, i, stop, budget, field)
  while i < stop do
    budget.left = budget.left - 1
    if budget.left < 0 then malformed() end
    local tag, first = varint(read, i, stop)
    local wire, after = tag % 8, nil
    if wire == 0 then _, after = varint(read, first, stop)
    elseif wire == 1 then after = first + 8
    elseif wire == 5 then after = first + 4
    elseif wire == 2 then
      local size
      size, first = varint(read, first, stop)
      after = first + size
    else malformed() end
    if after > stop then malformed() end
    if field((tag - wire) / 8, wire, first, after, i) then return true end
    i = after
  end
  return false
end

-- ModelSpec: name 1, version 2, version_label 4.
local function read_spec(read, first, after, budget, spec)
  fields(read, first, after, budget, function(number, wire, a, b)
    if wire ~= 2 then return end
    if number == 1 then
      spec.name = b - a <= 1024 and read(a, b - a) or nil
    elseif number == 2 then
      spec.version, spec.label = "0", nil
      fields(read, a, b, budget, function(inner, kind, at)
        if inner == 1 and kind == 0 then spec.version = format("%.0f", (varint(read, at, b))) end
      end)
    elseif number == 4 then
      spec.version, spec.label = nil, b - a <= 256 and read(a, b - a) or "?"
    end
  end)
end

-- TensorProto: tensor_shape 2; TensorShapeProto: dim 2; Dim: size 1. True where the first dimension is 0.
local function is_empty_tensor(read, first, after, budget)
  local empty = false
  fields(read, first, after, budget, function(number, wire, a, b)
    if number ~= 2 or wire ~= 2 then return end
    return fields(read, a, b, budget, function(inner, kind, c, d)
      if inner ~= 2 or kind ~= 2 then return end
      local size = 0
      fields(read, c, d, budget, function(which, what, at)
        if which == 1 and what == 0 then size = varint(read, at, d) end
      end)
      empty = size == 0
      return true
    end)
  end)
  return empty
end

-- PredictRequest, ClassificationRequest, RegressionRequest, GetModelMetadataRequest: model_spec 1, inputs 2 (a map).
local function read_request(read, length, method, spec, budget)
  local empty = false
  fields(read, 5, length, budget, function(number, wire, first, after)
    if wire ~= 2 then return end
    if number == 1 then
      read_spec(read, first, after, budget, spec)
    elseif number == 2 and method == "predict" and batching then
      fields(read, first, after, budget, function(inner, kind, a, b)
        if inner == 2 and kind == 2 and is_empty_tensor(read, a, b, budget) then empty = true end
      end)
    end
  end)
  return empty
end

-- MultiInferenceRequest: tasks 1; InferenceTask: model_spec 1. The first task's version counts for all.
local function read_tasks(read, length, spec, tasks, budget)
  fields(read, 5, length, budget, function(number, wire, first, after, tag)
    if number ~= 1 or wire ~= 2 then return end
    tasks[#tasks + 1] = { tag = tag, first = first, after = after }
    if #tasks > 1 then return end
    fields(read, first, after, budget, function(inner, kind, a, b)
      if inner == 1 and kind == 2 then read_spec(read, a, b, budget, spec) end
    end)
  end)
end

local function encoded(value)
  local text = ""
  while value >= 128 do
    text, value = text .. char(value % 128 + 128), bit.rshift(value, 7)
  end
  return text .. char(value)
end

-- In front of the client's own fields: protobuf merges the two, and what comes later wins.
local function labelled(raw, label, tasks)
  local spec = char(0x22, #label) .. label
  local field = char(0x0a, #spec) .. spec
  local parts, from = {}, 5
  for _, task in ipairs(tasks or {}) do
    parts[#parts + 1] = sub(raw, from + 1, task.tag)
    parts[#parts + 1] = "\10" .. encoded(#field + task.after - task.first) .. field .. sub(raw, task.first + 1, task.after)
    from = task.after
  end
  if not tasks then parts[1] = field end
  parts[#parts + 1] = sub(raw, from + 1)
  local message = table.concat(parts)
  local size = #message
  return char(0, bit.rshift(size, 24), bit.band(bit.rshift(size, 16), 255), bit.band(bit.rshift(size, 8), 255),
    bit.band(size, 255)) .. message
end

local function on_inference(handle, method)
  local body = handle:body()
  local length = body and body:length() or 0
  if length < 5 then
    return refuse(handle, "grpc", INVALID_ARGUMENT, "the request has no message")
  end
  local prefix = body:getBytes(0, 5)
  local size = ((byte(prefix, 2) * 256 + byte(prefix, 3)) * 256 + byte(prefix, 4)) * 256 + byte(prefix, 5)
  if byte(prefix, 1) ~= 0 then
    return refuse(handle, "grpc", UNIMPLEMENTED,
      "the gateway does not read compressed gRPC messages; send them without compression")
  elseif length > 5 + size then
    return refuse(handle, "grpc", UNIMPLEMENTED, "the gateway takes one message a call, no streams")
  end
  local spec, tasks, budget = {}, nil, { left = MOST_FIELDS }
  local read = reader(body, length)
  local fine, found = pcall(function()
    if length < 5 + size then malformed() end
    if method ~= "multi_inference" then return read_request(read, length, method, spec, budget) end
    tasks = {}
    read_tasks(read, length, spec, tasks, budget)
  end)
  if not fine and found ~= MALFORMED then error(found, 0) end
  if not fine then
    return refuse(handle, "grpc", INVALID_ARGUMENT, "the gateway cannot read this request: it is no protobuf message, "
      .. "or has too many fields")
  end
  local model = spec.name
  local split = model and models[model]
  if not split or spec.version or spec.label then
    note(handle, "grpc", method, model, spec.label, spec.version)
  end
  if found then
    return refuse(handle, "grpc", INVALID_ARGUMENT,
      "an input has no rows: with batching the model server would never answer it")
  end
  if not split or spec.version or spec.label then return take_named(handle, "grpc", spec.label) end
  local headers = handle:headers()
  local label = chosen(split, model, headers)
  note(handle, "grpc", method, model, label)
  local written = body:setBytes(labelled(body:getBytes(0, length), label, tasks))
  if headers:get("content-length") then headers:replace("content-length", tostring(written)) end
  if length > LARGE then collectgarbage() end
  take_labelled(handle, "grpc", split, label, method, model)
end

local function on_grpc(handle, path)
  local service, name = match(path, "^/([^/]+)/([^/]+)$")
  if service == INFERENCE and METHODS[name] then
    note(handle, "grpc", METHODS[name])
    return on_inference(handle, METHODS[name])
  end
  note(handle, "grpc", "other")
  if service == "tensorflow.serving.ModelService" and name == "GetModelStatus" or service == "grpc.health.v1.Health" then
    note(handle, "grpc", "status")
    take(handle, "grpc", "other")
  elseif service == "tensorflow.serving.ModelService" then
    refuse(handle, "grpc", PERMISSION_DENIED,
      "the gateway does not let the model configuration be replaced; edit config/serving.yaml, then: servekit apply")
  elseif service == "tensorflow.ProfilerService" or service == "tensorflow.ProfileAnalysis" then
    refuse(handle, "grpc", PERMISSION_DENIED, "the gateway does not let the profiler be used")
  elseif service == INFERENCE then
    refuse(handle, "grpc", UNIMPLEMENTED, "the gateway takes one message a call, no streams")
  else
    refuse(handle, "grpc", UNIMPLEMENTED, "the gateway knows no such method")
  end
end

function envoy_on_request(handle)
  read_context(handle:filterContext())
  local headers = handle:headers()
  local kind = headers:get("content-type")
  if kind and sub(kind, 1, 16) == "application/grpc" then
    on_grpc(handle, headers:get(":path") or "")
  else
    on_rest(handle)
  end
end
