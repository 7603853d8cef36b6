import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as jose from 'jose'
import { MemoryReplay, normalURL } from '../src/verifier.js'
import { ath, audience, clientJWK, clientKey, jkt, now, outcome, proof, request, token, url, verifier } from './helpers.js'

const text = await token({ cnf: { jkt } })
const send = (dpop, more) => request({ authorization: `DPoP ${text}`, ...(dpop && { dpop }) }, more)

test('F03 a DPoP-bound token with a fresh proof is let in, once', async () => {
  const v = verifier()
  const one = await proof(text)
  assert.equal(await outcome(v, send(one)), 'shop')
  assert.equal(await outcome(v, send(one)), 'invalid_dpop_proof') // E27
  assert.equal(await outcome(v, send(await proof(text))), 'shop')
})

test('proofs that are taken', async (t) => {
  const cases = {
    'D09 query and fragment': await proof(text, { htu: `${url}?a=b#c` }),
    'D13 another spelling': await proof(text, { htu: 'HTTPS://API.Example:443/x/../%6Frders' }),
    'D15 what is not known': await proof(text, { x: 1 }, { x: 1 }),
    'exp and nbf': await proof(text, { exp: now - 5, nbf: now - 5 }),
    'E21 slightly in the future': await proof(text, { iat: now + 10 }),
    'D11 as old as may be': await proof(text, { iat: now - 70 }),
    'a fraction of a second': await proof(text, { iat: now + 0.5 }),
    'a nonce that nobody asked for': await proof(text),
  }
  for (const [name, dpop] of Object.entries(cases)) {
    await t.test(name, async () => assert.equal(await outcome(verifier(), send(dpop)), 'shop'))
  }
})

test('proofs that are refused', async (t) => {
  const other = await jose.generateKeyPair('ES256', { extractable: true })
  const p384 = await jose.generateKeyPair('ES384', { extractable: true })
  const small = { kty: 'RSA', e: 'AQAB', n: Buffer.alloc(128, 0xff).toString('base64url') }
  const good = await proof(text)
  const [header, payload, signature] = good.split('.')
  const withHeader = (h) => `${jose.base64url.encode(JSON.stringify({ typ: 'dpop+jwt', alg: 'ES256', jwk: clientJWK, ...h }))}.${payload}.${signature}`
  const cases = {
    'D01 none': undefined,
    'D01 two': [good, await proof(text)],
    'D01 folded': `${good}, ${await proof(text)}`,
    'D02 no JWT': 'opaque',
    'D02 five parts': 'a.b.c.d.e',
    'D02 too long': `${header}.${'a'.repeat(8 << 10)}.${signature}`,
    'D03 no jti': await proof(text, { jti: undefined }),
    'D03 no htm': await proof(text, { htm: undefined }),
    'D03 no htu': await proof(text, { htu: undefined }),
    'D03 no iat': await proof(text, { iat: undefined }),
    'D03 no ath': await proof(text, { ath: undefined }),
    'D03 jti a number': await proof(text, { jti: 1 }),
    'D03 iat a string': withHeader({}).replace(payload, jose.base64url.encode(JSON.stringify({ jti: 'a', htm: 'GET', htu: url, iat: `${now}`, ath: ath(text) }))),
    'E20 jti too long': await proof(text, { jti: 'a'.repeat(257) }),
    'D04 typ': await proof(text, {}, { typ: 'JWT' }),
    'D04 typ a number': withHeader({ typ: 1 }),
    'D04 typ an object': withHeader({ typ: {} }),
    'D05 none': withHeader({ alg: 'none' }),
    'D05 HS256': withHeader({ alg: 'HS256' }),
    'D05 RS256': withHeader({ alg: 'RS256' }),
    'D06 signature': `${header}.${payload}.${signature.replace(/^./, (c) => (c === 'A' ? 'B' : 'A'))}`,
    'D07 private': await proof(text, {}, { jwk: await jose.exportJWK(clientKey.privateKey) }),
    'D07 a symmetric key': withHeader({ jwk: { kty: 'oct', k: 'AAAA' } }),
    'no jwk': await proof(text, {}, { jwk: undefined }),
    'jwk an array': withHeader({ jwk: [] }),
    'D08 htm': await proof(text, { htm: 'POST' }),
    'D08 htm in lower case': await proof(text, { htm: 'get' }),
    'D09 another path': await proof(text, { htu: `${url}/` }),
    'D09 another host': await proof(text, { htu: 'https://evil.example/orders' }),
    'D09 no URL': await proof(text, { htu: '/orders' }),
    'D11 too old': await proof(text, { iat: now - 71 }),
    'D11 too new': await proof(text, { iat: now + 11 }),
    'D12 ath of another token': await proof(text, { ath: ath('another') }),
    'D16 alg and curve do not fit': await proof(text, {}, { alg: 'ES384' }, p384.privateKey),
    'D17 crit': withHeader({ crit: ['x'], x: 1 }),
  }
  for (const [name, dpop] of Object.entries(cases)) {
    await t.test(name, async () => assert.equal(await outcome(verifier(), send(dpop)), 'invalid_dpop_proof'))
  }
  for (const [name, jwk, want] of [
    ['F02 another key', await jose.exportJWK(other.publicKey), 'invalid_token'], // RFC 9449 section 7.1
    ['D16 not on the curve', { ...clientJWK, y: clientJWK.x }, 'invalid_dpop_proof'],
    ['D16 a small RSA key', small, 'invalid_dpop_proof'],
  ]) {
    await t.test(name, async () => {
      const dpop = await proof(text, {}, { jwk }, other.privateKey)
      assert.equal(await outcome(verifier(), send(dpop)), want)
    })
  }
  await t.test('D16 a key that is none, whose thumbprint the token has', async () => {
    for (const [jwk, alg] of [[{ ...clientJWK, y: clientJWK.x }, 'ES256'], [small, 'PS256']]) {
      const forged = await token({ cnf: { jkt: await jose.calculateJwkThumbprint(jwk) } })
      const claims = jose.base64url.encode(JSON.stringify({ jti: 'a', htm: 'GET', htu: url, iat: now, ath: ath(forged) }))
      const dpop = `${jose.base64url.encode(JSON.stringify({ typ: 'dpop+jwt', alg, jwk }))}.${claims}.${signature}`
      assert.equal(await outcome(verifier(), request({ authorization: `DPoP ${forged}`, dpop })), 'invalid_dpop_proof')
    }
  })
})

