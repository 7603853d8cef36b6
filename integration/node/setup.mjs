// What both clients share: settings from the test, and a fetch that trusts the CA's root and shows the
// client's certificate, unless the client has a key to sign assertions with.
import { webcrypto } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Agent, fetch as undiciFetch } from 'undici'

// Node 18 has Web Crypto, but not among its globals.
globalThis.crypto ??= webcrypto
globalThis.CryptoKey ??= webcrypto.CryptoKey

export const settings = JSON.parse(process.env.PKID_TEST)

const dispatcher = new Agent({
  connect: {
    ca: readFileSync(`${settings.dir}/root.crt`),
    ...(!settings.jwk && {
      cert: readFileSync(`${settings.dir}/client.crt`),
      key: readFileSync(`${settings.dir}/client.key`),
    }),
  },
})

export const privateKey = async () => ({
  kid: settings.jwk.kid,
  key: await crypto.subtle.importKey('jwk', settings.jwk, { name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign']),
})

export const fetch = (url, init) => undiciFetch(url, { ...init, dispatcher })

// report prints what the test checks: the token, its type, and how the resource server answered, first with
// the token as it was meant to be used and then as a bearer token on a connection without the certificate, and
// what introspection says of it.
export async function report({ token, resource, introspection }) {
  const plain = new Agent({ connect: { ca: readFileSync(`${settings.dir}/root.crt`) } })
  const stolen = await undiciFetch(settings.resource, {
    dispatcher: plain,
    headers: { authorization: `Bearer ${token.access_token}` },
  })
  console.log(JSON.stringify({
    token_type: token.token_type,
    access_token: token.access_token,
    resource: resource.status,
    body: await resource.text(),
    stolen: stolen.status,
    introspection,
    challenge: stolen.headers.get('www-authenticate'),
  }))
}
