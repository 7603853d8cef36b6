// JWTs as text, read so that no other reader can see something else in them (RFC 8725 section 2.4). Go's reader refuses the
// same.
import { isBase64url, isObject } from './encoding.js'

const maxDepth = 32

/**
 * Reads the header and the claims of a JWT in compact form, and verifies nothing.
 * @param {string} compact
 * @returns {{ header: Record<string, any>, claims: Record<string, any> } | undefined} undefined: it is none
 */
export function readJWT(compact) {
  const parts = compact.split('.')
  if (parts.length !== 3 || !parts.every((part) => part && isBase64url(part))) return undefined
  const [header, claims] = parts
  try {
    return { header: readObject(header), claims: readObject(claims) }
  } catch {
    return undefined
  }
}

/** An object in which no member stands twice, no number is out of range, and no character is half a pair. */
function readObject(part) {
  const json = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.from(part, 'base64url'))
  const o = JSON.parse(json, (name, v) => {
    if (typeof v === 'number' ? !Number.isFinite(v) : [name, v].some((s) => typeof s === 'string' && /\p{Cs}/u.test(s))) throw new Error('an odd value')
    return v
  })
  if (!isObject(o) || repeats(json)) throw new Error('no object, or one that says something twice')
  return o
}

/** Whether a member stands twice in an object, at any depth, or the depth is too great. JSON.parse took the text before. */
function repeats(json) {
  const open = [] // the names in each object that is open; none in an array
  for (const [piece, name, colon] of json.matchAll(/("(?:[^"\\]|\\.)*")[ \t\r\n]*(:?)|[{}[\]]/g)) {
    if (piece === '{' || piece === '[') {
      if (open.push(new Set()) > maxDepth) return true
    } else if (piece === '}' || piece === ']') {
      open.pop()
    } else if (colon) {
      const names = open.at(-1)
      if (names.size === names.add(JSON.parse(name)).size) return true
    }
  }
  return false
}
