import * as oauth from 'oauth4webapi'
import { fetch, report, settings } from './setup.mjs'

const options = { [oauth.customFetch]: fetch }
const issuer = new URL(settings.issuer)
const as = await oauth.processDiscoveryResponse(issuer,
  await oauth.discoveryRequest(issuer, { ...options, algorithm: 'oauth2' }))

const client = { client_id: settings.client_id, use_mtls_endpoint_aliases: true }
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
  await oauth.clientCredentialsGrantRequest(as, client, oauth.TlsClientAuth(), new URLSearchParams(), { ...options, DPoP })))
const resource = await withNonce(() => oauth.protectedResourceRequest(
  token.access_token, 'GET', new URL(settings.resource), undefined, undefined, { ...options, DPoP }))

await report({ token, resource })
