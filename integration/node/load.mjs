// Sends requests with the sample package's client, eight at a time, until stdin ends, and prints how they went after each
// hundred.
import { Identity, TokenClient } from '../../examples/node/src/client.js'

const [dir, ...urls] = process.argv.slice(2)
const identity = new Identity(dir)
const clients = urls.map((resource) => new TokenClient({ identity, resource }))
const counts = { ok: 0, failures: [] }
let stopped = false
process.stdin.on('end', () => { stopped = true }).resume()

async function load(i) {
  while (!stopped) {
    try {
      const answer = await clients[i % urls.length].fetch(`${urls[i % urls.length]}/`)
      const body = await answer.text()
      if (answer.status === 200) counts.ok++
      else counts.failures.push(`${answer.status} ${body}`)
    } catch (err) {
      counts.failures.push(`${err.message} ${err.cause?.message ?? ''}`)
    }
    if (counts.ok % 100 === 0) console.log(JSON.stringify(counts))
  }
}

await Promise.all(Array.from({ length: 8 }, (_, i) => load(i)))
await Promise.all(clients.map((c) => c.close()))
console.log(JSON.stringify(counts))
