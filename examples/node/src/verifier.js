// What a resource server needs to take access tokens from those they were issued to, and from nobody else. The rules
// are those of the Go package tokenbind.
import './webcrypto.js'
import { randomBytes } from 'node:crypto'
import * as jose from 'jose'
import { isObject, parseHash, sameHash, sha256 } from './encoding.js'
import { readJWT } from './jwt.js'
import { Keys } from './keys.js'
import { Nonces } from './nonces.js'
import { ProofChecker, proofAlgorithms } from './proof.js'
import { Refusal, expose, show } from './refusal.js'
import { MemoryReplay } from './replay.js'
import { normalURL } from './url.js'

export { Refusal, MemoryReplay, normalURL }

const maxToken = 16 << 10 // octets
const nonceLifetime = 120 // seconds

/** Headers by which proxies hand on a client's certificate. No proxy is trusted here, so somebody believes in vain that they count. */
const forwardedHeaders = [
  'client-cert', 'client-cert-chain', // RFC 9440
  'x-forwarded-client-cert', 'x-ssl-client-cert', 'x-client-cert', 'ssl-client-cert',
  'x-forwarded-tls-client-cert', 'x-forwarded-tls-client-cert-info',
  'x-arr-clientcert', 'x-amzn-mtls-clientcert', 'x-amzn-mtls-clientcert-leaf',
]

/**
 * @typedef {object} Config
 * @property {string} issuer the authorization server's identifier, compared as a string with the tokens' iss
 * @property {string} audience this server's identifier; a token must name it in aud
 * @property {string} [baseURL] the public URL up to where a request's path begins, that proofs' htu is compared with; the
 *   origin of audience by default. The request's own Host is not asked: whoever sends the request chooses it.
 * @property {string | Buffer | string[]} [ca] PEM of the roots that vouch for the issuer; the system's by default
 * @property {string[]} [requiredScopes] all must be in the token's scope
 * @property {boolean} [allowBearer] take tokens that are bound to nothing. One with a cnf claim is never taken as such.
 * @property {boolean} [noDPoP] refuse DPoP-bound tokens, for a server whose clients all have certificates
 * @property {boolean} [requireNonce] demand a nonce in every proof (RFC 9449 section 9)
 * @property {string[]} [algorithms] of tokens; ES256, EdDSA and PS256 by default (FAPI 2.0 section 5.4)
 * @property {number} [tolerance] how far clocks may be apart, in seconds; 10 by default, at most 60
 * @property {number} [proofMaxAge] how old a proof may be, in seconds; 60 by default
 * @property {number} [maxProofs] how many proofs are remembered; 100,000 by default. While the memory is full, proofs are
 *   answered with 503.
 * @property {{ use(key: string, until: number): any }} [replay] remembers the proofs of all processes of this server, as
 *   MemoryReplay does for one. Without it they are forgotten at a restart, and so each that was made before the
 *   start is answered with use_dpop_nonce.
 * @property {Uint8Array} [nonceKey] 32 octets that all processes share; goes with replay
 * @property {{ check(seen: { certificate?: import('node:crypto').X509Certificate, claims: jose.JWTPayload }): string | undefined | Promise<string | undefined> }} [revocation]
 *   says why a certificate or a token is worth nothing any more; undefined: it still is. What it throws is answered with
 *   503. Without it, revocation is not checked here, and a token works until it expires.
 * @property {(jwt: jose.JWSHeaderParameters, token: jose.FlattenedJWSInput) => any} [keys] that sign tokens; by default those
 *   that the issuer publishes, found through its metadata (RFC 8414)
 * @property {() => number} [now] seconds since 1970
 */

/**
 * Checks access tokens and what binds them to their holder: the token (RFC 9068 section 4), and then whatever its cnf
 * claim demands: the certificate of the connection (RFC 8705), a DPoP proof (RFC 9449), or both. The server has to ask for
 * client certificates and to take any: `https.createServer({ requestCert: true, rejectUnauthorized: false, ... })`. The
 * certificate's chain is not checked, which RFC 8705 section 6.2 leaves to proof of possession.
 */
export class Verifier {
  /** @param {Config} config */
  constructor(config) {
    const c = {
      algorithms: ['ES256', 'EdDSA', 'PS256'], requiredScopes: [], tolerance: 10, proofMaxAge: 60, maxProofs: 100_000,
      now: () => Date.now() / 1000, ...config,
    }
    if (!c.issuer) throw new Error('setting up a verifier: no issuer')
    if (!c.audience) throw new Error('setting up a verifier: no audience: a token for another server would be taken')
    if (!(c.tolerance >= 0 && c.tolerance <= 60)) throw new Error(`setting up a verifier: a tolerance of ${c.tolerance} s, it is at most 60`)
    if (!(c.proofMaxAge >= 0)) throw new Error(`setting up a verifier: a proofMaxAge of ${c.proofMaxAge} s`)
    if (c.algorithms.length === 0 || c.algorithms.some((a) => !/^(ES(256|384|512)|EdDSA|Ed25519|PS(256|384|512)|RS(256|384|512))$/.test(a))) {
      throw new Error('setting up a verifier: algorithms: only asymmetric signatures are taken')
    }
    if (c.nonceKey && !c.replay) throw new Error('setting up a verifier: a nonceKey is for several processes, which need a replay memory in common')
    this.c = c
    this.base = c.noDPoP ? undefined : baseOf(c)
    this.keys = c.keys ?? new Keys(c.issuer, c.ca).get
    this.proofs = new ProofChecker({
      maxAge: c.proofMaxAge, tolerance: c.tolerance, requireNonce: Boolean(c.requireNonce), now: c.now,
      replay: c.replay ?? new MemoryReplay(c.maxProofs, c.now), since: c.replay ? undefined : c.now(),
      nonces: new Nonces(c.nonceKey ?? randomBytes(32), `resource server ${c.audience}`, nonceLifetime, c.now),
    })
  }

