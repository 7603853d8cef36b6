import assert from 'node:assert/strict'
import { createServer } from 'node:https'
import { test } from 'node:test'
import { Keys } from '../src/keys.js'
import { selfSigned } from './helpers.js'

test('metadata is that of the issuer alone, and keys come over https', async (t) => {
  assert.throws(() => new Keys('http://localhost'))
  const tls = selfSigned()
  if (!tls) return t.skip('there is no openssl')
  let metadata
  const server = createServer(tls, (req, res) => res.end(JSON.stringify(metadata)))
  await new Promise((resolve) => server.listen(0, 'localhost', resolve))
  const issuer = `https://localhost:${server.address().port}`
  const get = () => new Keys(issuer, tls.cert).get({ alg: 'ES256' }, {})
  try {
    metadata = { issuer: `${issuer}/`, jwks_uri: `${issuer}/jwks` }
    await assert.rejects(get(), /not of https/)
    metadata = { issuer, jwks_uri: 'http://localhost/jwks' }
    await assert.rejects(get(), /not an https URL/)
    await assert.rejects(new Keys(issuer).get({ alg: 'ES256' }, {})) // by the system's roots
  } finally {
    server.closeAllConnections()
    server.close()
  }
})
