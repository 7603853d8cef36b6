import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createServer } from 'node:https'
import { test } from 'node:test'
import { Known, Revocations, events } from '../src/revocations.js'
import { selfSigned } from './helpers.js'

const hash = (id) => createHash('sha256').update(id).digest('base64url')
const later = '2026-01-01T01:00:00Z'
const at = Date.parse('2026-01-01T00:00:00Z') / 1000
const claims = { client_id: 'shop', jti: 'one', iat: at }
const bound = { ...claims, cnf: { 'x5t#S256': 'AAA' } }

test('a revoked or held certificate, a disabled client and a revoked token count no more', () => {
  const k = new Known()
  assert.equal(k.check(bound), undefined)
  k.take('certificate', { 'x5t#S256': 'AAA', status: 'held', not_after: later })
  assert.match(k.check(bound), /held/)
  assert.equal(k.check(claims), undefined)
  k.take('certificate', { 'x5t#S256': 'AAA', status: 'good', not_after: later })
  assert.equal(k.check(bound), undefined)
  k.take('token', { token: hash('one'), until: later })
  assert.match(k.check(claims), /token was revoked/)
  assert.equal(k.check({ ...claims, jti: 'two' }), undefined)
  k.take('client', { client: hash('shop'), disabled: true, tokens_not_before: '0001-01-01T00:00:00Z', until: later })
  assert.match(k.check({ ...claims, jti: 'two' }), /disabled/)
  k.take('client', { client: hash('shop'), disabled: false, tokens_not_before: '2026-01-01T00:00:00.000000001Z', until: later })
  assert.match(k.check({ ...claims, jti: 'two' }), /disabled/) // enabled again: tokens from before stay dead
  assert.equal(k.check({ ...claims, jti: 'two', iat: at + 1 }), undefined)
  k.take('something new', {})
  k.sweep(Date.parse(later) + 120_001)
  assert.equal(k.size, 0)
})

test('what is older than what is known is refused', () => {
  const k = new Known(at * 1000 + 1000)
  assert.match(k.check(bound), /older/)
  assert.equal(k.check(claims), undefined)
  assert.equal(k.check({ ...bound, iat: at + 1 }), undefined)
  assert.match(k.check({ ...bound, iat: undefined }), /older/)
  k.take('token', { token: hash('two'), until: later })
  k.endAll(at * 1000 + 5000)
  assert.equal(k.size, 0)
  assert.match(k.check(claims), /ended/)
  assert.equal(k.check({ ...claims, iat: at + 5 }), undefined)
})

test('nothing is taken before the stream was heard', () => {
  assert.throws(() => new Revocations({ issuer: 'https://pki.example' }).check({ claims }), /not heard/)
  assert.throws(() => new Revocations({ issuer: 'http://pki.example' }))
})

test('events are read across pieces, and within bounds', async () => {
  const read = async (...pieces) => {
    const found = []
    for await (const e of events((async function* () { for (const p of pieces) yield new TextEncoder().encode(p) })())) found.push(e)
    return found
  }
  assert.deepEqual(await read(': hello\n\nevent: tok', 'en\nid: 7-a\nda', 'ta: {"token":"x"}\n', '\nevent: heartbeat\ndata: {}\n\nevent: cut\ndata: {'), [
    { event: 'token', id: '7-a', data: { token: 'x' } }, { event: 'heartbeat', id: undefined, data: {} },
  ])
  await assert.rejects(read('a'.repeat(20_000), 'b'), /too long/)
  await assert.rejects(read('data: {\n\n'))
})

test('a stream that is cut after a reset and before its heartbeat is begun anew', async (t) => {
  const tls = selfSigned()
  if (!tls) return t.skip('there is no openssl')
  const event = (name, data, id) => `event: ${name}\n${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`
  const until = new Date(Date.now() + 3_600_000).toISOString()
  const asked = []
  const server = createServer(tls, (req, res) => {
    asked.push(req.headers['last-event-id'] ?? '')
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    res.write(event('reset', { reason: 'new' }, '') + event('token', { token: hash('one'), until }) + event('token', { token: hash('two'), until }, '8-b'))
    if (asked.length > 1) res.write(event('heartbeat', { every_seconds: 2 }, '9-c'))
    if (asked.length < 3) res.end()
  })
  await new Promise((resolve) => server.listen(0, 'localhost', resolve))
  let skew = 0
  const now = () => Date.now() / 1000 + skew
  const issuer = `https://localhost:${server.address().port}`
  const r = new Revocations({ issuer, ca: tls.cert, now })
  const small = new Revocations({ issuer, ca: tls.cert, maxEntries: 1 })
  try {
    await r.start()
    assert.match(r.check({ claims: { ...claims, iat: now() } }), /token was revoked/)
    assert.match(r.check({ claims: { ...bound, jti: 'three', iat: now() - 60 } }), /older/)
    assert.equal(r.check({ claims: { ...claims, jti: 'three', iat: now() - 60 } }), undefined)
    while (asked.length < 3) await new Promise((resolve) => setTimeout(resolve, 10))
    assert.deepEqual(asked, ['', '', '9-c'])
    await small.start()
    assert.match(small.check({ claims: { ...claims, jti: 'three', iat: now() } }), /every token of that time/)
    skew = 3600
    assert.throws(() => r.check({ claims: { ...claims, jti: 'three', iat: now() } }), /away for too long/)
  } finally {
    r.close()
    small.close()
    server.closeAllConnections()
    server.close()
  }
})
