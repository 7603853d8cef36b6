import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as jose from 'jose'
import { Refusal, Verifier } from '../src/verifier.js'
import { audience, certificate, issuer, issuerKey, jkt, now, outcome, proof, request, token, verifier, x5t } from './helpers.js'

const bound = { cnf: { 'x5t#S256': x5t } }
const mtls = async (claims, header, more = { certificate }) =>
  request({ authorization: `Bearer ${await token({ ...bound, ...claims }, header)}` }, more)

test('B02 a certificate-bound token with its certificate is let in', async () => {
  assert.equal(await outcome(verifier(), await mtls()), 'shop')
})

test('tokens that are refused', async (t) => {
  const other = await jose.generateKeyPair('ES256')
  const rsa = await jose.generateKeyPair('RS256')
  const cases = {
    'signed by another': request({ authorization: `Bearer ${await token(bound, {}, other.privateKey)}` }, { certificate }),
    'RS256': request({ authorization: `Bearer ${await token(bound, { alg: 'RS256' }, rsa.privateKey)}` }, { certificate }),
    'HS256': request({ authorization: `Bearer ${await token(bound, { alg: 'HS256' }, new Uint8Array(32))}` }, { certificate }),
    'alg none': request({ authorization: `Bearer ${new jose.UnsecuredJWT({ iss: issuer, aud: audience }).encode()}` }, { certificate }),
    'typ of an ID token': await mtls({}, { typ: 'JWT' }),
    'no typ': await mtls({}, { typ: undefined }),
    'crit': await mtls({}, { crit: ['b64'], b64: true }),
    'another issuer': await mtls({ iss: 'https://pki.example/' }),
    'another audience': await mtls({ aud: 'https://other.example' }),
    'no audience': await mtls({ aud: undefined }),
    'expired': await mtls({ exp: now - 11 }),
    'no exp': await mtls({ exp: undefined }),
    'not yet valid': await mtls({ nbf: now + 11 }),
    'dated in the future': await mtls({ iat: now + 11 }),
    'too long': request({ authorization: `Bearer ${'a'.repeat((16 << 10) + 1)}` }),
    'no JWT': request({ authorization: 'Bearer opaque' }),
    'B06 no certificate': await mtls({}, {}, {}),
    'B06 another certificate': await mtls({ cnf: { 'x5t#S256': x5t.replace('A', 'B') } }),
    'B06 bound to nothing': await mtls({ cnf: undefined }),
    'B07 unknown cnf alone': await mtls({ cnf: { kid: 'x' } }),
    'B07 empty cnf': await mtls({ cnf: {} }),
    'cnf null': await mtls({ cnf: null }),
    'cnf a string': await mtls({ cnf: x5t }),
    'B09 padded': await mtls({ cnf: { 'x5t#S256': `${x5t}=` } }),
    'B09 another spelling of the same octets': await mtls({ cnf: { 'x5t#S256': `${x5t.slice(0, -1)}1` } }),
    'B09 no string': await mtls({ cnf: { 'x5t#S256': 1 } }),
    'F06 DPoP-bound as Bearer': await mtls({ cnf: { jkt } }),
    'B08 both, without a proof': await mtls({ cnf: { 'x5t#S256': x5t, jkt } }),
  }
  for (const [name, req] of Object.entries(cases)) {
    await t.test(name, async () => {
      assert.equal(await outcome(verifier(), req), 'invalid_token')
      if (req.headers.authorization.length < 2000 && name.startsWith('B0')) {
        const lenient = await outcome(verifier({ allowBearer: true }), req)
        assert.equal(lenient, name.endsWith('bound to nothing') ? 'shop' : 'invalid_token', 'with allowBearer')
      }
    })
  }
})

test('the certificate is judged by the clock on every request', async () => {
  for (const [at, want] of [[Date.parse(certificate.validTo) / 1000 + 1, 'invalid_token'], [Date.parse(certificate.validFrom) / 1000 - 11, 'invalid_token']]) {
    const v = verifier({ now: () => at })
    assert.equal(await outcome(v, await mtls({ iat: undefined, exp: at + 60 })), want)
  }
})

test('B08 both members of cnf must hold', async () => {
  const text = await token({ cnf: { 'x5t#S256': x5t, jkt } })
  const send = async (more) => request({ authorization: `DPoP ${text}`, dpop: await proof(text) }, more)
  assert.equal(await outcome(verifier(), await send({ certificate })), 'shop')
  assert.equal(await outcome(verifier(), await send({})), 'invalid_token')
})

