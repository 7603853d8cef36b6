// Thumbprints and hashes as they stand in tokens and proofs.
import { createHash, timingSafeEqual } from 'node:crypto'

/** @param {string | Uint8Array} data */
export const sha256 = (data) => createHash('sha256').update(data).digest()

/**
 * Reads the 43 characters of unpadded base64url that a SHA-256 has, in the one form there is.
 * @param {unknown} text
 * @returns {Buffer | undefined}
 */
export function parseHash(text) {
  if (typeof text !== 'string' || !/^[A-Za-z0-9_-]{43}$/.test(text)) return undefined
  const hash = Buffer.from(text, 'base64url')
  return hash.toString('base64url') === text ? hash : undefined
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
