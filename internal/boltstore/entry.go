package boltstore

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
)

// An audit entry's value is its hash, a flag whether it brought a certificate and that one's serial, then its members
// with each text packed (see pack.go). Its number is the key, and prev is the hash of the entry before. A certificate's
// entry takes some 150 octets like this, and 560 as the JSON that is hashed.

// The texts that entries are full of. A number in the file is a place in these lists: they may grow at the end, and
// that is all.
var (
	actions = []string{
		audit.Invite, audit.Issue, audit.Renew, audit.Revoke, audit.Hold, audit.Release, audit.ClientAdd, audit.ClientChange,
		audit.ClientDisable, audit.ClientEnable, audit.TokenRevoke, audit.Initialise, audit.OperatorCreate,
	}
	detailKeys = []string{
		"client", "profile", "not_after", "x5t#S256", "renews", "invitation", "reason", "lineage", "names", "expires_at",
		"changed", "root", "key_type", "auth",
	}
)

const brought = 1 // flag: a certificate, whose serial follows

// seal appends ev to the log, in the transaction of the act that it describes.
func (t *tx) seal(ev audit.Event) error { return t.sealWith(ev, nil) }

// sealWith is seal for an act that brought a certificate.
func (t *tx) sealWith(ev audit.Event, serial *ca.Serial) error {
	e := audit.Seal(t.head, ev)
	t.head = e.Head()
	return t.put(log, ordered(int64(e.Seq)), encodeEntry(&e, serial))
}

func encodeEntry(e *audit.Entry, serial *ca.Serial) []byte {
	b := append(make([]byte, 0, 192), e.Hash[:]...)
	p := packer{actor: e.Actor}
	since := int64(0)
	if serial == nil {
		b = append(b, 0)
	} else {
		b = append(append(b, brought), serial[:]...)
		p.serial, since = serial.String(), serialTime(*serial)
	}
	b = binary.AppendVarint(b, e.Time.UnixMilli()-since)
	b = appendKnown(b, actions, e.Action)
	b = (&packer{serial: p.serial}).append(b, e.Actor) // itself is no way to tell it
	b = p.append(b, e.Address)
	b = p.append(b, e.RequestID)
	b = p.append(b, e.Subject)
	b = binary.AppendUvarint(b, uint64(len(e.Detail)))
	for k, v := range e.Detail {
		b = p.append(appendKnown(b, detailKeys, k), v)
	}
	return b
}

// decodeEntry reads what encodeEntry wrote for an entry, given the hash of the one before.
func decodeEntry(seq uint64, prev audit.Hash, v []byte) (audit.Entry, error) {
	f := fields{rest: v}
	e := audit.Entry{Seq: seq, Prev: prev}
	copy(e.Hash[:], f.take(len(e.Hash)))
	p, since := packer{}, int64(0)
	if f.octet()&brought != 0 {
		var serial ca.Serial
		copy(serial[:], f.take(len(serial)))
		p.serial, since = serial.String(), serialTime(serial)
	}
	e.Time = time.UnixMilli(since + f.number()).UTC()
	e.Action = f.known(actions)
	p.actor = p.read(&f)
	e.Actor, e.Address, e.RequestID, e.Subject = p.actor, p.read(&f), p.read(&f), p.read(&f)
	n := f.count()
	if n > uint64(len(f.rest)) {
		f.skip(-1)
		n = 0
	}
	if n > 0 {
		e.Detail = make(map[string]string, n)
	}
	for range n {
		k := f.known(detailKeys)
		e.Detail[k] = p.read(&f)
	}
	if year := e.Time.Year(); f.short || len(f.rest) > 0 || year < 0 || year > 9999 { // of years, JSON can tell no others
		return e, fmt.Errorf("audit entry %d: %w", seq, errDamaged)
	}
	return e, nil
}

// broughtBy returns the serial of the certificate that an entry brought.
func broughtBy(v []byte) (serial ca.Serial, ok bool) {
	f := fields{rest: v}
	f.take(len(audit.Hash{}))
	if f.octet()&brought == 0 {
		return serial, false
	}
	return serial, copy(serial[:], f.take(len(serial))) == len(serial)
}

// appendKnown writes a text as its place in a list, from 1, or after a zero.
func appendKnown(b []byte, list []string, s string) []byte {
	if i := slices.Index(list, s); i >= 0 {
		return binary.AppendUvarint(b, uint64(i)+1)
	}
	return appendText(append(b, 0), s)
}

func (f *fields) known(list []string) string {
	switch i := f.count(); {
	case i == 0:
		return string(f.text())
	case i <= uint64(len(list)):
		return list[i-1]
	default:
		f.skip(-1)
		return ""
	}
}
