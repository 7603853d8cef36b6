package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/pkid/pkid/ca"
)

// thinBlocks notes that certificates are gone, and writes the blocks anew of which half may be. Where the spans of
// blocks overlap, a certificate counts in each whose block it may be in: one is then written too early, and none stays
// full of what is gone.
func (t *tx) thinBlocks(gone []ca.Serial) error {
	if len(gone) == 0 {
		return nil
	}
	all, err := t.spans(ca.Serial{}, noSerial)
	if err != nil {
		return err
	}
	for _, s := range all {
		n := uint32(0)
		for i := range gone {
			if bytes.Compare(gone[i][:], s.low[:]) >= 0 && bytes.Compare(gone[i][:], s.high[:]) <= 0 {
				n++
			}
		}
		if n == 0 {
			continue
		}
		if err := t.thinBlock(s.number, n); err != nil {
			return fmt.Errorf("block %d: %w", s.number, err)
		}
	}
	return nil
}

// thinBlock notes that so many more certificates may be gone from a block.
func (t *tx) thinBlock(number uint64, n uint32) error {
	block, err := t.block(number)
	if err != nil {
		return err
	}
	key := ordered(int64(number))
	sum, before, err := decodeThinned(t.get(thinned, key))
	if err != nil {
		return err
	}
	if sum == nil {
		now := crc32.Checksum(block, castagnoli)
		sum = &now
	}
	if n += before; int(n) < len(block)/entryLen/2 {
		return t.put(thinned, key, encodeThinned(*sum, n))
	}
	entries, err := decodeBlock(block)
	if err != nil {
		return err
	}
	stay := entries[:0]
	for _, e := range entries {
		if t.get(certificates, e.serial[:]) != nil {
			stay = append(stay, e)
		}
	}
	if len(stay) == 0 {
		return errors.Join(t.delete(blocks, key), t.delete(spans, key), t.delete(thinned, key))
	}
	return t.putBlock(number, stay)
}

// decodeBlock reads what encodeBlock wrote.
func decodeBlock(block []byte) ([]indexed, error) {
	n := len(block) / entryLen
	if n == 0 || len(block)%entryLen != 0 {
		return nil, errDamaged
	}
	entries := make([]indexed, n)
	for i := range entries {
		entries[i].serial = ca.Serial(block[i*len(ca.Serial{}):])
	}
	for _, key := range []by{byThumb, byClient} {
		hashes := block[n*len(ca.Serial{})+int(key)*n*(hashLen+placeLen):]
		places := hashes[n*hashLen:]
		for i := range n {
			place := int(binary.LittleEndian.Uint16(places[i*placeLen:]))
			if place >= n {
				return nil, errDamaged
			}
			if hash := binary.LittleEndian.Uint32(hashes[i*hashLen:]); key == byThumb {
				entries[place].thumb = hash
			} else {
				entries[place].client = hash
			}
		}
	}
	return entries, nil
}

func encodeThinned(sum, gone uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, sum), gone)
}

// decodeThinned reads a block's checksum and how many of its certificates may be gone; nil is a block of before there
// were checksums.
func decodeThinned(v []byte) (sum *uint32, gone uint32, err error) {
	switch len(v) {
	case 0:
		return nil, 0, nil
	case 8:
		crc := binary.BigEndian.Uint32(v)
		return &crc, binary.BigEndian.Uint32(v[4:]), nil
	}
	return nil, 0, errDamaged
}
