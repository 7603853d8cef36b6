// Proofs that were used, in the memory of one process.

const clockSlack = 60 // how far the clock may go back without being taken for one that was ahead, in seconds

/**
 * Remembers uses until they end. When it is full it refuses, because forgetting something earlier would let that be
 * used twice. It knows nothing of other processes and of what was before a restart.
 */
export class MemoryReplay {
  #limit
  #now
  /** @type {Set<string>} */ #used = new Set()
  /** @type {Map<number, string[]>} by the second in which they end */ #ends = new Map()
  #swept = 0 // all seconds up to this one were forgotten

  /**
   * @param {number} limit how many are remembered at once
   * @param {() => number} now seconds since 1970
   */
  constructor(limit, now) {
    this.#limit = limit
    this.#now = now
  }

  /**
   * @param {string} key
   * @param {number} until seconds since 1970
   * @returns {'first' | 'again' | 'full'}
   */
  use(key, until) {
    this.#sweep(Math.floor(this.#now()) - 1)
    const second = Math.floor(until)
    if (this.#used.has(key) || second <= this.#swept) return 'again' // or forgotten already
    if (this.#used.size >= this.#limit) return 'full'
    this.#used.add(key)
    const those = this.#ends.get(second)
    if (those) those.push(key)
    else this.#ends.set(second, [key])
    return 'first'
  }

  /** @param {number} to the last second whose uses are forgotten */
  #sweep(to) {
    if (to < this.#swept - clockSlack) this.#swept = to
    if (to <= this.#swept) return
    for (const [second, keys] of this.#ends) {
      if (second > to) continue
      for (const key of keys) this.#used.delete(key)
      this.#ends.delete(second)
    }
    this.#swept = to
  }
}