  /**
   * Express middleware: lets through what verify accepts, with the token's claims in req.token, and refuses the rest.
   * @returns {import('express').RequestHandler}
   */
  middleware() {
    return (req, res, next) => {
      this.verify(req).then(({ claims, nonce }) => {
        if (nonce) { // RFC 9449 section 8.2
          res.setHeader('DPoP-Nonce', nonce)
          res.setHeader('Cache-Control', 'no-store')
          expose(res)
        }
        req.token = claims
        next()
      }, (err) => {
        if (!(err instanceof Refusal)) return next(err)
        err.send(res, { realm: this.c.audience, algs: this.c.noDPoP ? undefined : proofAlgorithms, scopes: this.c.requiredScopes })
      })
    }
  }

  /**
   * Checks a request's access token and everything that binds it. A DPoP proof is used up by a success.
   * @param {import('node:http').IncomingMessage & { originalUrl?: string }} req
   * @returns {Promise<{ claims: jose.JWTPayload, nonce?: string }>} nonce: to be handed out as DPoP-Nonce
   * @throws {Refusal}
   */
  async verify(req) {
    let scheme
    try {
      const found = readToken(req)
      scheme = found.scheme
      const claims = await this.#judgeToken(found.token)
      const { x5t, jkt } = confirmation(claims)
      this.#judgeBinding(scheme, x5t, jkt)
      const certificate = x5t && this.#judgeCertificate(req, x5t)
      await this.#judgeRevocation(certificate, claims)
      const proof = jkt && await this.proofs.check(req.headersDistinct.dpop ?? [], {
        method: req.method, url: this.base + (req.originalUrl ?? req.url).replace(/\?.*$/s, ''), token: found.token, jkt,
      })
      this.#judgeScope(claims)
      return { claims, nonce: proof?.nonce }
    } catch (err) {
      if (err instanceof Refusal) err.scheme = scheme
      throw err
    }
  }

  /** @param {string} token */
  async #judgeToken(token) {
    const { algorithms, issuer, audience, tolerance, now } = this.c
    judgeForm(token)
    try {
      const { payload, protectedHeader } = await jose.jwtVerify(token, this.keys, {
        algorithms, issuer, audience, typ: 'at+jwt', requiredClaims: ['exp'], clockTolerance: tolerance, currentDate: new Date(now() * 1000),
      })
      if (protectedHeader.crit !== undefined) throw new Refusal('invalid_token', 'a token with a crit header; no extension is understood here')
      if (typeof payload.iat === 'number' && payload.iat > now() + tolerance) throw new Refusal('invalid_token', 'the token is dated in the future, or a clock is wrong')
      return payload
    } catch (err) {
      if (err instanceof Refusal) throw err
      if (err instanceof jose.errors.JOSEError && !unavailable.has(err.code)) {
        throw new Refusal('invalid_token', `the token is refused: ${err.message}`, { cause: err })
      }
      throw new Refusal('temporarily_unavailable', "the issuer's keys cannot be had at the moment", { cause: err })
    }
  }

  /** Holds the scheme against the token, so that a bound token is never taken for a bearer token. */
  #judgeBinding(scheme, x5t, jkt) {
    if (jkt && scheme !== 'DPoP') throw new Refusal('invalid_token', 'a DPoP-bound token with the Bearer scheme; want the DPoP scheme and a proof')
    if (jkt && this.c.noDPoP) throw new Refusal('invalid_token', 'a DPoP-bound token; this server takes no DPoP proofs')
    if (!jkt && scheme === 'DPoP') throw new Refusal('invalid_token', 'the token is not bound to a DPoP key: send it with the Bearer scheme')
    if (!x5t && !jkt && !this.c.allowBearer) throw new Refusal('invalid_token', 'the token is bound to nothing; want one that is bound to a certificate or a DPoP key')
  }

  /** The clock is looked at on every request, because a connection may outlive the certificate. */
  #judgeCertificate(req, x5t) {
    const certificate = req.socket.getPeerX509Certificate?.()
    if (!certificate) throw new Refusal('invalid_token', 'the token is bound to a certificate: connect with it (mutual TLS)')
    const seen = sha256(certificate.raw)
    if (!sameHash(seen, x5t)) {
      throw new Refusal('invalid_token', `the token is bound to another certificate: got x5t#S256 ${seen.toString('base64url')}, want ${x5t.toString('base64url')}; after a renewal, get a new token`)
    }
    const now = this.c.now() * 1000
    if (!(now <= Date.parse(certificate.validTo))) throw new Refusal('invalid_token', `the certificate expired at ${certificate.validTo}; renew it and get a new token`)
    if (!(now + this.c.tolerance * 1000 >= Date.parse(certificate.validFrom))) throw new Refusal('invalid_token', `the certificate is valid from ${certificate.validFrom} on, or a clock is wrong`)
    return certificate
  }

  async #judgeRevocation(certificate, claims) {
    let why
    try {
      why = await this.c.revocation?.check({ certificate, claims })
    } catch (cause) {
      throw new Refusal('temporarily_unavailable', 'whether it was revoked cannot be told at the moment', { cause })
    }
    if (why) throw new Refusal('invalid_token', why)
  }

  #judgeScope({ scope }) {
    const granted = (scope ?? '').split(/\s+/).filter(Boolean)
    if (!this.c.requiredScopes.every((s) => granted.includes(s))) {
      throw new Refusal('insufficient_scope', `scope: got ${granted.join(' ') || 'none'}, want ${this.c.requiredScopes.join(' ')}`)
    }
  }
}

