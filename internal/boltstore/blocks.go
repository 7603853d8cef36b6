package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"slices"
	"sort"

	"github.com/pkid/pkid/ca"
)

// Certificates are found by client and by thumbprint through blocks. A block has the certificates of some time, in
// the order in which they were inserted, and is written once, at the right edge of its bucket: their serials, and
// two arrays of (start of a hash, which of the serials), sorted by hash. A search looks into each block; that is a
// microsecond or two, and some hundred for ten million certificates, which a search may cost and an insert may not.
// It goes through the blocks from the newest serials down, and ends where its reader does. More certificates in a block
// make a search faster, an opening slower, and the insert that ends it wait.
//
// The certificates of the block that is not full yet are in memory. They are taken from the audit log when the store
// is opened: the entry that a certificate came with has its serial in front.
//
// A hash's start leads to few others beside what is looked for, and the record decides.
//
// Prune takes certificates away, and leaves them in their block. Once half of a block may be gone it is written anew
// without them (thinBlocks). A block's checksum is compared when it is first looked into, since a damaged bit would hide
// a certificate.
const (
	blockSize = 1 << 15 // certificates after which a block ends, at the end of their transaction
	maxUnread = 1 << 17 // audit entries after which one ends too, to bound what an opening reads
)

// indexed is what a block knows of a certificate.
type indexed struct {
	serial        ca.Serial
	thumb, client uint32 // how the thumbprint begins, and the SHA-256 of the client's id
}

// newest are the certificates that are durable and in no block. The writer puts a longer one in its place after a
// commit, whose entries may share their memory with this one's; these never change.
type newest struct {
	block   uint64 // the number that their block will have, from 0
	entries []indexed
}

// by selects one of a block's two arrays.
type by int

const (
	byThumb by = iota
	byClient
)

func (e *indexed) hash(key by) uint32 {
	if key == byThumb {
		return e.thumb
	}
	return e.client
}

// What one certificate takes in a block.
const (
	hashLen  = 4
	placeLen = 2
	entryLen = len(ca.Serial{}) + 2*(hashLen+placeLen)
)

// encodeBlock writes at most 65,536 entries: serials, then by thumbprint and by client the hashes and the places.
func encodeBlock(entries []indexed) []byte {
	b := make([]byte, 0, len(entries)*entryLen)
	for i := range entries {
		b = append(b, entries[i].serial[:]...)
	}
	sorted := make([]uint64, len(entries))
	for _, key := range []by{byThumb, byClient} {
		for i := range entries {
			sorted[i] = uint64(entries[i].hash(key))<<16 | uint64(i)
		}
		slices.Sort(sorted)
		for _, s := range sorted {
			b = binary.LittleEndian.AppendUint32(b, uint32(s>>16))
		}
		for _, s := range sorted {
			b = binary.LittleEndian.AppendUint16(b, uint16(s))
		}
	}
	return b
}

// appendMatches appends the serials that a block has under a hash.
func appendMatches(found []ca.Serial, block []byte, key by, hash uint32) ([]ca.Serial, error) {
	n := len(block) / entryLen
	if n == 0 || len(block)%entryLen != 0 {
		return nil, errDamaged
	}
	serials := block[:n*len(ca.Serial{})]
	hashes := block[len(serials)+int(key)*n*(hashLen+placeLen):][:n*(hashLen+placeLen)]
	at := func(i int) uint32 { return binary.LittleEndian.Uint32(hashes[i*hashLen:]) }
	for i := firstAtLeast(n, hash, at); i < n && at(i) == hash; i++ {
		place := int(binary.LittleEndian.Uint16(hashes[n*hashLen+i*placeLen:]))
		if place >= n {
			return nil, errDamaged
		}
		found = append(found, ca.Serial(serials[place*len(ca.Serial{}):]))
	}
	return found, nil
}

// firstAtLeast searches n sorted hashes. Hashes are spread evenly, so it begins where this one should be, and
// touches two or three lines of memory where a search by halves touches ten.
func firstAtLeast(n int, hash uint32, at func(int) uint32) int {
	low := int(uint64(hash) * uint64(n) >> 32)
	high := low
	for step := 16; low > 0 && at(low) >= hash; step *= 2 {
		high, low = low, max(low-step, 0)
	}
	for step := 16; high < n && at(high) < hash; step *= 2 {
		low, high = high, min(high+step, n)
	}
	return low + sort.Search(high-low, func(i int) bool { return at(low+i) >= hash })
}

// span is where the serials of a block lie. Those of two blocks overlap where certificates were inserted in another
// order than that of their serials.
type span struct {
	number    uint64
	low, high ca.Serial
}

// spans returns those of all blocks that have serials above after and below bound, the highest serials last.
func (t *tx) spans(after ca.Serial, bound []byte) ([]span, error) {
	var out []span
	c := t.cursor(spans)
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if len(v) != 2*len(ca.Serial{}) {
			return nil, fmt.Errorf("span of a block: %w", errDamaged)
		}
		s := span{uint64(number(k)), ca.Serial(v), ca.Serial(v[16:])}
		if bytes.Compare(s.low[:], bound) < 0 && bytes.Compare(s.high[:], after[:]) > 0 {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b span) int { return bytes.Compare(a.high[:], b.high[:]) })
	return out, nil
}

