package boltstore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/thumbprint"
)

// A certificate's record is a version octet, then its small members, then the DER. What a list filters by
// stands before the DER, though most of it is in there too: that costs some 40 octets, and parsing a
// certificate to look at a name would cost a hundred times the time of reading one. The serial is the key, the
// thumbprint is the DER's hash, and times are kept as differences, so none of them takes room twice. What
// became of the certificate is not in its record, which is therefore never written again.
const recordVersion = 1

// record is a certificate's record as it lies in the file. Its slices point there.
type record struct {
	serial                         ca.Serial
	issuedAt                       int64 // ms
	notBefore, notAfter            int64 // s
	issuer, client, profile, names []byte
	parent                         []byte // empty, or a serial
	der                            []byte
}

func encodeRecord(r *ca.Record) []byte {
	ms := r.IssuedAt.UnixMilli()
	b := make([]byte, 0, len(r.DER)+160)
	b = append(b, recordVersion)
	b = binary.AppendVarint(b, ms-serialTime(r.Serial))
	b = binary.AppendVarint(b, r.NotBefore.Unix()-ms/1000)
	b = binary.AppendVarint(b, r.NotAfter.Unix()-r.NotBefore.Unix())
	b = appendText(b, r.Issuer)
	b = appendText(b, r.ClientID)
	b = appendText(b, r.Profile)
	if r.Parent.IsZero() {
		b = appendText(b, "")
	} else {
		b = appendText(b, string(r.Parent[:]))
	}
	var names []byte
	for _, n := range r.Names {
		names = appendText(names, n)
	}
	b = appendText(b, string(names))
	return append(b, r.DER...)
}

// decodeRecord reads what encodeRecord wrote, without copying.
func decodeRecord(serial ca.Serial, b []byte) (record, error) {
	if len(b) == 0 || b[0] != recordVersion {
		return record{}, fmt.Errorf("certificate %s: record of an unknown version", serial)
	}
	f := fields{rest: b[1:]}
	r := record{serial: serial, issuedAt: serialTime(serial) + f.number()}
	r.notBefore = r.issuedAt/1000 + f.number()
	r.notAfter = r.notBefore + f.number()
	r.issuer, r.client, r.profile, r.parent, r.names = f.text(), f.text(), f.text(), f.text(), f.text()
	r.der = f.rest
	if f.short || len(r.parent) != 0 && len(r.parent) != len(ca.Serial{}) {
		return record{}, fmt.Errorf("certificate %s: %w", serial, errDamaged)
	}
	return r, nil
}

// copy returns the record for use outside of the transaction.
func (r *record) copy(rev *ca.Revocation) *ca.Record {
	out := &ca.Record{
		Serial:     r.serial,
		Issuer:     string(r.issuer),
		ClientID:   string(r.client),
		Profile:    string(r.profile),
		Thumbprint: thumbprint.OfDER(r.der),
		NotBefore:  time.Unix(r.notBefore, 0).UTC(),
		NotAfter:   time.Unix(r.notAfter, 0).UTC(),
		IssuedAt:   time.UnixMilli(r.issuedAt).UTC(),
		DER:        append([]byte(nil), r.der...),
		Revocation: rev,
	}
	copy(out.Parent[:], r.parent)
	for f := (fields{rest: r.names}); len(f.rest) > 0; {
		out.Names = append(out.Names, string(f.text()))
	}
	return out
}

// The keys of the indexes.

func thumbKey(t thumbprint.Cert) []byte { return t[:indexPrefix] }

func clientKey(id string) []byte {
	sum := sha256.Sum256([]byte(id))
	return sum[:indexPrefix]
}

func revokedKey(issuer string, serial []byte) []byte { return join([]byte(issuer), []byte{0}, serial) }

// indexPrefix is how much of a hash an index is keyed by.
const indexPrefix = 8

func encodeRevocation(rev *ca.Revocation, notAfter time.Time) []byte {
	return join([]byte{byte(rev.Reason)}, ordered(rev.At.UnixMilli()), ordered(notAfter.Unix()))
}

const revocationLen = 1 + 8 + 8

// decodeRevocation reads what encodeRevocation wrote; nil is a certificate that was not revoked.
func decodeRevocation(v []byte) (*ca.Revocation, error) {
	if v == nil {
		return nil, nil //nolint:nilnil // not revoked, and no error
	}
	if len(v) != revocationLen {
		return nil, fmt.Errorf("revocation: %w", errDamaged)
	}
	return &ca.Revocation{Reason: ca.Reason(v[0]), At: time.UnixMilli(number(v[1:])).UTC()}, nil
}

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
	if n <= 0 {
		f.rest, f.short = nil, true
		return 0
	}
	f.rest = f.rest[n:]
	return v
}

func (f *fields) text() []byte {
	size, n := binary.Uvarint(f.rest)
	if n <= 0 || size > uint64(len(f.rest)-n) {
		f.rest, f.short = nil, true
		return nil
	}
	v := f.rest[n:][:size]
	f.rest = f.rest[n:][size:]
	return v
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
