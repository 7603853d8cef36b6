// A client that calls a protected URL with a token of its own:
//
//   node shop.js --flow mtls --identity shop https://localhost:7443/
//   SHOP_SECRET=... node shop.js --flow dpop --client-id kiosk --issuer https://localhost:8443 --root root.crt https://localhost:7443/
//   SHOP_SECRET=... node shop.js --flow bearer ...
//
// mtls: the client's certificate authenticates it, and the token is bound to that. dpop: a secret authenticates it, and
// the token is bound to a key that this process makes. bearer: the token is bound to nothing.
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { ClientSecretBasic } from 'openid-client'
import { Identity, TokenClient } from 'pkid-node/client'

const option = { type: 'string' }
const { values, positionals: [url] } = parseArgs({
  allowPositionals: true,
  options: { flow: { ...option, default: 'mtls' }, identity: { ...option, default: 'shop' }, 'client-id': option, issuer: option, root: option },
})

const client = new TokenClient({
  resource: new URL(url).origin,
  ...(values.flow === 'mtls'
    ? { identity: new Identity(values.identity) }
    : {
        issuer: values.issuer,
        clientId: values['client-id'],
        auth: ClientSecretBasic(process.env.SHOP_SECRET),
        ca: readFileSync(values.root),
        dpop: values.flow === 'dpop',
      }),
})
const answer = await client.fetch(url)
process.stdout.write(await answer.text())
if (!answer.ok) {
  console.error(`${answer.status} ${answer.headers.get('www-authenticate') ?? ''}`)
  process.exitCode = 1
}
await client.close()