// hashed yields serials below bound that are indexed under a hash, newest first, among them all above after. An error
// ends it.
func (t *tx) hashed(key by, hash uint32, after ca.Serial, bound []byte) iter.Seq2[ca.Serial, error] {
	return func(yield func(ca.Serial, error) bool) {
		left, err := t.spans(after, bound)
		found := t.unblocked(key, hash)
		sortSerials(found)
		for err == nil {
			if n := len(left); n > 0 && (len(found) == 0 || bytes.Compare(left[n-1].high[:], found[len(found)-1][:]) > 0) {
				found, err = t.blockMatches(found, left[n-1].number, key, hash)
				sortSerials(found) // here and not for each that is yielded: a client may have as many as a block
				left = left[:n-1]
				continue
			}
			if len(found) == 0 {
				return
			}
			serial := found[len(found)-1]
			found = found[:len(found)-1]
			if bytes.Compare(serial[:], bound) < 0 && !yield(serial, nil) {
				return
			}
		}
		yield(ca.Serial{}, err)
	}
}

func sortSerials(s []ca.Serial) {
	slices.SortFunc(s, func(a, b ca.Serial) int { return bytes.Compare(a[:], b[:]) })
}

func (t *tx) blockMatches(found []ca.Serial, number uint64, key by, hash uint32) ([]ca.Serial, error) {
	block, err := t.block(number)
	if err == nil {
		found, err = appendMatches(found, block, key, hash)
	}
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", number, err)
	}
	return found, nil
}

// block returns a block that is as it was written.
func (t *tx) block(number uint64) ([]byte, error) {
	b := t.get(blocks, ordered(int64(number)))
	want, _, err := decodeThinned(t.get(thinned, ordered(int64(number))))
	if err != nil || want == nil {
		return b, err // one of before there were checksums has none
	}
	if sum, ok := t.sound.Load(number); ok && sum == *want {
		return b, nil
	}
	if crc32.Checksum(b, castagnoli) != *want {
		return nil, errDamaged
	}
	t.sound.Store(number, *want)
	return b, nil
}

// unblocked returns the serials under a hash that are in no block yet.
func (t *tx) unblocked(key by, hash uint32) []ca.Serial {
	if t.newest.block != t.nextBlock() {
		return nil // the block has ended since newest was taken, so the transaction sees them there
	}
	var found []ca.Serial
	for i := range t.newest.entries {
		if e := &t.newest.entries[i]; e.hash(key) == hash {
			found = append(found, e.serial)
		}
	}
	return found
}

// nextBlock is above the number of every block that there was.
func (t *tx) nextBlock() uint64 {
	next := t.b.Bucket(blocks.name).Sequence()
	if k, _ := t.cursor(spans).Last(); k != nil {
		next = max(next, uint64(number(k))+1) // one that was written before there was a sequence
	}
	return next
}

// index returns what newest is to be once the transaction is committed, and writes a block if that has grown enough.
func (t *tx) index() (*newest, error) {
	now := &newest{block: t.newest.block, entries: append(t.newest.entries, t.added...)}
	unread := int64(t.head.Seq) - number(t.get(meta, markKey))
	if len(now.entries) < blockSize && unread < maxUnread && !t.endBlock {
		return now, nil
	}
	if err := t.put(meta, markKey, ordered(int64(t.head.Seq))); err != nil || len(now.entries) == 0 {
		return now, err
	}
	err := errors.Join(t.putBlock(now.block, now.entries), t.b.Bucket(blocks.name).SetSequence(now.block+1))
	return &newest{block: now.block + 1}, err
}

// putBlock writes a block with at least one entry.
func (t *tx) putBlock(number uint64, entries []indexed) error {
	first, last := entries[0].serial, entries[0].serial
	for i := range entries {
		if s := &entries[i].serial; bytes.Compare(s[:], first[:]) < 0 {
			first = *s
		} else if bytes.Compare(s[:], last[:]) > 0 {
			last = *s
		}
	}
	key, block := ordered(int64(number)), encodeBlock(entries)
	return errors.Join(
		t.put(blocks, key, block),
		t.put(spans, key, join(first[:], last[:])),
		t.put(thinned, key, encodeThinned(crc32.Checksum(block, castagnoli), 0)),
	)
}

// loadNewest reads, at the opening, what came after the last block.
func (t *tx) loadNewest() (*newest, error) {
	n := &newest{block: t.nextBlock()}
	mark := t.get(meta, markKey)
	if len(mark) != 8 {
		return nil, fmt.Errorf("%w: it is damaged: the mark of its last block is missing", ErrNotStore)
	}
	c := t.cursor(log)
	for k, v := c.Seek(ordered(number(mark) + 1)); k != nil; k, v = c.Next() {
		serial, ok := broughtBy(v)
		if !ok {
			continue
		}
		rec, err := t.record(serial)
		if errors.Is(err, ca.ErrNotFound) {
			continue // Prune dropped it
		}
		if err != nil {
			return nil, fmt.Errorf("%w: it is damaged: audit entry %d: %w", ErrNotStore, number(k), err)
		}
		n.entries = append(n.entries, indexed{serial, rec.thumb, clientHash(string(rec.client))})
	}
	return n, nil
}
