-- Whether the JSON body of a predict request has rows. A TensorFlow Serving with batching never answers one without,
-- and loses a thread to it.
local byte, find, match, sub, min = string.byte, string.find, string.match, string.sub, math.min

local MOST_STEPS = 200000 -- so many keys of a JSON text are looked at
local PIECE = 65536 -- bytes: longer texts would get memory of their own from the system
local NO_ROWS = "the request has no rows: with batching the model server would never answer it"
local TOO_MANY = "the request has too many keys for the gateway to look for rows; use the row format (instances)"

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

-- Whether a key may have an empty list, somewhere: a text in which none has is done with. In pieces: a long text of its
-- own would cost more than the look at it. nil: too many keys.
local function is_suspicious(body, length)
  local keys = 0
  for from = 0, length - 1, PIECE do
    local piece = body:getBytes(from, min(PIECE, length - from))
    local i = find(piece, ":", 1, true)
    while i do
      keys = keys + 1
      if keys > MOST_STEPS then return nil end
      if find(piece, "^%s*%[%s*%]", i + 1) or find(piece, "^%s*%[?%s*$", i + 1) then return true end
      i = find(piece, ":", i + 1, true)
    end
  end
  return false
end

-- Why a request should not go there; nil for most.
local function unanswerable(body)
  local length = body:length()
  local head = body:getBytes(0, min(length, 1024))
  for _, pattern in ipairs(SURELY_ROWS) do
    if find(head, pattern) then return nil end
  end
  local suspicious = is_suspicious(body, length)
  if suspicious == nil then return TOO_MANY end
  if not suspicious then return nil end
  local text, steps = body:getBytes(0, length), { left = MOST_STEPS }
  local function is_empty(_, value) return find(text, "^%[%s*%]", value) ~= nil end
  local start = sub(text, 1, 3) == "\239\187\191" and 4 or 1
  local found = members(text, start, steps, function(key, value)
    if key ~= "instances" and key ~= "inputs" and not find(key, "\\", 1, true) then return false end
    return is_empty(key, value) or (key ~= "instances" and members(text, value, steps, is_empty))
  end)
  return found and NO_ROWS or steps.left <= 0 and TOO_MANY or nil
end

return { unanswerable = unanswerable }
