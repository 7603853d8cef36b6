package boltstore

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/pkid/pkid/ca"
)

// maxPatterns bounds the kinds of certificates that have a pattern. Each takes some 3 KiB of memory. Certificates of
// further kinds are stored whole.
const maxPatterns = 64

// kind is what certificates share a pattern by.
type kind struct{ issuer, profile string }

// patterns are those that are durable. A set is never changed: the writer puts a larger one in its place, once that
// is committed.
type patterns struct {
	byKind map[kind]*pattern
	byID   []*pattern // from 1
}

func (s *patterns) of(r *ca.Record) *pattern { return s.byKind[kind{r.Issuer, r.Profile}] }

// with returns a set that has p too.
func (s *patterns) with(p *pattern) *patterns {
	out := &patterns{byKind: maps.Clone(s.byKind), byID: append(slices.Clip(s.byID), p)}
	out.byKind[kind{p.issuer, p.profile}] = p
	return out
}

// pattern returns the pattern with an id. A record may be read before its pattern was put into the set: then the
// transaction that has the one has the other.
func (t *tx) pattern(id uint64) (*pattern, error) {
	if id-1 < uint64(len(t.patterns.byID)) {
		return t.patterns.byID[id-1], nil
	}
	v := t.get(patternsOf, ordered(int64(id)))
	if v == nil {
		return nil, fmt.Errorf("pattern %d: %w", id, errDamaged)
	}
	return decodePattern(id, v)
}

// encode writes a record. The first of its kind becomes the pattern of those that follow.
func (t *tx) encode(r *ca.Record) ([]byte, error) {
	p := t.patterns.of(r)
	if p == nil && len(t.patterns.byID) < maxPatterns && len(r.DER) <= maxPattern {
		p = newPattern(uint64(len(t.patterns.byID))+1, r.Issuer, r.Profile, bytes.Clone(r.DER))
		t.patterns = t.patterns.with(p)
		if err := t.put(patternsOf, ordered(int64(p.id)), encodePattern(p)); err != nil {
			return nil, err
		}
	}
	return encodeRecord(r, p), nil
}

// loadPatterns reads the set, at the opening.
func (t *tx) loadPatterns() (*patterns, error) {
	set := &patterns{byKind: map[kind]*pattern{}}
	c := t.cursor(patternsOf)
	for k, v := c.First(); k != nil; k, v = c.Next() {
		p, err := decodePattern(uint64(number(k)), v)
		if err != nil || p.id != uint64(len(set.byID))+1 {
			return nil, fmt.Errorf("%w: it is damaged: pattern %d is not readable", ErrNotStore, len(set.byID)+1)
		}
		set = set.with(p)
	}
	return set, nil
}

func encodePattern(p *pattern) []byte {
	return append(appendText(appendText(nil, p.issuer), p.profile), p.der...)
}

func decodePattern(id uint64, v []byte) (*pattern, error) {
	f := fields{rest: v}
	issuer, profile := string(f.text()), string(f.text())
	if f.short || len(f.rest) > maxPattern {
		return nil, fmt.Errorf("pattern %d: %w", id, errDamaged)
	}
	return newPattern(id, issuer, profile, bytes.Clone(f.rest)), nil
}
