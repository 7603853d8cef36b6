import * as client from 'openid-client'
import { fetch, report, settings } from './setup.mjs'

const config = await client.discovery(new URL(settings.issuer), settings.client_id,
  { use_mtls_endpoint_aliases: true }, client.TlsClientAuth(), { [client.customFetch]: fetch })
config[client.customFetch] = fetch

const DPoP = settings.dpop ? client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256')) : undefined

const token = await client.clientCredentialsGrant(config, {}, { DPoP })
const resource = await client.fetchProtectedResource(
  config, token.access_token, new URL(settings.resource), 'GET', undefined, undefined, { DPoP })

await report({ token, resource })
