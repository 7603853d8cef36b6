import * as oauth from 'oauth4webapi'
import { fetch, privateKey, report, settings } from './setup.mjs'

const options = { [oauth.customFetch]: fetch }
const issuer = new URL(settings.issuer)
const as = await oauth.processDiscoveryResponse(issuer,
  await oauth.discoveryRequest(issuer, { ...options, algorithm: 'oauth2' }))

const client = { client_id: settings.client_id, use_mtls_endpoint_aliases: !settings.jwk }
const auth = settings.jwk ? oauth.PrivateKeyJwt(await privateKey()) : oauth.TlsClientAuth()
const DPoP = settings.dpop ? oauth.DPoP(client, await oauth.generateKeyPair('ES256')) : undefined

// The nonce challenge of RFC 9449 section 8 is answered once; the handle remembers the nonce.
async function withNonce(request) {
  try {
    return await request()
  } catch (err) {
    if (DPoP && oauth.isDPoPNonceError(err)) return request()
    throw err
  }
}

const token = await withNonce(async () => oauth.processClientCredentialsResponse(as, client,
  await oauth.clientCredentialsGrantRequest(as, client, auth, new URLSearchParams(), { ...options, DPoP })))
const resource = await withNonce(() => oauth.protectedResourceRequest(
  token.access_token, 'GET', new URL(settings.resource), undefined, undefined, { ...options, DPoP }))

const introspection = await oauth.processIntrospectionResponse(as, client,
  await oauth.introspectionRequest(as, client, auth, token.access_token, options))

await report({ token, resource, introspection })