test('requests that are refused before their token is read', async () => {
  const text = await token(bound)
  const good = { authorization: `Bearer ${text}` }
  for (const [req, want] of [
    [request({}), 'no_credentials'],
    [request({ authorization: 'Basic YTpi' }), 'no_credentials'],
    [request({ authorization: 'Bearer' }), 'invalid_request'],
    [request({ authorization: `Bearer ${text}, DPoP ${text}` }), 'invalid_request'], // F11
    [request({ authorization: [`Bearer ${text}`, `Bearer ${text}`] }), 'invalid_request'],
    [request(good, { url: '/orders?access_token=x' }), 'invalid_request'], // H91
    [request(good, { url: '/orders?access%5Ftoken=x' }), 'invalid_request'],
    [request({ ...good, 'client-cert': ':MII=:' }), 'invalid_request'], // A30
    [request({ ...good, 'x-forwarded-client-cert': '' }), 'invalid_request'],
    [request({ ...good, 'ssl_client_cert': '' }), 'invalid_request'],
    [request({ ...good, 'x-forwarded-tls-client-cert-info': '' }), 'invalid_request'],
    [request({ ...good, authorization: `DPoP ${text}` }, { certificate }), 'invalid_token'],
  ]) assert.equal(await outcome(verifier(), req), want, JSON.stringify(req.headers).slice(0, 80))
})

test('scope, revocation and what cannot be checked', async () => {
  assert.equal(await outcome(verifier({ requiredScopes: ['a', 'b'] }), await mtls({ scope: 'b a' })), 'shop')
  assert.equal(await outcome(verifier({ requiredScopes: ['a', 'b'] }), await mtls({ scope: 'ab b' })), 'insufficient_scope')
  const seen = []
  assert.equal(await outcome(verifier({ revocation: { check: (what) => { seen.push(what); return 'the certificate was revoked' } } }), await mtls()), 'invalid_token')
  assert.equal(seen[0].certificate.fingerprint256, certificate.fingerprint256)
  assert.equal(seen[0].claims.client_id, 'shop')
  assert.equal(await outcome(verifier({ revocation: { check: () => { throw new Error('stale') } } }), await mtls()), 'temporarily_unavailable')
  const dpop = await token({ cnf: { jkt } })
  for (const use of [() => 'full', () => undefined, () => { throw new Error('away') }]) {
    const req = request({ authorization: `DPoP ${dpop}`, dpop: await proof(dpop) })
    assert.equal(await outcome(verifier({ replay: { use } }), req), 'temporarily_unavailable')
  }
  const away = () => { throw new TypeError('fetch failed') }
  assert.equal(await outcome(verifier({ keys: away }), await mtls()), 'temporarily_unavailable')
})

test('configurations that are refused', () => {
  const good = { issuer, audience, keys: issuerKey.publicKey }
  for (const bad of [
    { issuer: '' }, { audience: '' }, { audience: 'urn:orders' }, { tolerance: 61 }, { algorithms: ['HS256'] }, { algorithms: [] },
    { algorithms: ['none'] }, { baseURL: 'https://api.example/?x' }, { nonceKey: new Uint8Array(32) }, { proofMaxAge: -1 },
    { issuer: 'http://pki.example', keys: undefined },
  ]) assert.throws(() => new Verifier({ ...good, ...bad }), JSON.stringify(bad))
  new Verifier({ ...good, audience: 'urn:orders', noDPoP: true })
  new Verifier({ ...good, audience: 'urn:orders', baseURL: 'https://api.example/v1/' })
})

test('F07 F11 the challenges', () => {
  const sent = (code, scheme, algs = ['ES256'], more = {}) => {
    const headers = {}
    const res = { setHeader: (name, value) => { headers[name] = value }, end: (body) => { headers.body = body } }
    const refusal = new Refusal(code, 'why "so"\nand\\so', more)
    refusal.scheme = scheme
    refusal.send(res, { realm: audience, algs, scopes: ['a'] })
    return { status: res.statusCode, ...headers }
  }
  assert.deepEqual(sent('no_credentials')['WWW-Authenticate'], [`Bearer realm="${audience}"`, 'DPoP algs="ES256"'])
  const failed = `error="invalid_token", error_description="why 'so'?and'so"`
  assert.deepEqual(sent('invalid_token', 'DPoP')['WWW-Authenticate'], [`Bearer realm="${audience}"`, `DPoP algs="ES256", ${failed}`])
  assert.deepEqual(sent('invalid_token', 'Bearer')['WWW-Authenticate'], [`Bearer realm="${audience}", ${failed}`, 'DPoP algs="ES256"'])
  assert.deepEqual(sent('invalid_token', 'DPoP', null)['WWW-Authenticate'], [`Bearer realm="${audience}", ${failed}`])
  const malformed = sent('invalid_request')
  assert.equal(malformed.status, 400)
  assert.ok(malformed['WWW-Authenticate'].every((c) => c.includes('error="invalid_request"')))
  const nonce = sent('use_dpop_nonce', 'DPoP', ['ES256'], { nonce: 'abc' })
  assert.equal(nonce['DPoP-Nonce'], 'abc') // F12
  assert.match(nonce['Access-Control-Expose-Headers'], /DPoP-Nonce/) // F13
  assert.match(sent('insufficient_scope', 'Bearer')['WWW-Authenticate'][0], /scope="a"/)
  const away = sent('temporarily_unavailable', 'Bearer')
  assert.equal(away.status, 503)
  assert.equal(away['WWW-Authenticate'], undefined)
})
