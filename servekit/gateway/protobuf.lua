-- Looks into a gRPC message, protobuf as it is on the wire, without unpacking it: the model that it names, and inputs
-- without rows. Places are counted from 0 and in the whole body, whose first 5 bytes are gRPC's own.
local byte, format, min, sub = string.byte, string.format, math.min, string.sub

local MOST_FIELDS = 20000

local MALFORMED = {}

local function malformed() error(MALFORMED) end

-- Reads in windows: a few kilobytes are ever copied, whatever the size.
local function reader(body, length, head)
  local window, from = head, 0
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

-- Calls field(number, wire type, first, after, place of its tag) for each field of the message at [i, stop) until it
-- says true.
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

-- PredictRequest, ClassificationRequest, RegressionRequest, GetModelMetadataRequest: model_spec 1; PredictRequest: inputs
-- 2 (a map). True where an input that matters has no rows.
local function read_request(read, length, spec, inputs_matter, budget)
  local empty = false
  fields(read, 5, length, budget, function(number, wire, first, after)
    if wire ~= 2 then return end
    if number == 1 then
      read_spec(read, first, after, budget, spec)
    elseif number == 2 and inputs_matter then
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

-- The model_spec's name, version and label; the tasks of a MultiInferenceRequest; whether an input has no rows.
-- `head`: the body's first bytes. nil for what is no message, or has too many fields.
local function look(body, length, head, method, rows_matter)
  local spec, tasks, empty, budget = {}, nil, false, { left = MOST_FIELDS }
  local read = reader(body, length, head)
  local fine, problem = pcall(function()
    if method == "multi_inference" then
      tasks = {}
      read_tasks(read, length, spec, tasks, budget)
    else
      empty = read_request(read, length, spec, rows_matter and method == "predict", budget)
    end
  end)
  if fine then return spec, tasks, empty end
  if problem ~= MALFORMED then error(problem, 0) end
end

return { look = look }
