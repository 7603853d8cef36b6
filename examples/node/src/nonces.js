// The nonces of RFC 9449 section 9, of which none is remembered.
import { createHmac, timingSafeEqual } from 'node:crypto'

/** A nonce is a MAC over the current stretch of time. It is valid for at least its lifetime and less than twice that. */
export class Nonces {
  #key
  #purpose
  #lifetime
  #now

  /**
   * @param {Uint8Array} key 32 random octets
   * @param {string} purpose nonces for one are not valid for another
   * @param {number} lifetime in seconds
   * @param {() => number} now seconds since 1970
   */
  constructor(key, purpose, lifetime, now) {
    if (key.length !== 32) throw new Error(`a nonce key has 32 octets, this one ${key.length}`)
    this.#key = key
    this.#purpose = purpose
    this.#lifetime = lifetime
    this.#now = now
  }

  /** The one to hand out now. */
  current() {
    return this.#at(this.#stretch())
  }

  /** @param {unknown} nonce */
  valid(nonce) {
    if (typeof nonce !== 'string' || !/^[A-Za-z0-9_-]{43}$/.test(nonce)) return false
    const [now, before] = [0, 1].map((n) => timingSafeEqual(Buffer.from(nonce), Buffer.from(this.#at(this.#stretch() - n))))
    return now || before
  }

  #stretch() {
    return Math.floor(this.#now() / this.#lifetime)
  }

  /** @param {number} stretch */
  #at(stretch) {
    return createHmac('sha256', this.#key).update(`pkid DPoP nonce\0${this.#purpose}\0${stretch}`).digest('base64url')
  }
}
