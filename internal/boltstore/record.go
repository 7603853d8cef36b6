package boltstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/thumbprint"
)

// A certificate's record is a version octet, then its small members, then the DER as a difference to a pattern.
// What a list filters by stands before the DER, though most of it is in there too: that costs some 20 octets, and
// putting a certificate together and parsing it to look at a name would cost a hundred times the time of reading
// one. The serial is the key, the issuer and profile are the pattern's, and times are kept as differences, so none of
// them takes room twice. What became of the certificate is not in its record, which is therefore never written again.
//
// The thumbprint is the DER's hash. How it begins is in the record all the same: a damaged pattern would make other
// certificates of all that were stored as a difference to it, and their revocation would be another one's.
const recordVersion = 3

// Flags of a record.
const (
	hasParent = 1 << iota
	wholeDER  // there is no pattern, or it does not fit: the DER stands there as it is
)

// record is a certificate's record as it lies in the file. Its slices point there.
type record struct {
	serial              ca.Serial
	thumb               uint32 // how the thumbprint begins
	issuedAt            int64  // ms
	notBefore, notAfter int64  // s
	shard               uint32
	issuer, profile     string // the pattern's mostly
	client              []byte
	names               []byte // as appendNames wrote them
	parent              ca.Serial
	pattern             *pattern // of der, or nil if that is the DER
	der                 []byte
}

// encodeRecord writes a record, as a difference to p if there is one.
func encodeRecord(r *ca.Record, p *pattern) []byte {
	b := make([]byte, 0, len(r.DER)+160)
	flags := byte(0)
	if !r.Parent.IsZero() {
		flags |= hasParent
	}
	b = binary.BigEndian.AppendUint32(append(b, recordVersion, flags), thumbHash(r.Thumbprint))
	if p == nil {
		b = appendText(appendText(append(b, 0), r.Issuer), r.Profile)
	} else {
		b = binary.AppendUvarint(b, p.id)
	}
	ms := r.IssuedAt.UnixMilli()
	b = binary.AppendVarint(b, ms-serialTime(r.Serial))
	b = binary.AppendVarint(b, r.NotBefore.Unix()-ms/1000)
	b = binary.AppendVarint(b, r.NotAfter.Unix()-r.NotBefore.Unix())
	b = binary.AppendUvarint(b, uint64(r.Shard))
	b = appendText(b, r.ClientID)
	if flags&hasParent != 0 {
		b = append(b, r.Parent[:]...)
	}
	b = appendNames(b, r.Names, r.ClientID)
	front := len(b)
	if p != nil {
		b = p.appendDifference(b, r.DER)
		if whole, ok := p.text(b[front:]); ok && bytes.Equal(whole, r.DER) && len(b)-front < len(r.DER) {
			return slices.Clip(b)
		}
	}
	b[1] |= wholeDER
	return append(b[:front], r.DER...)
}

// appendNames writes names, each with the number of its octets plus one; 0 is the client's id, which the common name
// mostly is.
func appendNames(b []byte, names []string, clientID string) []byte {
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, n := range names {
		if n == clientID {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(n))+1)
		b = append(b, n...)
	}
	return b
}

// eachName calls do with each name, as long as it returns true.
func (r *record) eachName(do func(name []byte) bool) {
	f := fields{rest: r.names}
	for range f.count() {
		if name := f.name(r.client); f.short || !do(name) {
			return
		}
	}
}