test('F12 a nonce that is demanded', async () => {
  const v = verifier({ requireNonce: true })
  const refused = await v.verify(send(await proof(text))).catch((err) => err)
  assert.equal(refused.code, 'use_dpop_nonce')
  assert.match(refused.nonce, /^[A-Za-z0-9_-]{43}$/) // E14
  const { nonce } = await v.verify(send(await proof(text, { nonce: refused.nonce })))
  assert.equal(nonce, undefined)
  for (const bad of ['x', refused.nonce.toLowerCase(), `${refused.nonce} `, 7]) {
    assert.equal(await outcome(v, send(await proof(text, { nonce: bad }))), 'use_dpop_nonce') // E13
  }
  v.clock.now += 120 // an old one still holds for a while, and the answer carries the next
  const later = await v.verify(send(await proof(text, { nonce: refused.nonce, iat: now + 120 })))
  assert.match(later.nonce, /^[A-Za-z0-9_-]{43}$/)
  assert.notEqual(later.nonce, refused.nonce)
  v.clock.now += 120
  assert.equal(await outcome(v, send(await proof(text, { nonce: refused.nonce, iat: now + 240 }))), 'use_dpop_nonce')
})

test('a proof that may have been used before the start needs a nonce of this process', async () => {
  const v = verifier({ now: () => now })
  const refused = await v.verify(send(await proof(text))).catch((err) => err)
  assert.equal(refused.code, 'use_dpop_nonce')
  const stranger = await verifier({ now: () => now }).verify(send(await proof(text))).catch((err) => err)
  assert.equal(await outcome(v, send(await proof(text, { nonce: stranger.nonce }))), 'use_dpop_nonce')
  assert.equal(await outcome(v, send(await proof(text, { nonce: refused.nonce }))), 'shop')
})

test('of identical proofs at once, one is let in', async () => {
  const v = verifier()
  const one = await proof(text)
  const outcomes = await Promise.all(Array.from({ length: 50 }, () => outcome(v, send(one))))
  assert.equal(outcomes.filter((o) => o === 'shop').length, 1)
})

test('a memory of proofs that is full or away lets nobody in', async () => {
  const v = verifier({ maxProofs: 1 })
  assert.equal(await outcome(v, send(await proof(text))), 'shop')
  assert.equal(await outcome(v, send(await proof(text))), 'temporarily_unavailable')
  const away = verifier({ replay: { use: async () => { throw new Error('away') } } })
  assert.equal(await outcome(away, send(await proof(text))), 'temporarily_unavailable')
})

test('E27 a use is remembered for as long as it must, and forgotten then', () => {
  let clock = 1000
  const m = new MemoryReplay(2, () => clock)
  assert.equal(m.use('a', 1080), 'first')
  clock = 1080.9
  assert.equal(m.use('a', 1080), 'again')
  assert.equal(m.use('b', 1090), 'first')
  assert.equal(m.use('c', 1090), 'full')
  clock = 1081
  assert.equal(m.use('c', 1090), 'first')
  assert.equal(m.use('a', 1080), 'again') // what ended is not known any more, and not taken for new
  clock = 900 // the clock was ahead
  assert.equal(m.use('d', 980), 'full')
})

test('F14 htu is compared with the public URL, whatever the request says of itself', async () => {
  const v = verifier({ baseURL: 'https://public.example/v1/' })
  const req = request({ authorization: `DPoP ${text}`, dpop: await proof(text, { htu: 'https://public.example/v1/orders' }), host: 'evil.example' })
  assert.equal(await outcome(v, req), 'shop')
  const mounted = send(await proof(text, { htu: `${audience}/api/orders` }))
  mounted.originalUrl = '/api/orders?x' // as Express keeps it where a router is mounted
  assert.equal(await outcome(verifier(), mounted), 'shop')
})

test('D13 the normal form of URLs', () => {
  for (const [raw, want] of [
    ['HTTPS://API.Example:443', 'https://api.example/'],
    ['http://api.example:80/a', 'http://api.example/a'],
    ['https://api.example:8443/%7ea/./b/../c%2f%2Fd?x#y', 'https://api.example:8443/~a/c%2F%2Fd'],
    ['https://api.example//a', 'https://api.example//a'],
    ['https://[::1]:443/a', 'https://[::1]/a'],
    ['https://user@api.example/', undefined], ['https:/api.example', undefined], ['https:api.example', undefined],
    ['https://api.example\\a', undefined], ['https://api.example/ a', undefined], ['https://bücher.example/', undefined],
    ['https://api.example/%zz', undefined], ['ftp://api.example/', undefined], ['/a', undefined], ['', undefined], [7, undefined],
    [`https://api.example/${'a'.repeat(2048)}`, undefined],
  ]) assert.equal(normalURL(raw), want, String(raw).slice(0, 60))
})
