// Node 18 has Web Crypto, but not among its globals, where jose looks for it. Imported before jose.
import { webcrypto } from 'node:crypto'

globalThis.crypto ??= webcrypto
globalThis.CryptoKey ??= webcrypto.CryptoKey
