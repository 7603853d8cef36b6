// Package keyring describes the keys that came into service after a CA was made: issuing CAs and token signing keys
// that were rotated in. The ring is in the store, so that every node of it uses the same keys from the same instant
// on. A private key is in it either sealed with the passphrase of the keys, or as the URI of the device that has it.
//
// What a key is used for follows from the clock alone (Active, Published), so nodes need not agree on anything but
// the ring.
package keyring

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// Use is what a key is for. A key has one use for all of its life.
type Use string

// The uses.
const (
	Issuing Use = "issuing" // an issuing CA's: certificates and CRLs
	Tokens  Use = "tokens"  // access tokens
)

// Key is a key of the ring and the instants, in whole milliseconds and UTC, between which it does something.
//
//	created ── published from the start ── ActiveFrom ── (the next key's ActiveFrom) ── EndsAt
//	                                       signs new things   known, signs CRLs only     dropped
type Key struct {
	ID          string   // an issuing CA's as in ca.IssuerID; a token key's kid
	Use         Use      //
	Algorithm   string   // ca.KeyType of an issuing key; ES256, EdDSA or PS256 of a token key
	URI         string   // of the device that has the private key; empty if it is in Sealed
	Sealed      []byte   // the private key as an encrypted PKCS #8 file; empty if URI names it
	Request     []byte   // the CSR (DER) of an issuing CA
	Certificate []byte   // its certificate (DER); nil until it is installed
	Root        []byte   // the trust anchor that Certificate chains to (DER)
	Chain       [][]byte // what clients get beside Certificate, such as a cross-signed root (DER)
	RootCRL     []byte   // the CRL of whoever signed Certificate (DER); nil: the configured one
	CreatedAt   time.Time
	ActiveFrom  time.Time // from then on it signs; zero: not yet decided
	EndsAt      time.Time // when nothing needs it any longer; zero: not yet known
	Version     uint64    // 1 for a new one; PutKey raises it
}

var (
	// ErrNotFound: no key has that id.
	ErrNotFound = errors.New("no such key")
	// ErrConflict: the key was changed in between. Read it again.
	ErrConflict = errors.New("the key was changed in between")
)

// Store keeps the ring. Its methods may be called at once from many processes.
type Store interface {
	// Keys returns every key of a use, in the order in which they were created.
	Keys(ctx context.Context, use Use) ([]Key, error)
	// PutKey keeps k if the stored one's version is k.Version (0: there is none), and returns k with its version raised
	// by one, durable together with its audit event. ErrConflict otherwise, with nothing changed.
	PutKey(ctx context.Context, k Key, ev audit.Event) (Key, error)
	// DropKey removes a key, durably together with its audit event. ErrNotFound if there is none of that id.
	DropKey(ctx context.Context, id string, ev audit.Event) error
}

// Active returns the key that signs at an instant: of those that are active the one that was made active last.
func Active(keys []Key, now time.Time) (Key, bool) {
	var found Key
	for _, k := range keys {
		if k.isActive(now) && !k.ActiveFrom.Before(found.ActiveFrom) {
			found = k
		}
	}
	return found, found.ID != ""
}

// Published returns the keys that others must know of at an instant.
func Published(keys []Key, now time.Time) []Key {
	return slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return k.ended(now) })
}

func (k Key) isActive(now time.Time) bool {
	return !k.ActiveFrom.IsZero() && !now.Before(k.ActiveFrom) && !k.ended(now)
}

func (k Key) ended(now time.Time) bool { return !k.EndsAt.IsZero() && !now.Before(k.EndsAt) }
