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
  if (plain.length > maxURL) return undefined
  // What is no URI is refused: spaces, backslashes, other scripts, user information. The URL class would mend much of it.
  const [, scheme, name, port, path] = /^(https?):\/\/(\[[0-9a-f:.]+\]|[\w.~!$&'()*+,;=-]+)(?::(\d*))?(\/[\x21-\x7e]*)?$/i.exec(plain) ?? []
  if (!scheme || /[\\]|%(?![0-9a-f]{2})/i.test(path ?? '')) return undefined
  const origin = `${scheme}://${name}`.toLowerCase()
  const standard = origin.startsWith('https:') ? '443' : '80'
  return `${origin}${port && port !== standard ? `:${port}` : ''}${withoutDots(normalPath(path ?? '/'))}`
}

/** Percent encoding where it is needed, and in upper case (RFC 3986 sections 2.2, 2.3 and 6.2.2.2). */
function normalPath(path) {
  return path.replace(/%[0-9a-f]{2}/gi, (triplet) => {
    const c = String.fromCharCode(parseInt(triplet.slice(1), 16))
    return /[A-Za-z0-9._~-]/.test(c) ? c : triplet.toUpperCase()
  }).replace(/["<>^`{|}]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`)
}

/** RFC 3986 section 5.2.4. */
function withoutDots(path) {
  const out = []
  for (const segment of path.slice(1).split('/')) {
    if (segment === '..') out.pop()
    else if (segment !== '.') out.push(segment)
  }
  if (/\/\.\.?$/.test(path)) out.push('')
  return `/${out.join('/')}`
}
