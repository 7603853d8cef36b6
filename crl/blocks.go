package crl

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// A revocation changes one entry out of perhaps a million, and the list around it has to be ready within
// milliseconds. So the entries are kept as they stand on the list, in blocks of DER: a change writes one block anew,
// and the new list has all others in common with the one before.

const (
	blockSize = 128 << 10 // octets that a new block has, and that two neighbours have together at least
	maxBlock  = 2 * blockSize
	maxEntry  = 64 // octets; an entry takes 56 at most
)

// entries are what stands on a list: the content of revokedCertificates, sorted by serial number. They never change.
type entries struct {
	blocks []*block
	size   int // octets
	count  int
}

// block is a run of entries.
type block struct {
	der   []byte
	first [maxSerial]byte // serial number of the first
	count int
}

// edit is what became of one serial number.
type edit struct {
	revoked
	notAfter time.Time
	released bool
}

func (e *entries) parts() DER {
	parts := make(DER, len(e.blocks))
	for i, b := range e.blocks {
		parts[i] = b.der
	}
	return parts
}

// with returns the entries after some edits, of which the last one for a serial number counts. It returns e itself
// if they change nothing.
func (e *entries) with(edits []edit) (*entries, error) {
	slices.SortStableFunc(edits, func(a, b edit) int { return compareSerials(a.revoked, b.revoked) })
	blocks := e.blocks
	if len(blocks) == 0 {
		blocks = []*block{{}}
	}
	var w blockWriter
	for i, b := range blocks {
		n := len(edits)
		if i+1 < len(blocks) {
			n, _ = slices.BinarySearchFunc(edits, blocks[i+1].first, func(x edit, s [maxSerial]byte) int { return bytes.Compare(x.serial[:], s[:]) })
		}
		if n == 0 {
			w.put(b)
		} else if err := w.merge(b, edits[:n]); err != nil {
			return nil, err
		}
		edits = edits[n:]
	}
	if next := w.finish(); !next.parts().Equal(e.parts()) { // where blocks are shared, that looks at none of them
		return next, nil
	}
	return e, nil
}

// blockWriter makes blocks of entries that come in order.
type blockWriter struct {
	done  entries
	next  block // what is being written
	limit int   // of its size; blockSize if zero
	delta bool  // for a delta list, which has one reason more
}

// merge writes the entries of a block with some edits.
func (w *blockWriter) merge(b *block, edits []edit) error {
	w.limit = len(b.der) + (len(edits)+1)*maxEntry
	if w.limit > maxBlock {
		w.limit = blockSize
	}
	rest := entryReader{rest: b.der}
	rest.next()
	for i, x := range edits {
		if i+1 < len(edits) && edits[i+1].serial == x.serial {
			continue
		}
		for rest.whole != nil && bytes.Compare(rest.serial[:], x.serial[:]) < 0 {
			w.copy(&rest)
			rest.next()
		}
		if rest.whole != nil && rest.serial == x.serial {
			rest.next()
		}
		if x.released {
			continue
		}
		if err := w.add(&x.revoked); err != nil {
			return err
		}
	}
	for ; rest.whole != nil; rest.next() {
		w.copy(&rest)
	}
	w.cut(b)
	return nil
}

// add writes an entry, and reads it back: a date that no list can tell must not become another one.
func (w *blockWriter) add(r *revoked) error {
	w.begin(&r.serial)
	n := len(w.next.der)
	w.next.der = r.appendTo(w.next.der)
	written := reader(w.next.der[n:])
	body, _ := written.take(tagSequence)
	valid := validReason
	if w.delta {
		valid = validDeltaReason
	}
	if got, err := parseEntry(body, valid); err != nil || got != *r {
		return fmt.Errorf("no list can say that %x was revoked at %s", r.serial, time.Unix(r.at, 0).UTC())
	}
	return nil
}

// copy writes the entry at which r stands.
func (w *blockWriter) copy(r *entryReader) {
	w.begin(&r.serial)
	w.next.der = append(w.next.der, r.whole...)
}

