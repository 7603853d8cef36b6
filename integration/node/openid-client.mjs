import * as client from 'openid-client'
import { fetch, privateKey, report, settings } from './setup.mjs'

const auth = settings.jwk ? client.PrivateKeyJwt(await privateKey()) : client.TlsClientAuth()
const config = await client.discovery(new URL(settings.issuer), settings.client_id,
  { use_mtls_endpoint_aliases: !settings.jwk }, auth, { [client.customFetch]: fetch })
config[client.customFetch] = fetch

const DPoP = settings.dpop ? client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256')) : undefined

const token = await client.clientCredentialsGrant(config, {}, { DPoP })
const resource = await client.fetchProtectedResource(
  config, token.access_token, new URL(settings.resource), 'GET', undefined, undefined, { DPoP })

const introspection = await client.tokenIntrospection(config, token.access_token)

await report({ token, resource, introspection })
