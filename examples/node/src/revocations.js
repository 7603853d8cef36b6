// What was revoked, as pkid's stream tells it: certificates, clients that were disabled, and tokens.
import { createHash } from 'node:crypto'
import { Agent, fetch } from 'undici'

const maxLine = 16 << 10
const answerWithin = 10_000
const heartbeats = 3 // that are missed until the stream is dead
const mostEvery = 20 // seconds between two heartbeats
const ahead = 60 // by how much the time in a token that was issued just now may be ahead of this machine's clock, in seconds

const hashOf = (id) => createHash('sha256').update(String(id)).digest('base64url')

/**
 * Follows an issuer's revocations. It is what a Verifier asks for as `revocation`.
 *
 * It reads no CRL, so it cannot know which certificates were revoked before it listened. A certificate-bound token from
 * before that is refused, once, and its client gets a new one: pkid issues none to a certificate that is revoked, and from
 * then on the stream tells. After a break the stream goes on from where it was; only where it cannot, this happens again.
 */
export class Revocations {
  #url
  #agent
  #maxStale
  #maxEntries
  #now
  #known = new Known()
  #last = ''
  #heard = 0 // the newest heartbeat, in ms
  #stop = new AbortController()

  /**
   * @param {object} c
   * @param {string} c.issuer pkid's public URL
   * @param {string | Buffer} [c.ca] PEM of the roots that vouch for it; the system's by default
   * @param {number} [c.maxStale] how long tokens are still taken while the stream is away, in seconds; 300 by default
   * @param {number} [c.maxEntries] how much is remembered; 100,000 by default. Beyond it all tokens from before are refused,
   *   and clients get new ones.
   * @param {() => number} [c.now] seconds since 1970
   */
  constructor({ issuer, ca, maxStale = 300, maxEntries = 100_000, now = () => Date.now() / 1000 }) {
    this.#url = `${issuer.replace(/\/$/, '')}/v1/revocations/stream`
    if (!this.#url.startsWith('https://')) throw new Error(`the issuer ${issuer} is not an https URL`)
    this.#agent = new Agent({ connect: { ca }, connectTimeout: 5_000, headersTimeout: answerWithin, bodyTimeout: 0 })
    this.#maxStale = maxStale
    this.#maxEntries = maxEntries
    this.#now = now
  }

  /**
   * Begins to listen. The returned promise is fulfilled when the stream was heard, and a second has passed: every token that
   * is issued from then on is known to be from after. Until it was heard, everything is refused with 503.
   * @param {(err: Error) => void} [lost] is told why the stream is away
   */
  start(lost = () => {}) {
    return new Promise((resolve) => {
      this.#run(() => setTimeout(resolve, 1000), lost)
    })
  }

  close() {
    this.#stop.abort()
    this.#agent.destroy().catch(() => {})
  }

  /**
   * @param {{ claims: import('jose').JWTPayload }} seen
   * @returns {string | undefined} why the token is worth nothing any more
   */
  check({ claims }) {
    if (this.#heard === 0) throw new Error('the revocation stream was not heard yet')
    if (this.#now() * 1000 - this.#heard > this.#maxStale * 1000) throw new Error('the revocation stream has been away for too long')
    return this.#known.check(claims)
  }

  async #run(ready, lost) {
    for (let attempt = 0; !this.#stop.signal.aborted; attempt++) {
      const before = this.#heard
      let why
      try {
        await this.#follow(ready)
        why = new Error('the stream ended')
      } catch (err) {
        why = err
      }
      if (this.#stop.signal.aborted) return
      if (this.#heard !== before) attempt = 0
      lost(why)
      const wait = Math.min(100 * 2 ** Math.min(attempt, 10), 5_000) * (0.5 + Math.random()) // not all at once
      await new Promise((resolve) => setTimeout(resolve, wait))
    }
  }

  /** Asks for the stream once and takes what it tells, until it ends. */
  async #follow(ready) {
    const silence = new AbortController()
    let timer = setTimeout(() => silence.abort(), answerWithin)
    const quiet = (ms) => {
      clearTimeout(timer)
      timer = setTimeout(() => silence.abort(new Error('three heartbeats are missing')), ms)
    }
    const end = () => silence.abort()
    this.#stop.signal.addEventListener('abort', end)
    try {
      const answer = await fetch(this.#url, {
        dispatcher: this.#agent, redirect: 'error', signal: silence.signal,
        headers: { accept: 'text/event-stream', 'accept-encoding': 'identity', 'cache-control': 'no-cache', ...(this.#last && { 'last-event-id': this.#last }) },
      })
      if (answer.status !== 200) throw new Error(`${this.#url} answers ${answer.status}`)
      if (!/^text\/event-stream\b/.test(answer.headers.get('content-type') ?? '')) throw new Error(`${this.#url} is no stream of events`)
      // The issuer's own clock, as the times in its tokens are. What was issued in this very second may be from before.
      const opened = Date.parse(answer.headers.get('date') ?? '')
      if (Number.isNaN(opened)) throw new Error(`${this.#url} does not tell the time`)
      let patience = answerWithin
      let next = this.#last === '' ? undefined : this.#known // after a reset, what takes the place of what is known
      for await (const { event, data, id } of events(answer.body)) {
        if (event === 'reset') {
          next = new Known(opened + 1000, instant(data.tokens_not_before))
        } else if (next === undefined) {
          throw new Error('the stream does not begin with what was revoked before')
        } else if (event === 'heartbeat') {
          this.#known = next
          this.#heard = this.#now() * 1000
          this.#known.sweep(this.#heard)
          patience = heartbeats * Math.min(Math.max(data.every_seconds, 1), mostEvery) * 1000
          ready()
        } else {
          next.take(event, data)
          if (next.size > this.#maxEntries) next.endAll((this.#now() + ahead) * 1000)
        }
        if (id === '' || (id !== undefined && next === this.#known)) this.#last = id // who goes on after an event has to know all before it
        quiet(patience)
      }
    } finally {
      clearTimeout(timer)
      this.#stop.signal.removeEventListener('abort', end)
    }
  }
}

/** What is known to count no more. All times are in ms. */
export class Known {
  /** @type {Map<string, { until: number, disabled?: boolean, notBefore?: number, what: string }>} */ #entries = new Map()
  #certificatesFrom
  #notBefore

  /**
   * @param {number} [certificatesFrom] no certificate-bound token counts that was issued before
   * @param {number} [notBefore] nor any other that was issued before this
   */
  constructor(certificatesFrom = 0, notBefore = 0) {
    this.#certificatesFrom = certificatesFrom
    this.#notBefore = notBefore
  }

  get size() {
    return this.#entries.size
  }

  /**
   * @param {string} event
   * @param {Record<string, any>} data
   */
  take(event, data) {
    if (event === 'certificate') {
      const key = `x5t ${text(data['x5t#S256'])}`
      if (data.status === 'good') this.#entries.delete(key)
      else this.#entries.set(key, { until: instant(data.not_after), what: `the certificate was ${text(data.status)}` })
    } else if (event === 'client') {
      this.#entries.set(`client ${text(data.client)}`, {
        until: instant(data.until), disabled: data.disabled === true, notBefore: instant(data.tokens_not_before), what: 'the client was disabled',
      })
    } else if (event === 'token') {
      this.#entries.set(`token ${text(data.token)}`, { until: instant(data.until), what: 'the token was revoked' })
    } // others are ignored
  }

  /** Forgets all, and refuses every token from before `now` in its place. */
  endAll(now) {
    this.#entries.clear()
    this.#notBefore = Math.max(this.#notBefore, now)
  }

  /** @param {number} now */
  sweep(now) {
    for (const [key, { until }] of this.#entries) {
      if (until + 120_000 < now) this.#entries.delete(key) // two minutes for clocks that differ
    }
  }

  /** @param {import('jose').JWTPayload & { cnf?: Record<string, unknown> }} claims */
  check({ cnf, client_id, jti, iat }) {
    const issued = (iat ?? 0) * 1000
    if (cnf?.['x5t#S256'] !== undefined) {
      const certificate = this.#entries.get(`x5t ${cnf['x5t#S256']}`)
      if (certificate) return certificate.what
      if (issued < this.#certificatesFrom) return 'the token is older than what this server knows of revoked certificates; get a new one'
    }
    if (issued < this.#notBefore) return 'every token of that time was ended; get a new one'
    const client = this.#entries.get(`client ${hashOf(client_id)}`)
    if (client && (client.disabled || issued < client.notBefore)) return client.what
    return this.#entries.get(`token ${hashOf(jti)}`)?.what
  }
}

const text = (v) => {
  if (typeof v !== 'string' || v.length > 100) throw new Error('an event that is not understood')
  return v
}

/** An instant of RFC 3339 in ms, rounded up; 0 if there is none. */
const instant = (v) => {
  if (v === undefined) return 0
  const ms = Date.parse(text(v))
  if (Number.isNaN(ms)) throw new Error('an event with a time that is not understood')
  return /\.\d{3}\d*[1-9]/.test(v) ? ms + 1 : ms
}

/**
 * Reads server-sent events, of the form in which pkid writes them, within bounds.
 * @param {AsyncIterable<Uint8Array>} body
 */
export async function* events(body) {
  const decoder = new TextDecoder()
  let rest = ''
  let fields = {}
  for await (const piece of body) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split('\n')
    rest = lines.pop()
    if (rest.length > maxLine) throw new Error('a line that is too long')
    for (const line of lines) {
      if (line === '') {
        if (fields.data !== undefined) yield { event: fields.event, id: fields.id, data: JSON.parse(fields.data) }
        fields = {}
        continue
      }
      const [, name, value] = /^([a-z]*):? ?(.*)$/s.exec(line) ?? []
      if (name === 'event' || name === 'id' || name === 'data') fields[name] = value
    }
  }
}