// begin makes room for an entry.
func (w *blockWriter) begin(serial *[maxSerial]byte) {
	limit := w.limit
	if limit == 0 {
		limit = blockSize
	}
	if len(w.next.der)+maxEntry > limit && w.next.count > 0 {
		w.cut(nil)
	}
	if w.next.count == 0 {
		w.next.first = *serial
		w.next.der = slices.Grow(w.next.der, limit)
	}
	w.next.count++
}

// cut ends the block that is being written. If it says what old says, old takes its place.
func (w *blockWriter) cut(old *block) {
	b := w.next
	switch {
	case old != nil && bytes.Equal(b.der, old.der):
		w.put(old)
		w.next = block{der: b.der[:0]}
	default:
		b.der = fitted(b.der)
		w.put(&b)
		w.next = block{}
	}
}

// fitted returns b without the room that it has left, if that is much: there may be thousands of shards with an entry
// or two each.
func fitted(b []byte) []byte {
	if cap(b)-len(b) > len(b)/4 {
		return bytes.Clone(b)
	}
	return b
}

// put appends a block. Blocks that have become small are joined, or there would be ever more of them.
func (w *blockWriter) put(b *block) {
	if b.count == 0 {
		return
	}
	w.done.size += len(b.der)
	w.done.count += b.count
	if n := len(w.done.blocks); n > 0 {
		if last := w.done.blocks[n-1]; len(last.der)+len(b.der) <= blockSize {
			w.done.blocks[n-1] = &block{der: slices.Concat(last.der, b.der), first: last.first, count: last.count + b.count}
			return
		}
	}
	w.done.blocks = append(w.done.blocks, b)
}

func (w *blockWriter) finish() *entries {
	done := w.done // alone, without the buffer
	return &done
}

// rereading makes entries of a full reading of the revocations, out of the blocks of old ones where these say the
// same: it takes memory for what differs, and not for a second list.
type rereading struct {
	blockWriter
	old []*block // the first one is being compared
}

func (r *rereading) add(e *revoked) error {
	for len(r.old) > 1 && bytes.Compare(e.serial[:], r.old[1].first[:]) >= 0 {
		r.cut(r.old[0])
		r.old = r.old[1:]
	}
	r.limit = blockSize
	if len(r.old) > 0 {
		r.limit = max(blockSize, len(r.old[0].der)+maxEntry)
	}
	return r.blockWriter.add(e)
}

func (r *rereading) finish() *entries {
	if len(r.old) > 0 {
		r.cut(r.old[0])
	} else {
		r.cut(nil)
	}
	return r.blockWriter.finish()
}

// entryReader reads entries that a blockWriter wrote.
type entryReader struct {
	blocks []*block
	rest   []byte
	whole  []byte // the entry where it stands; nil at the end
	serial [maxSerial]byte
}

func (r *entryReader) next() {
	for len(r.rest) == 0 {
		if len(r.blocks) == 0 {
			r.whole = nil
			return
		}
		r.rest, r.blocks = r.blocks[0].der, r.blocks[1:]
	}
	n := headerSize + int(r.rest[1])
	r.whole, r.rest = r.rest[:n:n], r.rest[n:]
	serial := r.whole[2*headerSize:][:r.whole[headerSize+1]]
	if len(serial) > maxSerial {
		serial = serial[1:] // the octet for the sign
	}
	r.serial = [maxSerial]byte{}
	copy(r.serial[maxSerial-len(serial):], serial)
}

// difference counts what b lacks of a's entries, what it has beyond them, and what it says otherwise.
func difference(a, b *entries) (lacks, extra, other int) {
	x, y := entryReader{blocks: a.blocks}, entryReader{blocks: b.blocks}
	x.next()
	y.next()
	for x.whole != nil || y.whole != nil {
		order := bytes.Compare(x.serial[:], y.serial[:])
		switch {
		case y.whole == nil || x.whole != nil && order < 0:
			lacks++
			x.next()
		case x.whole == nil || order > 0:
			extra++
			y.next()
		default:
			if !bytes.Equal(x.whole, y.whole) {
				other++
			}
			x.next()
			y.next()
		}
	}
	return lacks, extra, other
}
