// A client's certificate, its key and the root to trust, in the directory that `pkictl enroll` fills.
import { X509Certificate, createPrivateKey } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

/**
 * @typedef {object} Pair
 * @property {string} cert PEM, the client's certificate first
 * @property {string} key PEM
 * @property {string} thumbprint SHA-256 of the certificate, in hex
 */

/** An identity directory. Whoever renews it (`pkictl renew --daemon`), this sees it. */
export class Identity {
  #dir
  /** @type {Pair | undefined} */ #pair
  #stamp = ''

  /** @param {string} dir */
  constructor(dir) {
    this.#dir = dir
    const { client_id, urls } = JSON.parse(this.#read('pkid.json'))
    /** @type {string} */ this.clientId = client_id
    /** @type {string} */ this.issuer = urls.public
    this.current() // whatever is wrong with the files is told now
  }

  /** PEM of the roots to trust. */
  get ca() {
    return this.#read('root.crt')
  }

  /**
   * The certificate of now with its key. It is read again when its file has changed; the one before is kept while the
   * files cannot be read, or do not fit because a renewal is under way.
   * @returns {Pair}
   */
  current() {
    try {
      const stamp = this.#stampOf('client.crt')
      if (stamp !== this.#stamp) {
        this.#pair = this.#readPair()
        this.#stamp = stamp
      }
    } catch (err) {
      if (!this.#pair) throw err
    }
    return /** @type {Pair} */ (this.#pair)
  }

  /** Two files cannot be replaced in one step, so a renewal puts client.next, which holds both, in place first. */
  #readPair() {
    const pair = fitting(this.#read('client.crt'), this.#read('client.key'))
    if (pair) return pair
    const next = this.#read('client.next')
    const renewed = fitting(next, next)
    if (!renewed) throw new Error(`${this.#dir}: client.key is not the key of client.crt`)
    return renewed
  }

  #read(name) {
    return readFileSync(join(this.#dir, name), 'utf8')
  }

  #stampOf(name) {
    const { mtimeMs, ino, size } = statSync(join(this.#dir, name))
    return `${mtimeMs} ${ino} ${size}`
  }
}

/** @returns {Pair | undefined} undefined if the key is another's */
function fitting(chain, keyText) {
  const cert = chain.slice(chain.indexOf('-----BEGIN CERTIFICATE-----'))
  const key = /-----BEGIN (?:\w+ )?PRIVATE KEY-----[^]*?-----END (?:\w+ )?PRIVATE KEY-----/.exec(keyText)?.[0]
  if (!key) throw new Error('no private key in PEM')
  const leaf = new X509Certificate(cert)
  if (!leaf.checkPrivateKey(createPrivateKey(key))) return undefined
  return { cert, key, thumbprint: leaf.fingerprint256 }
}
