-- Which label a request gets, what is said of it to metrics and answers, and its route.
local bit = require("bit")
local byte, find, format, lower, match = string.byte, string.find, string.format, string.lower, string.match
local min = math.min

local STABLE, CANARY = "stable", "canary"
local COPIED = { predict = true, classify = true, regress = true }

math.randomseed(os.time() + tonumber(match(tostring({}), "0x(%x+)") or "0", 16) % 2147483647)

-- What the route file says: kept until its generation changes.
local generation, models, known, batching

local function read(context)
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

local function split_of(model) return models[model] end

local function rows_matter() return batching end

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

-- For metrics and the answer's headers. In one go: what Envoy keeps is copied at each.
local function note(handle, method, model, label, version)
  handle:streamInfo():dynamicMetadata():set("servekit", "request", {
    method = method,
    model = model and known[model] and model or nil,
    label = (label == STABLE or label == CANARY) and label or nil,
    answered = label and find(label, "^[%w%._%-]+$") and label or nil,
    version = version and find(version, "^%d+$") and version or nil,
  })
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

return {
  LARGE = 1048576, -- bytes of a request from which on Lua's memory is given back at once
  read = read,
  split_of = split_of,
  rows_matter = rows_matter,
  chosen = chosen,
  note = note,
  take = take,
  take_labelled = take_labelled,
  take_named = take_named,
}
