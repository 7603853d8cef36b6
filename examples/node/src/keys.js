// The keys that an issuer publishes.
import './webcrypto.js'
import * as jose from 'jose'
import { Agent, fetch } from 'undici'

const limits = { maxResponseSize: 256 << 10, connectTimeout: 5_000, headersTimeout: 5_000, bodyTimeout: 5_000 }

/** Finds an issuer's keys through its metadata (RFC 8414), when they are first needed, and refreshes them as needed. */
export class Keys {
  #issuer
  #fetch
  /** @type {Promise<ReturnType<typeof jose.createRemoteJWKSet>> | undefined} */ #set

  /**
   * @param {string} issuer
   * @param {string | Buffer | string[]} [ca] PEM of the roots that vouch for it; the system's if undefined
   */
  constructor(issuer, ca) {
    secure(issuer)
    this.#issuer = issuer
    const dispatcher = new Agent({ ...limits, connect: { ca } })
    this.#fetch = (url, init) => fetch(url, { ...init, redirect: 'error', dispatcher })
  }

  /** What jose.jwtVerify takes for a key. */
  get = async (header, token) => {
    this.#set ??= this.#discover().catch((err) => {
      this.#set = undefined
      throw err
    })
    return (await this.#set)(header, token)
  }

  async #discover() {
    const { origin, pathname } = secure(this.#issuer)
    const url = `${origin}/.well-known/oauth-authorization-server${pathname.replace(/\/$/, '')}`
    const answer = await this.#fetch(url, { headers: { accept: 'application/json' }, signal: AbortSignal.timeout(10_000) })
    if (answer.status !== 200) throw new Error(`${url} answers ${answer.status}`)
    const metadata = await answer.json()
    if (metadata.issuer !== this.#issuer) throw new Error(`${url} is the metadata of issuer ${metadata.issuer}, not of ${this.#issuer}`) // section 3.3
    return jose.createRemoteJWKSet(secure(metadata.jwks_uri), {
      timeoutDuration: 10_000, cooldownDuration: 5_000, cacheMaxAge: 600_000, [jose.customFetch]: this.#fetch,
    })
  }
}

/** @param {string} url */
function secure(url) {
  const u = new URL(url)
  if (u.protocol !== 'https:' || u.username || u.search || u.hash) throw new Error(`${url} is not an https URL without query and fragment`)
  return u
}