/** The errors of jose that say nothing about the token. */
const unavailable = new Set(['ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID', 'ERR_JOSE_GENERIC'])

/** @param {Config} c */
function baseOf({ baseURL, audience }) {
  const base = baseURL ?? (/^https:\/\/[^/?#]+/i.exec(audience) ?? [])[0]
  if (base === undefined || /[?#]/.test(base) || normalURL(base) === undefined) {
    throw new Error("setting up a verifier: set baseURL to this server's public URL, or noDPoP: DPoP proofs could not be told from those for another server")
  }
  return base.replace(/\/$/, '')
}

/** Finds the token in a request, before anything is computed. */
function readToken(req) {
  // Some servers behind this one take an underscore for a hyphen.
  const forwarded = Object.keys(req.headers).find((name) => forwardedHeaders.includes(name.replaceAll('_', '-')))
  if (forwarded) throw new Refusal('invalid_request', `the header ${forwarded} from no trusted proxy; connect directly`)
  const query = (req.originalUrl ?? req.url).split('?').slice(1).join('?')
  if (new URLSearchParams(query).has('access_token')) {
    throw new Refusal('invalid_request', 'a token in the URL, which ends up in logs: treat it as disclosed, and send one in the Authorization header')
  }
  const values = req.headersDistinct.authorization ?? []
  if (values.length > 1) throw new Refusal('invalid_request', `${values.length} Authorization headers, want one`)
  const [, name, token] = /^(bearer|dpop)(?: +(.*))?$/is.exec(values[0] ?? '') ?? []
  if (!name) throw new Refusal('no_credentials', 'want an access token: send Authorization: Bearer or DPoP')
  if (!/^[A-Za-z0-9._~+/-]+=*$/.test(token ?? '')) { // perhaps both schemes in one header
    throw new Refusal('invalid_request', `something else after ${name}, want one token`)
  }
  if (token.length > maxToken) throw new Refusal('invalid_token', `a token of ${token.length} octets, at most ${maxToken} are taken`)
  return { scheme: /^dpop$/i.test(name) ? 'DPoP' : 'Bearer', token }
}

/**
 * Refuses what has a form that no token of an issuer has, though it may be signed.
 * @param {string} token
 */
function judgeForm(token) {
  const { header, claims } = readJWT(token) ?? {}
  if (!header) throw new Refusal('invalid_token', 'want a signed JWT')
  const demand = (name, v, ok, wanted) => {
    if (v !== undefined && !ok) throw new Refusal('invalid_token', `${name}: got ${show(v)}, want ${wanted}`)
  }
  for (const [name, v] of Object.entries({ kid: header.kid, sub: claims.sub, client_id: claims.client_id, jti: claims.jti, scope: claims.scope })) {
    demand(name, v, typeof v === 'string', 'a string')
  }
  for (const name of ['exp', 'nbf', 'iat']) demand(name, claims[name], claims[name] >= 0, 'a number of seconds')
  demand('aud', claims.aud, [claims.aud].flat().every((a) => typeof a === 'string'), 'strings')
}

/**
 * Reads cnf (RFC 7800 section 3.1). A member that is not known, alone, refuses the token: it demands a proof that is
 * not understood here. Beside a known one it is ignored.
 */
function confirmation({ cnf }) {
  if (cnf === undefined) return {}
  if (!isObject(cnf)) throw new Refusal('invalid_token', `cnf: got ${show(cnf)}, want an object`)
  const [x5t, jkt] = ['x5t#S256', 'jkt'].map((name) => {
    if (!(name in cnf)) return undefined
    const hash = parseHash(cnf[name])
    if (!hash) throw new Refusal('invalid_token', `cnf: ${name}: got ${show(cnf[name])}, want 43 characters of unpadded base64url`)
    return hash
  })
  if (!x5t && !jkt) throw new Refusal('invalid_token', 'cnf: no member that is known here, want x5t#S256 or jkt')
  return { x5t, jkt }
}
