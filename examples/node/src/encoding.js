// Thumbprints and hashes as they stand in tokens and proofs.
import { createHash, timingSafeEqual } from 'node:crypto'

/** @param {string | Uint8Array} data */
export const sha256 = (data) => createHash('sha256').update(data).digest()

/**
 * Whether a text is unpadded base64url, in the one form that octets have.
 * @param {unknown} text
 */
export const isBase64url = (text) => typeof text === 'string' && Buffer.from(text, 'base64url').toString('base64url') === text

/**
 * Reads the 43 characters of unpadded base64url that a SHA-256 has, in the one form there is.
 * @param {unknown} text
 * @returns {Buffer | undefined}
 */
export function parseHash(text) {
  return isBase64url(text) && text.length === 43 ? Buffer.from(text, 'base64url') : undefined
}

/**
 * Compares in constant time. What is not a hash equals nothing.
 * @param {Buffer | undefined} a
 * @param {Buffer | undefined} b
 */
export const sameHash = (a, b) => a?.length === 32 && b?.length === 32 && timingSafeEqual(a, b)

/**
 * @param {unknown} v
 * @returns {v is Record<string, unknown>}
 */
export const isObject = (v) => typeof v === 'object' && v !== null && !Array.isArray(v)
