// Why a request is refused, and how that is answered.

/** The status of each error code (RFC 6750 section 3.1, RFC 9449 section 7.1). */
const statuses = {
  invalid_request: 400,
  invalid_token: 401,
  invalid_dpop_proof: 401,
  use_dpop_nonce: 401,
  no_credentials: 401, // never sent: such an answer has no error (RFC 6750 section 3.1)
  insufficient_scope: 403,
  temporarily_unavailable: 503, // a check could not be made
}

/** A request that is refused. Its message is for the client's developer, and may be shown. */
export class Refusal extends Error {
  /**
   * @param {keyof typeof statuses} code
   * @param {string} message
   * @param {{ nonce?: string, cause?: unknown }} [more] nonce: to be sent as DPoP-Nonce
   */
  constructor(code, message, { nonce, cause } = {}) {
    super(printable(message), { cause })
    this.code = code
    this.status = statuses[code]
    this.nonce = nonce
    /** @type {'Bearer' | 'DPoP' | undefined} the scheme of the request; undefined if it had none, or two */
    this.scheme = undefined
  }

  /**
   * Answers with the status, the challenges of RFC 9449 section 7, a nonce, and a small JSON body.
   * @param {import('node:http').ServerResponse} res
   * @param {{ realm: string, algs?: string[], scopes: string[] }} challenge algs: undefined if no proof is taken
   */
  send(res, { realm, algs, scopes }) {
    const error = this.code === 'no_credentials' ? undefined : this.code
    res.statusCode = this.status
    res.setHeader('Content-Type', 'application/json')
    res.setHeader('Cache-Control', 'no-store')
    expose(res)
    if (this.nonce) res.setHeader('DPoP-Nonce', this.nonce)
    if (this.status >= 500) {
      res.setHeader('Retry-After', '5')
    } else {
      const challenges = [['Bearer', `realm="${printable(realm)}"`]]
      if (algs) challenges.push(['DPoP', `algs="${algs.join(' ')}"`])
      res.setHeader('WWW-Authenticate', challenges.map(([scheme, params]) => {
        // The error stands on the challenge that matches the request's scheme, or on both if the request was
        // malformed (RFC 9449 section 7.2).
        if (!error || (algs && this.scheme && this.scheme !== scheme)) return `${scheme} ${params}`
        const scope = error === 'insufficient_scope' ? `, scope="${printable(scopes.join(' '))}"` : ''
        return `${scheme} ${params}, error="${error}", error_description="${this.message}"${scope}`
      }))
    }
    res.end(JSON.stringify({ error, error_description: this.message }) + '\n')
  }
}

/**
 * Lets a script in a browser read what it needs to try again (RFC 9449 sections 7.1 and 8).
 * @param {import('node:http').ServerResponse} res
 */
export function expose(res) {
  res.setHeader('Access-Control-Expose-Headers', 'WWW-Authenticate, DPoP-Nonce')
}

/**
 * Keeps to the characters of an error_description (RFC 6750 section 3), so that what a client sent cannot end a
 * quoted string or a line.
 * @param {string} text
 */
function printable(text) {
  return text.replace(/["\\]/g, "'").replace(/[^\x20-\x7e]/g, '?').slice(0, 600)
}

/**
 * Shows a value from a request, shortened.
 * @param {unknown} value
 */
export function show(value) {
  const text = value === undefined ? 'nothing' : JSON.stringify(value)
  return text.length > 120 ? `${text.slice(0, 120)}...` : text
}
