-- Asks pkid's forward-auth endpoint whether a request may pass, and tells the API behind Apache who the client is.
-- Everything that goes wrong refuses the request.

local http = require "socket.http"
local ltn12 = require "ltn12"

local url = "http://127.0.0.1:9180/v1/verify" -- of `pkid verify-proxy`
http.TIMEOUT = 5 -- seconds, for each step

-- What pkid says of the client.
local identity = {
  "Pkid-Client-Id", "Pkid-Subject", "Pkid-Scope", "Pkid-Token-Id",
  "Pkid-Expires", "Pkid-Binding", "Pkid-Thumbprint", "Pkid-Jkt",
}

-- What the client is told of a refusal.
local told = { "WWW-Authenticate", "DPoP-Nonce", "Cache-Control", "Access-Control-Expose-Headers" }

local function ask(r)
  local certificate = r:ssl_var_lookup("SSL_CLIENT_CERT")
  if certificate == "" then
    certificate = nil
  end
  return http.request {
    url = url,
    method = "GET",
    redirect = false,
    sink = ltn12.sink.null(),
    headers = {
      ["Authorization"] = r.headers_in["Authorization"],
      ["DPoP"] = r.headers_in["DPoP"],
      ["X-SSL-Client-Cert"] = certificate and certificate:gsub("%s*\n%s*", " "),
      ["X-Forwarded-Proto"] = "https",
      ["X-Forwarded-Host"] = r.headers_in["Host"],
      ["X-Forwarded-For"] = r.useragent_ip,
      ["X-Forwarded-Method"] = r.method,
      ["X-Forwarded-Uri"] = r.unparsed_uri,
    },
  }
end

-- Some servers take an underscore for a hyphen, and Pkid_Client_Id for what pkid says.
local function removeUnderscored(r)
  for name in pairs(r:headers_in_table()) do
    if name:find("_", 1, true) then
      r.headers_in[name] = nil
    end
  end
end

function verify(r)
  removeUnderscored(r)
  local ok, status, headers = ask(r)
  if not ok then
    r:err("asking pkid: " .. tostring(status))
    return 503
  end
  if status == 200 then
    for _, name in ipairs(identity) do
      local value = headers[name:lower()]
      if value == nil then
        r:err("asking pkid: an answer without " .. name)
        return 503
      end
      r.headers_in[name] = value
    end
    if headers["dpop-nonce"] then
      r.err_headers_out["DPoP-Nonce"] = headers["dpop-nonce"]
    end
    return apache2.OK
  end
  if status ~= 400 and status ~= 401 and status ~= 403 then
    r:err("asking pkid: status " .. tostring(status))
    return 503
  end
  for _, name in ipairs(told) do
    local value = headers[name:lower()]
    if value then
      r.err_headers_out[name] = value
    end
  end
  return status
end
