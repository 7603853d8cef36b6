// URLs as a proof's htu and a request are compared.

const maxURL = 2048

/**
 * Brings an http or https URL into its normal form: without query and fragment (RFC 9449 section 4.3), scheme and
 * host in lower case, no default port, percent encoding only where it is needed and in upper case, no dot segments,
 * "/" for an empty path (RFC 3986 sections 6.2.2 and 6.2.3).
 * @param {unknown} raw
 * @returns {string | undefined} undefined: not an URL that is taken
 */
export function normalURL(raw) {
  if (typeof raw !== 'string') return undefined
  const plain = raw.replace(/[?#].*$/s, '')
  // Whatever the URL parser would mend in silence (spaces, backslashes, other scripts, a missing slash) is refused.
  if (plain.length > maxURL || !/^https?:\/\/[^/@]+(\/|$)/i.test(plain) || /[^\x21-\x7e]|\\/.test(plain)) return undefined
  if (/%(?![0-9a-f]{2})/i.test(plain)) return undefined
  const decoded = plain.replace(/%[0-9a-f]{2}/gi, (triplet) => {
    const c = String.fromCharCode(parseInt(triplet.slice(1), 16))
    return /[A-Za-z0-9._~-]/.test(c) ? c : triplet.toUpperCase()
  })
  try {
    const { protocol, host, pathname } = new URL(decoded)
    return `${protocol}//${host}${pathname}`
  } catch {
    return undefined
  }
}
