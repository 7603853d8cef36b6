package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// Sentinels that a Store returns, wrapped or bare.
var (
	// ErrNotFound: no certificate has that serial or thumbprint.
	ErrNotFound = errors.New("no such certificate")
	// ErrDuplicate: the serial is taken. The caller draws another.
	ErrDuplicate = errors.New("serial number already used")
	// ErrCursor: a cursor that no List returned.
	ErrCursor = errors.New("unknown cursor: use next_cursor of an earlier answer as it was")
)

// Store keeps certificates and what became of them.
//
// Every method may be called at once from many goroutines and, where the engine allows it, from several
// processes. What a writing method returns without error is durable: it survives the loss of the process
// and of power. The audit event is sealed in the same transaction, so neither exists without the other. An
// error means that nothing was changed, unless ctx ended while the transaction was under way, or the error has a method
// OutcomeUnknown() that returns true: the engine was lost in the moment of the commit.
type Store interface {
	// Insert keeps rec. With a spend, it uses up that right in the same transaction: a *SpentError, and
	// nothing kept, if it was used before. ErrDuplicate if the serial is taken.
	Insert(ctx context.Context, rec *Record, spend *Spend, ev audit.Event) error
	// Certificate returns the record with that serial, or ErrNotFound.
	Certificate(ctx context.Context, serial Serial) (*Record, error)
	// RevokedThumbprint reports whether the certificate with that thumbprint is revoked or held. It is false for one
	// that no Insert brought.
	RevokedThumbprint(ctx context.Context, t thumbprint.Cert) (bool, error)
	// Decide reads the record, asks decide for its new revocation (nil: none) and the event, and keeps
	// both, all in one serializable transaction. decide may be called again after a conflict; its error
	// ends the transaction and is returned as it is. The result is the record as kept.
	Decide(ctx context.Context, serial Serial, decide func(*Record) (*Revocation, audit.Event, error)) (*Record, error)
	// Shards returns the CRLs of an issuer that some certificate names or named, in the order of their numbers.
	// The counts are those of every Insert that was durable when it was called.
	Shards(ctx context.Context, issuer string) ([]ShardCount, error)
	// List returns records in the order of their serials, newest first, that match q; at most q.Limit.
	List(ctx context.Context, q Query) (*Page, error)
}

// Record is a certificate as stored. Records are read-only once they left the store.
type Record struct {
	Serial     Serial
	Issuer     string // the id of the issuing CA, as in its CRL's URL
	Shard      uint32 // which of the issuer's CRLs speaks of it, as its CRL distribution point says; 0 is the first
	ClientID   string // whom it speaks for
	Profile    string
	Thumbprint thumbprint.Cert
	NotBefore  time.Time // seconds, UTC, as in the certificate
	NotAfter   time.Time
	IssuedAt   time.Time   // milliseconds, UTC
	Parent     Serial      // the certificate that this one renews; zero for the first of a lineage
	Names      []string    // common name and SANs, for search, as Names.Text gives them
	DER        []byte      // the certificate
	Revocation *Revocation // nil: neither revoked nor held
}

// Revocation is why and since when a certificate is not to be trusted.
type Revocation struct {
	Reason Reason
	At     time.Time // milliseconds, UTC
}

// Spend is a right that one certificate uses up: an invitation's. Use tells a retry from another attempt;
// it is the hash of the CSR.
type Spend struct {
	ID  string
	Use [32]byte
}

// SpentError reports that the right was used before, for which certificate, and with which Use.
type SpentError struct {
	Spend
	Serial Serial
}

func (e *SpentError) Error() string {
	return fmt.Sprintf("invitation %s was already used, for certificate %s", e.ID, e.Serial)
}

// Status is what became of a certificate.
type Status string

// The statuses. A held certificate may come back; an expired one that was revoked stays "revoked".
const (
	Active  Status = "active"
	Held    Status = "held"
	Revoked Status = "revoked"
	Expired Status = "expired"
)

// Status returns the record's status at an instant.
func (r *Record) Status(now time.Time) Status {
	switch {
	case r.Revocation != nil && r.Revocation.Reason == CertificateHold:
		return Held
	case r.Revocation != nil:
		return Revoked
	case now.After(r.NotAfter):
		return Expired
	default:
		return Active
	}
}

// Query selects certificates. Zero members select everything; set ones must all hold.
type Query struct {
	ClientID      string
	Name          string          // one of Record.Names holds this text, case-insensitive
	Thumbprint    thumbprint.Cert // this certificate only
	Status        Status          // at Now
	Profile       string
	ExpiresAfter  time.Time // NotAfter >= this
	ExpiresBefore time.Time // NotAfter < this
	After         Serial    // only serials above this one
	Renewal       bool      // only certificates that renew another
	Now           time.Time // the instant of Status; required with it
	Cursor        string    // Page.Next of the page before; opaque
	Limit         int       // 1..1000
}

// Page is a part of a List. Next is empty at the end.
type Page struct {
	Records []*Record
	Next    string
}
