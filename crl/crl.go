// Package crl publishes revocation status as certificate revocation lists (RFC 5280 section 5) and, apart
// from that, checks a certificate against such a list.
//
// Publisher is the CA's side: it signs a full CRL per issuer as soon as something was revoked, and again well
// before the old one's nextUpdate. Checker is a server's side: it fetches, verifies and remembers the newest
// list, and refuses when it cannot know.
package crl

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Shard names one CRL of an issuing CA, by its id and a number. An issuer whose revocations all stand on one list
// has Number 0 alone.
type Shard struct {
	Issuer string
	Number uint32
}

// Signed is a CRL as published.
type Signed struct {
	Shard      Shard
	Number     uint64 // CRL number (RFC 5280 section 5.2.3); grows strictly
	ThisUpdate time.Time
	NextUpdate time.Time
	DER        DER
	Delta      DER // the delta CRL that was published with it; nil if there is none
}

// Entry is one revoked certificate on a CRL.
type Entry struct {
	Serial   []byte // big endian
	Reason   int    // CRLReason (RFC 5280 section 5.3.1)
	At       time.Time
	NotAfter time.Time // the certificate's
}

var (
	// ErrNotPublished: the shard has no CRL yet.
	ErrNotPublished = errors.New("no CRL published yet")
	// ErrConflict: another node published in between. Start over from Latest.
	ErrConflict = errors.New("another CRL was published in between")
	// ErrChangesDropped: changes after the position that was asked for are not kept any more.
	ErrChangesDropped = errors.New("the log of changes does not go back that far")
)

// Store keeps the newest CRL of each shard. Its methods may be called at once from many processes.
type Store interface {
	// Latest returns the newest CRL, or ErrNotPublished. DER is nil if have is its Number, since the caller has it
	// then, and if the store lost it, which a crash can bring about: the CRL was published all the same, so its
	// Number and times count, and the next one must come soon.
	Latest(ctx context.Context, shard Shard, have uint64) (Signed, error)
	// Replace makes next the newest CRL if the newest is still prev, told by its Number; a zero prev means that
	// there is none yet. Otherwise it returns ErrConflict and changes nothing. Number and times are durable when it
	// returns; the DER may follow later, and must not be changed. A store that several nodes publish to keeps Delta
	// beside the DER, and any other may leave it out: then each start begins with an empty one.
	Replace(ctx context.Context, prev, next Signed) error
}

// Revocations is what a CRL is made from. The stores implement it beside Store.
type Revocations interface {
	// Revoked yields, in the order of their serials, the certificates of an issuer that are revoked or held
	// at the time of the call and that expire at notBefore or later. It sees every revocation that was
	// durable when it was called. An error ends the sequence.
	Revoked(ctx context.Context, shard Shard, notBefore time.Time) iter.Seq2[Entry, error]
	// Position returns the end of the log of changes: that of the newest change which was durable at the time of
	// the call, whatever its shard, and zero before the first.
	Position(ctx context.Context) (uint64, error)
	// Changes yields what became of certificates of the shard after a position, oldest first: every change that was
	// durable when it was called. An error ends the sequence.
	//
	// A store drops old changes, whatever their shard, but never one that is younger than one that it keeps. Position
	// stays what it was. Who asks for changes after a position of which one was dropped gets ErrChangesDropped, before or
	// in place of the first change that would follow the gap, and reads everything with Revoked: nothing is missed in
	// silence. Revoked forgets a certificate only when a list was signed after it expired.
	Changes(ctx context.Context, shard Shard, after uint64) iter.Seq2[Change, error]
}

// Change is a revocation, a hold or a release.
type Change struct {
	Position uint64 // in the log; grows strictly, also from one that became durable before to one that did after
	Released bool   // the certificate is on hold no more, and off the list
	Entry           // as it is to stand on the list
}

// Signer signs CRLs with an issuing CA's key; *ca.Authority is one.
type Signer interface {
	// SignCRL returns the signature over tbs, the DER of a TBSCertList (RFC 5280 section 5.1.2) in parts, by the
	// algorithm that tbs names. It neither changes tbs nor keeps it. It has checked that the signature is the
	// issuing key's over these very octets: that takes reading all of them, which is done once.
	SignCRL(ctx context.Context, issuer string, tbs [][]byte) (signature []byte, err error)
}
