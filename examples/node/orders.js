// A resource server that takes certificate-bound and DPoP-bound tokens. It expects its own identity in ./orders, from
// `pkictl invite orders --profile server --san localhost | pkictl enroll - --out orders`.
import { createServer } from 'node:https'
import express from 'express'
import { Identity } from 'pkid-node/client'
import { Revocations } from 'pkid-node/revocations'
import { Verifier } from 'pkid-node/verifier'

const { ORDERS_IDENTITY = 'orders', ORDERS_ADDR = '127.0.0.1:7443', ORDERS_URL = 'https://localhost:7443', ORDERS_ALLOW_BEARER } = process.env

const identity = new Identity(ORDERS_IDENTITY)
const { issuer, ca } = identity
const revocation = new Revocations({ issuer, ca })
const verifier = new Verifier({
  issuer,
  ca,
  audience: ORDERS_URL,
  revocation,
  allowBearer: ORDERS_ALLOW_BEARER === '1', // takes tokens that work for whoever steals them, too
})

const app = express()
app.use(verifier.middleware())
app.get('/', (req, res) => {
  res.send(`the orders of ${req.token.client_id}\n`)
})

const tls = () => ({ cert: identity.current().cert, key: identity.current().key })
// Any certificate may be shown, or none: the verifier decides.
const server = createServer({ ...tls(), requestCert: true, rejectUnauthorized: false, minVersion: 'TLSv1.2' }, app)
setInterval(() => server.setSecureContext(tls()), 60_000).unref() // `pkictl renew --daemon` renews the files

await revocation.start((err) => console.error(`the revocation stream is away: ${err.message}`))
const [host, port] = ORDERS_ADDR.split(':')
server.listen(Number(port), host, () => console.error(`orders at ${ORDERS_URL}`))