// certificateRecord reads what encodeRecord wrote, without copying.
func (t *tx) certificateRecord(serial ca.Serial, b []byte) (record, error) {
	const head = 2 + hashLen
	if len(b) < head || b[0] != recordVersion {
		return record{}, fmt.Errorf("certificate %s: record of an unknown version", serial)
	}
	flags, f := b[1], fields{rest: b[head:]}
	r := record{serial: serial, thumb: binary.BigEndian.Uint32(b[2:])}
	if id := f.count(); id == 0 {
		r.issuer, r.profile = string(f.text()), string(f.text())
	} else {
		p, err := t.pattern(id)
		if err != nil {
			return record{}, fmt.Errorf("certificate %s: %w", serial, err)
		}
		r.issuer, r.profile, r.pattern = p.issuer, p.profile, p
	}
	r.issuedAt = serialTime(serial) + f.number()
	r.notBefore = r.issuedAt/1000 + f.number()
	r.notAfter = r.notBefore + f.number()
	r.shard = uint32(f.count())
	r.client = f.text()
	if flags&hasParent != 0 {
		copy(r.parent[:], f.take(len(r.parent)))
	}
	names := f.rest
	for range f.count() {
		if f.name(r.client); f.short {
			break
		}
	}
	r.names, r.der = names[:len(names)-len(f.rest)], f.rest
	if flags&wholeDER != 0 {
		r.pattern = nil
	}
	if f.short || r.pattern == nil && flags&wholeDER == 0 {
		return record{}, fmt.Errorf("certificate %s: %w", serial, errDamaged)
	}
	return r, nil
}

// copy returns the record for use outside of the transaction.
func (r *record) copy(rev *ca.Revocation) (*ca.Record, error) {
	der, ok := r.der, true
	if r.pattern != nil {
		der, ok = r.pattern.text(r.der)
	} else {
		der = bytes.Clone(der)
	}
	thumb := thumbprint.OfDER(der)
	if !ok || thumbHash(thumb) != r.thumb {
		return nil, fmt.Errorf("certificate %s: %w", r.serial, errDamaged)
	}
	out := &ca.Record{
		Serial:     r.serial,
		Issuer:     r.issuer,
		Shard:      r.shard,
		ClientID:   string(r.client),
		Profile:    r.profile,
		Thumbprint: thumb,
		NotBefore:  time.Unix(r.notBefore, 0).UTC(),
		NotAfter:   time.Unix(r.notAfter, 0).UTC(),
		IssuedAt:   time.UnixMilli(r.issuedAt).UTC(),
		Parent:     r.parent,
		DER:        der,
		Revocation: rev,
	}
	r.eachName(func(name []byte) bool {
		if string(name) == out.ClientID {
			out.Names = append(out.Names, out.ClientID)
		} else {
			out.Names = append(out.Names, string(name))
		}
		return true
	})
	return out, nil
}

func clientHash(id string) uint32 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint32(sum[:])
}

func thumbHash(t thumbprint.Cert) uint32 { return binary.BigEndian.Uint32(t[:]) }

// serialTime returns the Unix milliseconds that a serial starts with.
func serialTime(s ca.Serial) int64 {
	var b [8]byte
	copy(b[2:], s[:6])
	return int64(binary.BigEndian.Uint64(b[:]))
}

var errDamaged = errors.New("damaged record")

// fields reads a record's members in turn. After a member that does not fit, short is set and the rest is empty.
type fields struct {
	rest  []byte
	short bool
}

func (f *fields) number() int64 {
	v, n := binary.Varint(f.rest)
	f.skip(n)
	return v
}

func (f *fields) count() uint64 {
	v, n := binary.Uvarint(f.rest)
	f.skip(n)
	return v
}

func (f *fields) octet() byte {
	if v := f.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (f *fields) text() []byte {
	size := f.count()
	if size > uint64(len(f.rest)) {
		f.skip(-1)
		return nil
	}
	return f.take(int(size))
}

// name reads what appendNames wrote for one name.
func (f *fields) name(client []byte) []byte {
	size := f.count()
	if size == 0 {
		return client
	}
	if size > uint64(len(f.rest))+1 {
		f.skip(-1)
		return nil
	}
	return f.take(int(size) - 1)
}

// take reads n octets, or returns nil.
func (f *fields) take(n int) []byte {
	if n > len(f.rest) {
		f.skip(-1)
		return nil
	}
	v := f.rest[:n]
	f.rest = f.rest[n:]
	return v
}

// skip goes on after n octets; no or less than none is a member that does not fit.
func (f *fields) skip(n int) {
	if n <= 0 {
		f.rest, f.short = nil, true
		return
	}
	f.rest = f.rest[n:]
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
