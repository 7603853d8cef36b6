// An issuer, clients and requests for the tests, without a network.
import '../src/webcrypto.js'
import { execFileSync } from 'node:child_process'
import { X509Certificate, createHash, randomUUID } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as jose from 'jose'
import { Verifier } from '../src/verifier.js'

export const issuer = 'https://pki.example'
export const audience = 'https://api.example'
export const url = `${audience}/orders`
export const now = 1_600_000_000 // while the certificate below is valid

/** RFC 8705 appendix A, with its thumbprint. */
export const certificate = new X509Certificate(`-----BEGIN CERTIFICATE-----
MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAx
ODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwEbXRsczBZMBMGByqG
SM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ
/Au08/coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwID
SQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOV
bUlJSGQgjwD5vaUaKlLR50Q2DmFfQj1L+SY=
-----END CERTIFICATE-----`)
export const x5t = 'A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0'

export const issuerKey = await jose.generateKeyPair('ES256')
export const clientKey = await jose.generateKeyPair('ES256', { extractable: true })
export const clientJWK = await jose.exportJWK(clientKey.publicKey)
export const jkt = await jose.calculateJwkThumbprint(clientJWK)

/**
 * A verifier that started long before now, so that its memory of proofs knows of all there are.
 * @param {Partial<import('../src/verifier.js').Config>} [config]
 */
export function verifier(config) {
  const clock = { now: now - 3600 }
  const v = new Verifier({ issuer, audience, keys: issuerKey.publicKey, now: () => clock.now, ...config })
  clock.now = now
  return Object.assign(v, { clock })
}

/**
 * A token with the given claims beside the usual; undefined takes one away.
 * @param {jose.JWTPayload} [claims]
 * @param {object} [header]
 */
export const token = (claims, header, key = issuerKey.privateKey) =>
  new jose.SignJWT({ iss: issuer, aud: audience, sub: 'shop', client_id: 'shop', jti: 'one', iat: now, exp: now + 300, ...claims })
    .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', ...header }).sign(key)

export const ath = (accessToken) => createHash('sha256').update(accessToken).digest('base64url')

/**
 * A proof for GET url.
 * @param {string} accessToken
 * @param {jose.JWTPayload} [claims]
 * @param {object} [header]
 */
export const proof = (accessToken, claims, header, key = clientKey.privateKey) =>
  new jose.SignJWT({ jti: randomUUID(), htm: 'GET', htu: url, iat: now, ath: ath(accessToken), ...claims })
    .setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk: clientJWK, ...header }).sign(key)

/**
 * A request as node:http gives it to a handler.
 * @param {Record<string, string | string[]>} headers
 * @param {{ method?: string, url?: string, certificate?: X509Certificate }} [more]
 */
export function request(headers, { method = 'GET', url = '/orders', certificate } = {}) {
  const distinct = Object.fromEntries(Object.entries(headers).map(([name, v]) => [name, [v].flat()]))
  return { method, url, headers, headersDistinct: distinct, socket: { getPeerX509Certificate: () => certificate } }
}

/** The code of the refusal of a request, or the client that is let in. */
export async function outcome(v, req) {
  try {
    return (await v.verify(req)).claims.client_id
  } catch (err) {
    if (err.code === undefined) throw err
    return err.code
  }
}

/** A key and a certificate for localhost; undefined where there is no openssl. */
export function selfSigned() {
  const dir = mkdtempSync(join(tmpdir(), 'pkid-node-'))
  try {
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1', '-subj', '/CN=localhost',
      '-addext', 'subjectAltName=DNS:localhost', '-keyout', join(dir, 'key'), '-out', join(dir, 'cert')], { stdio: 'ignore' })
    return { key: readFileSync(join(dir, 'key')), cert: readFileSync(join(dir, 'cert')) }
  } catch (err) {
    if (err.code === 'ENOENT') return undefined
    throw err
  } finally {
    rmSync(dir, { recursive: true })
  }
}
