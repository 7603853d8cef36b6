-- Asks pkid's forward-auth endpoint whether a request may pass.
-- It sets txn.pkid_verified where it may, and else answers the client with pkid's refusal.

local url = os.getenv("PKID_VERIFY") or error("set PKID_VERIFY to the URL of pkid's forward-auth endpoint")

-- What pkid needs to know of the request, beside its method and URL. forward-auth.cfg has put all but the first two in place.
local asked = { "authorization", "dpop", "x-ssl-client-cert", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-for" }

-- What pkid says of the client.
local identity = {
  "pkid-client-id", "pkid-subject", "pkid-scope", "pkid-token-id",
  "pkid-expires", "pkid-binding", "pkid-thumbprint", "pkid-jkt",
}

-- What the client is told of a refusal.
local told = { "www-authenticate", "dpop-nonce", "content-type", "cache-control", "access-control-expose-headers", "retry-after" }

local refusals = { [400] = true, [401] = true, [403] = true }

-- every value of a header, for the client may have sent it more than once, which pkid is to see.
local function values(headers, name)
  local all = {}
  for _, value in pairs(headers[name] or {}) do
    all[#all + 1] = value
  end
  return all
end

local function unavailable(txn)
  txn:done(txn:reply { status = 503, headers = { ["retry-after"] = { "5" } } })
end

local function verify(txn)
  local sent = txn.http:req_get_headers()
  local headers = {
    ["x-forwarded-method"] = { txn.sf:method() },
    ["x-forwarded-uri"] = { txn.sf:pathq() },
  }
  for _, name in ipairs(asked) do
    local all = values(sent, name)
    if #all > 0 then
      headers[name] = all
    end
  end

  local answer = core.httpclient():get { url = url, headers = headers, timeout = 5000 }
  if answer == nil or answer.headers == nil then
    return unavailable(txn)
  end
  if answer.status == 200 then
    for _, name in ipairs(identity) do
      local value = values(answer.headers, name)[1]
      if value == nil then
        return unavailable(txn) -- it is not pkid that answers
      end
      txn.http:req_set_header(name, value)
    end
    local nonce = values(answer.headers, "dpop-nonce")[1]
    if nonce ~= nil then
      txn:set_var("txn.pkid_nonce", nonce)
    end
    txn:set_var("txn.pkid_verified", true)
    return
  end
  if not refusals[answer.status] then
    return unavailable(txn)
  end
  local reply = txn:reply { status = answer.status, body = answer.body }
  for _, name in ipairs(told) do
    for _, value in ipairs(values(answer.headers, name)) do
      reply:add_header(name, value)
    end
  end
  txn:done(reply)
end

core.register_action("pkid-verify", { "http-req" }, verify)
