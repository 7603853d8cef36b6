// Has the sample package's verifier judge requests that come on stdin, and prints what it says to each.
import { text } from 'node:stream/consumers'
import { MemoryReplay, Verifier } from '../../examples/node/src/verifier.js'
import { createLocalJWKSet } from '../../examples/node/node_modules/jose/dist/webapi/index.js'

const { issuer, audience, now, jwk, cases } = JSON.parse(await text(process.stdin))
const clock = () => now
const verifier = new Verifier({
  issuer, audience, requiredScopes: ['read'], keys: createLocalJWKSet({ keys: [jwk] }), replay: new MemoryReplay(10_000, clock), now: clock,
})
const outcomes = []
for (const { method, target, authorization, dpop } of cases) {
  const headersDistinct = { ...(authorization && { authorization }), ...(dpop && { dpop }) }
  const headers = Object.fromEntries(Object.entries(headersDistinct).map(([name, values]) => [name, values.join(', ')]))
  try {
    await verifier.verify({ method, url: target, headers, headersDistinct, socket: {} })
    outcomes.push('ok')
  } catch (err) {
    outcomes.push(err.code ?? String(err))
  }
}
console.log(JSON.stringify(outcomes))
