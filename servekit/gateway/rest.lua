-- Gives every REST inference request without version and label one of its model's labels, and refuses what it cannot
-- read. The last thing that it does is to name the route (header x-servekit-route). Where it fails before, the route
-- file's last route answers 503: nothing reaches the model server undecided.
local labels, json_rows = require("labels"), require("json_rows")
local char, find, lower, match, sub = string.char, string.find, string.lower, string.match, string.sub

local VERBS = { [":predict"] = "predict", [":classify"] = "classify", [":regress"] = "regress", ["/metadata"] = "metadata" }

local MOST_PATHS, LONGEST_PATH = 256, 256 -- of those kept, read

local function unescaped(text)
  return (text:gsub("%%(%x%x)", function(code) return char(tonumber(code, 16)) end))
end

-- What a path asks for: model, version or label, verb, and where a label goes (`at`). No model: none of ours.
local function read(path)
  local after = match(lower(path), "^/v1/models/[^/:?]+()")
  local query = find(path, "?", 1, true) or #path + 1
  if not after or after > query then return {} end
  local rest = sub(path, after, query - 1)
  local kind, named, verb = match(rest, "^/(%a+)/([^/:]*)(.*)$")
  kind = kind and lower(kind)
  local version = kind == "versions" and named or nil
  local label = kind == "labels" and named or nil
  return {
    model = unescaped(sub(path, 12, after - 1)),
    version = version,
    label = label,
    verb = VERBS[(version or label) and verb or rest],
    at = not version and not label and rest ~= "" and after or nil,
  }
end

-- Most requests have one of a few paths.
local paths, count = {}, 0

local function known(path)
  local found = paths[path]
  if found then return found end
  found = read(path)
  if #path <= LONGEST_PATH then
    if count >= MOST_PATHS then paths, count = {}, 0 end
    paths[path], count = found, count + 1
  end
  return found
end

function envoy_on_request(handle)
  labels.read(handle:filterContext())
  local headers = handle:headers()
  local path, method = headers:get(":path") or "", headers:get(":method")
  local asked = known(path)
  if not asked.model or (method ~= "POST" and method ~= "GET") then
    labels.note(handle, "other")
    return labels.take(handle, "rest", "other")
  end
  local split = asked.at and labels.split_of(asked.model)
  local label, verb = asked.label, asked.verb
  if split then
    label = labels.chosen(split, asked.model, headers)
    labels.note(handle, verb or "other", asked.model, label)
    headers:replace(":path", sub(path, 1, asked.at - 1) .. "/labels/" .. label .. sub(path, asked.at))
  else
    labels.note(handle, verb or "status", asked.model, label, asked.version)
  end
  if verb == "predict" and method == "POST" and labels.rows_matter() then
    local body = handle:body()
    local reason = body and json_rows.unanswerable(body)
    if reason then return handle:respond({ [":status"] = "400" }, reason) end
    if body and body:length() > labels.LARGE then collectgarbage() end
  end
  if split then
    labels.take_labelled(handle, "rest", split, label, verb, asked.model)
  else
    labels.take_named(handle, "rest", label)
  end
end
