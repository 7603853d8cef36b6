// The checks of RFC 9449 section 4.3, and those of RFC 7515, 7518 and 8725 that they rest on.
import './webcrypto.js'
import * as jose from 'jose'
import { isBase64url, isObject, parseHash, sameHash, sha256 } from './encoding.js'
import { readJWT } from './jwt.js'
import { Refusal, show } from './refusal.js'
import { normalURL } from './url.js'

/** RS256 and its kin are allowed by RFC 9449 but not by FAPI 2.0 section 5.4, which wants PSS. */
export const proofAlgorithms = ['ES256', 'EdDSA', 'PS256', 'ES384', 'ES512', 'PS384', 'PS512']

const maxProof = 8 << 10 // octets, before anything is computed
const maxJTI = 256
const keyMembers = new Map([['EC', ['crv', 'x', 'y']], ['OKP', ['crv', 'x']], ['RSA', ['n', 'e']]]) // RFC 7638 section 3.2, RFC 8037
const privateMembers = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k', 'priv']

/**
 * @param {string} what
 * @param {unknown} seen
 * @param {string} wanted
 */
const bad = (what, seen, wanted) => new Refusal('invalid_dpop_proof', `DPoP proof: ${what}: got ${show(seen)}, want ${wanted}`)

/** Checks the proofs of one resource server. */
export class ProofChecker {
  /**
   * @param {object} c
   * @param {number} c.maxAge how old a proof may be, in seconds
   * @param {number} c.tolerance how far clocks may be apart, in seconds
   * @param {{ use(key: string, until: number): any }} c.replay
   * @param {import('./nonces.js').Nonces} c.nonces
   * @param {boolean} c.requireNonce
   * @param {number} [c.since] from when on replay knows of every proof; undefined: it knows of all
   * @param {() => number} c.now seconds since 1970
   */
  constructor(c) {
    this.c = c
  }

  /**
   * Checks a proof and uses it up.
   * @param {string[]} headers all DPoP headers of the request
   * @param {{ method: string, url: string, token: string, jkt: Buffer }} request
   * @returns {Promise<{ nonce?: string }>} nonce: the next one, before that of this proof runs out
   */
  async check(headers, request) {
    const { header, claims } = this.#read(headers)
    this.#judgeRequest(claims, request)
    const fromHere = this.c.nonces.valid(claims.nonce)
    // Without requireNonce or a start to ask about, no nonce was given here, and whatever the client has is not ours.
    if ((this.c.requireNonce || (claims.nonce !== undefined && this.c.since !== undefined)) && !fromHere) {
      throw this.#useNonce(claims.nonce === undefined ? 'it has no nonce' : 'an old or foreign nonce')
    }
    this.#judgeAge(claims.iat)
    if (!sameHash(parseHash(claims.ath), sha256(request.token))) {
      throw bad('ath', claims.ath, 'the hash of the token that is sent along (RFC 9449 4.3-12)')
    }
    const key = await this.#judgeKey(header, request.jkt)
    await this.#judgeSignature(headers[0], key, header.alg)
    // What was made before the start, or up to tolerance after it by a fast clock, may have been used before it. A nonce
    // of this process shows the contrary, so the client needs only to try once more (RFC 9449 section 11.1).
    if (this.c.since !== undefined && claims.iat <= this.c.since + this.c.tolerance && !fromHere) {
      throw this.#useNonce('it may have been used before this server started')
    }
    await this.#judgeReplay(claims, request.jkt)
    const next = this.c.nonces.current()
    return { nonce: this.c.requireNonce && claims.nonce !== next ? next : undefined }
  }

