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

// Shard names one CRL: that of an issuing CA, by its id.
type Shard struct {
	Issuer string
}

// Signed is a CRL as published.
type Signed struct {
	Shard      Shard
	Number     uint64 // CRL number (RFC 5280 section 5.2.3); grows strictly
	ThisUpdate time.Time
	NextUpdate time.Time
	DER        []byte
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
)

// Store keeps the newest CRL of each shard. Its methods may be called at once from many processes.
type Store interface {
	// Latest returns the newest CRL, or ErrNotPublished.
	Latest(ctx context.Context, shard Shard) (Signed, error)
	// Replace makes next the newest CRL, durably, if the newest is still prev, told by its Number; a zero
	// prev means that there is none yet. Otherwise it returns ErrConflict and changes nothing.
	Replace(ctx context.Context, prev, next Signed) error
}

// Revocations is what a CRL is made from. The stores implement it beside Store.
type Revocations interface {
	// Revoked yields, in the order of their serials, the certificates of an issuer that are revoked or held
	// at the time of the call and that expire at notBefore or later. It sees every revocation that was
	// durable when it was called. An error ends the sequence.
	Revoked(ctx context.Context, shard Shard, notBefore time.Time) iter.Seq2[Entry, error]
}

// Signer signs CRLs with an issuing CA's key; *ca.Authority is one.
type Signer interface {
	// SignCRL returns the signature over tbs, the DER of a TBSCertList (RFC 5280 section 5.1.2), by the
	// algorithm that tbs names. It neither changes tbs nor keeps it.
	SignCRL(ctx context.Context, issuer string, tbs []byte) (signature []byte, err error)
}
