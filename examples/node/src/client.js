// A client that fetches bound tokens and sends them.
import './webcrypto.js'
import * as openid from 'openid-client'
import { Agent, fetch } from 'undici'
import { Identity } from './identity.js'

export { Identity }

const margin = 15_000 // how long before its end a token is no longer used: the way to the server, and its clock
const metadataLifetime = 3_600_000
const limits = { maxResponseSize: 16 << 20, connectTimeout: 10_000, headersTimeout: 30_000, bodyTimeout: 30_000 }

/**
 * @typedef {object} ClientConfig
 * @property {Identity} [identity] authenticates with its certificate (tls_client_auth), and binds the tokens to it
 * @property {string} [issuer] the identity's if absent
 * @property {string} [clientId] the identity's if absent
 * @property {openid.ClientAuth} [auth] where there is no identity: openid.ClientSecretBasic(secret), PrivateKeyJwt(key), ...
 * @property {string | Buffer} [ca] PEM of the roots to trust; the identity's, or the system's, if absent
 * @property {boolean} [dpop] bind the tokens to a key that is made now and never leaves this process (RFC 9449)
 * @property {string} [scope] names with a space between them
 * @property {string} [resource] RFC 8707
 */

/**
 * Fetches access tokens with the client credentials grant, keeps one until shortly before it expires, and sends it.
 *
 * A certificate, the connections that show it and the token that is bound to it make a session. A renewed certificate
 * begins a new one, so it never meets a token that is bound to the one before (RFC 8705 sections 3 and 6.3). A request
 * that is answered with invalid_token is sent again once with a new token, and once with the server's nonce if it wants
 * one (RFC 9449 section 9). The token goes over https only and follows no redirect.
 */
export class TokenClient {
  #c
  /** @type {Promise<openid.CryptoKeyPair> | undefined} */ #key
  /** @type {Session | undefined} */ #session

  /** @param {ClientConfig} config */
  constructor(config) {
    const { identity } = config
    this.#c = {
      ...config,
      issuer: config.issuer ?? identity?.issuer,
      clientId: config.clientId ?? identity?.clientId,
      auth: identity ? openid.TlsClientAuth() : config.auth,
    }
    if (!this.#c.issuer || !this.#c.clientId || !this.#c.auth) throw new Error('a token client needs an identity, or issuer, clientId and auth')
    if (config.dpop) this.#key = openid.randomDPoPKeyPair('ES256')
  }

  /** A token that is good for a while. */
  async token() {
    return this.#with(async (session) => (await session.token()).access_token)
  }

  /**
   * Sends a request with a token, and a fresh proof if the token is bound to a DPoP key.
   * @param {string | URL} url
   * @param {{ method?: string, headers?: HeadersInit, body?: string | Uint8Array | URLSearchParams }} [init]
   * @returns {Promise<Response>}
   */
  async fetch(url, init = {}) {
    const once = () => this.#with(async (session) => {
      const token = await session.token()
      const response = await session.send(token, url, init)
      if (refusesToken(response)) token.until = 0
      return response
    })
    const first = await once()
    if (!refusesToken(first)) return first
    await first.body?.cancel()
    return once()
  }

  /** Ends the connections, when what is under way on them has its answer. */
  async close() {
    await this.#session?.retire()
    this.#session = undefined
  }

  /**
   * Does something with the session of now, which stays open until that is done.
   * @template T
   * @param {(session: Session) => Promise<T>} task
   */
  async #with(task) {
    const pair = this.#c.identity?.current()
    if (!this.#session || this.#session.thumbprint !== pair?.thumbprint) {
      this.#session?.retire()
      this.#session = new Session(this.#c, pair, this.#key)
    }
    const session = this.#session
    session.users++
    try {
      return await task(session)
    } finally {
      session.users--
      session.endIfIdle()
    }
  }
}

/** One certificate, the connections that show it, and the token that is bound to it. */
class Session {
  users = 0
  #retired = false
  #c
  #agent
  #key
  /** @type {{ config: openid.Configuration, until: number } | undefined} */ #metadata
  /** @type {Promise<{ access_token: string, until: number, config: openid.Configuration }> | undefined} */ #token
  /** @type {openid.DPoPHandle | undefined} */ #dpop

  constructor(c, pair, key) {
    this.#c = c
    this.#key = key
    this.thumbprint = pair?.thumbprint
    this.#agent = new Agent({ ...limits, connect: { ca: c.ca ?? c.identity?.ca, cert: pair?.cert, key: pair?.key } })
  }

  #fetch = (url, init) => fetch(url, { ...init, redirect: 'manual', dispatcher: this.#agent })

  /** All who ask while a token is on its way get the same one. */
  token() {
    const kept = this.#token
    this.#token = (async () => {
      const before = await kept?.catch(() => undefined)
      return before && Date.now() < before.until ? before : this.#ask()
    })()
    return this.#token
  }

  async send({ access_token, config }, url, init) {
    try {
      return await openid.fetchProtectedResource(config, access_token, new URL(url), init.method ?? 'GET',
        init.body, new Headers(init.headers), { DPoP: this.#dpop })
    } catch (err) {
      if (err instanceof openid.WWWAuthenticateChallengeError) return err.response
      throw err
    }
  }

  /** No new request will come. */
  retire() {
    this.#retired = true
    return this.endIfIdle()
  }

  async endIfIdle() {
    if (this.#retired && this.users === 0 && !this.#agent.closed) await this.#agent.close()
  }

  async #ask() {
    const config = await this.#configuration()
    const { scope, resource } = this.#c
    const parameters = Object.entries({ scope, resource }).filter(([, value]) => value)
    const asked = Date.now()
    const answer = await openid.clientCredentialsGrant(config, Object.fromEntries(parameters), { DPoP: this.#dpop })
    if (answer.token_type !== (this.#dpop ? 'dpop' : 'bearer')) { // RFC 9449 section 5: such a token is discarded
      throw new Error(`the token endpoint answered with a token of type ${answer.token_type}`)
    }
    const lifetime = (answer.expires_in ?? 0) * 1000
    return { access_token: answer.access_token, until: asked + lifetime - Math.min(margin, lifetime / 4), config }
  }

  /** The metadata; its mTLS aliases are used if there is a certificate to show (RFC 8705 section 5). */
  async #configuration() {
    if (!this.#metadata || Date.now() >= this.#metadata.until) {
      const { issuer, clientId, auth, identity } = this.#c
      const config = await openid.discovery(new URL(issuer), clientId, { use_mtls_endpoint_aliases: Boolean(identity) }, auth,
        { algorithm: 'oauth2', [openid.customFetch]: this.#fetch })
      config[openid.customFetch] = this.#fetch
      if (this.#key) this.#dpop ??= openid.getDPoPHandle(config, await this.#key)
      this.#metadata = { config, until: Date.now() + metadataLifetime }
    }
    return this.#metadata.config
  }
}

/** Whether a resource server wants another token (RFC 6750 section 3.1). */
function refusesToken(response) {
  return response.status === 401 && /\berror="invalid_token"/.test(response.headers.get('www-authenticate') ?? '')
}