  /**
   * Reads what is in a proof and refuses what cannot be one, before any cryptography.
   * @param {string[]} headers
   */
  #read(headers) {
    if (headers.length !== 1 || headers[0].includes(',')) {
      throw new Refusal('invalid_dpop_proof', `DPoP proof: want one DPoP header, got ${headers.length || 'none'}${headers[0]?.includes(',') ? ' with several values' : ''}; send a fresh proof with each request`)
    }
    const [proof] = headers
    if (proof.length > maxProof) throw bad('length', proof.length, `at most ${maxProof} octets`)
    const { header, claims } = readJWT(proof) ?? {}
    if (!header) throw bad('form', undefined, 'a JWT: header.payload.signature')
    if (header.typ !== 'dpop+jwt') throw bad('typ', header.typ, 'dpop+jwt')
    if (!proofAlgorithms.includes(header.alg)) throw bad('alg', header.alg, `one of ${proofAlgorithms.join(' ')}`)
    if (header.crit !== undefined) throw bad('crit', header.crit, 'none: no extension is understood here')
    if (!isObject(header.jwk)) throw bad('jwk', header.jwk, 'a public key')
    const secret = privateMembers.find((m) => m in header.jwk)
    if (secret) throw bad('jwk', secret, 'a public key; treat this one as disclosed, and make another')
    for (const name of ['jti', 'htm', 'htu']) {
      if (typeof claims[name] !== 'string' || claims[name] === '') throw bad(name, claims[name], 'a string')
    }
    if (Buffer.byteLength(claims.jti) > maxJTI) throw bad('jti', Buffer.byteLength(claims.jti), `at most ${maxJTI} octets`)
    if (!Number.isFinite(claims.iat)) throw bad('iat', claims.iat, 'a number of seconds')
    return { header, claims }
  }

  #judgeRequest(claims, { method, url }) {
    if (claims.htm !== method) throw bad('htm', claims.htm, method)
    const wanted = normalURL(url)
    if (wanted === undefined || normalURL(claims.htu) !== wanted) throw bad('htu', claims.htu, wanted ?? 'another URL: the request has one that is not taken')
  }

  #judgeAge(iat) {
    const age = this.c.now() - iat
    const { maxAge, tolerance } = this.c
    if (age < -tolerance || age > maxAge + tolerance) {
      throw bad('iat', `${Math.abs(Math.round(age))} s ${age < 0 ? 'ahead' : 'ago'}`, `at most ${maxAge + tolerance} s ago or ${tolerance} s ahead; is the client's clock right?`)
    }
  }

  /** RFC 9449 section 7.1 has invalid_token for a proof by another key. */
  async #judgeKey({ alg, jwk }, jkt) {
    // Only what makes the key counts: the rest says what it may be used for, and here it is used for its one purpose.
    const plain = Object.fromEntries(['kty', ...keyMembers.get(jwk.kty) ?? []].map((name) => [name, jwk[name]]))
    let key, thumbprint
    try {
      if (!Object.entries(plain).every(([name, v]) => name === 'kty' || name === 'crv' || isBase64url(v))) throw new Error('not base64url')
      key = await jose.importJWK(plain, alg)
      thumbprint = parseHash(await jose.calculateJwkThumbprint(plain))
    } catch {
      throw bad('jwk', jwk.kty, `a public key for ${alg}`)
    }
    if (!sameHash(thumbprint, jkt)) {
      throw new Refusal('invalid_token', `the token is bound to another key: got jkt ${thumbprint?.toString('base64url')}, want ${jkt.toString('base64url')}`)
    }
    return key
  }

  /** compactVerify takes no symmetric key and none that does not fit alg. */
  async #judgeSignature(proof, key, alg) {
    try {
      await jose.compactVerify(proof, key, { algorithms: [alg] })
    } catch (cause) {
      throw new Refusal('invalid_dpop_proof', 'DPoP proof: want a signature by the key in jwk', { cause })
    }
  }

  /** The key is the client's too, so that nobody can use up another's jti. */
  async #judgeReplay(claims, jkt) {
    const id = sha256(Buffer.concat([jkt, Buffer.from(claims.jti)])).toString('base64url')
    let use
    try {
      use = await this.c.replay.use(id, claims.iat + this.c.maxAge + 2 * this.c.tolerance)
    } catch (cause) {
      throw new Refusal('temporarily_unavailable', 'DPoP proofs cannot be remembered at the moment', { cause })
    }
    if (use === 'again') throw new Refusal('invalid_dpop_proof', 'DPoP proof: a jti that was used before; send a fresh proof with each request, also for a retry')
    if (use !== 'first') throw new Refusal('temporarily_unavailable', 'too many DPoP proofs at once to remember them all')
  }

  #useNonce(why) {
    return new Refusal('use_dpop_nonce', `DPoP proof: ${why}; make a new one with the nonce in DPoP-Nonce`, { nonce: this.c.nonces.current() })
  }
}
