package stepimport

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"time"
)

// The tables of step-ca, and the one key of the CRL's.
const (
	certificates    = "x509_certs"         // serial number in decimal -> DER
	revoked         = "revoked_x509_certs" // serial number in decimal -> JSON
	lists           = "x509_crl"
	sshCertificates = "ssh_certs"
	newestList      = "crl"
)

// engine is a database that step-ca has put its tables into.
type engine interface {
	// each calls do for every row of a table, in whatever order, until it fails. What do is given is gone afterwards.
	// A table that is not there has no rows.
	each(table string, do func(key, value []byte) error) error
	// get returns a copy of a value; nil if there is none.
	get(table, key string) ([]byte, error)
	Close() error
}

// Database is step-ca's database, read only. Its methods may be called at once.
type Database struct{ engine engine }

// Database opens step-ca's database. The errors are ErrRunning, ErrUnsupported and ErrHome.
func (h *Home) Database() (*Database, error) {
	if h.database != "mysql" && h.database != "postgresql" && !exists(h.source) {
		return nil, fmt.Errorf("%w: its database is missing at %s", ErrHome, h.source)
	}
	var e engine
	var err error
	switch h.database {
	case "badgerv2":
		e, err = openBadger2(h.source, h.values)
	case "badger", "badgerv1":
		e, err = openBadger1(h.source, h.values)
	case "bbolt":
		e, err = openBolt(h.source)
	case "mysql", "postgresql":
		return nil, fmt.Errorf("%w: step-ca keeps its database in %s, and pkid reads badgerv2, badgerv1 and bbolt. A dump is not read either. "+
			"`pkid init --issuer-cert FILE --issuer-key-file FILE --root-cert FILE` takes the CA over without its certificates; then clients enrol anew", ErrUnsupported, h.database)
	default:
		return nil, fmt.Errorf("%w: a database of type %q", ErrUnsupported, h.database)
	}
	if err != nil {
		return nil, fmt.Errorf("step-ca's database %s: %w", h.source, err)
	}
	return &Database{e}, nil
}

// Close gives the database free again.
func (d *Database) Close() error { return d.engine.Close() }

// errEnough ends a walk.
var errEnough = errors.New("enough")

// Certificates yields the DER of each certificate that step-ca issued, in no order. An error ends them.
func (d *Database) Certificates() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		err := d.engine.each(certificates, func(_, der []byte) error {
			if !yield(append([]byte(nil), der...), nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, fmt.Errorf("reading step-ca's certificates: %w", err))
		}
	}
}

// Certificate returns the DER of the certificate with that serial number; nil if step-ca issued none.
func (d *Database) Certificate(serial *big.Int) ([]byte, error) {
	return d.engine.get(certificates, serial.String())
}

// Revocation is one as step-ca recorded it.
type Revocation struct {
	Serial  *big.Int
	Reason  int // CRLReason
	At      time.Time
	Expires time.Time // when the certificate does; zero if step-ca did not know
}

// Revocation returns that of a certificate; nil if it is not revoked.
func (d *Database) Revocation(serial *big.Int) (*Revocation, error) {
	text, err := d.engine.get(revoked, serial.String())
	if err != nil || text == nil {
		return nil, err
	}
	return parseRevocation([]byte(serial.String()), text)
}

// Revocations yields all of them, in no order. An error ends them.
func (d *Database) Revocations() iter.Seq2[*Revocation, error] {
	return func(yield func(*Revocation, error) bool) {
		err := d.engine.each(revoked, func(key, text []byte) error {
			r, err := parseRevocation(key, text)
			if err != nil {
				return err
			}
			if !yield(r, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, fmt.Errorf("reading step-ca's revocations: %w", err))
		}
	}
}

func parseRevocation(key, text []byte) (*Revocation, error) {
	var info struct {
		ReasonCode           int
		RevokedAt, ExpiresAt time.Time
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return nil, fmt.Errorf("revocation of %.60q: %w", key, err)
	}
	r := &Revocation{Reason: info.ReasonCode, At: info.RevokedAt, Expires: info.ExpiresAt}
	base := 10
	if bytes.HasPrefix(key, []byte("0x")) { // an older step-ca wrote what it was given
		base = 0
	}
	var ok bool
	if r.Serial, ok = new(big.Int).SetString(string(key), base); !ok {
		return nil, fmt.Errorf("revocation of %.60q: that is no serial number", key)
	}
	return r, nil
}

// NewestCRL returns the number of the newest CRL and its DER; zero and nil if step-ca made none.
func (d *Database) NewestCRL() (number uint64, der []byte, err error) {
	text, err := d.engine.get(lists, newestList)
	if err != nil || text == nil {
		return 0, nil, err
	}
	var info struct {
		Number uint64
		DER    []byte
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return 0, nil, fmt.Errorf("reading step-ca's CRL: %w", err)
	}
	return info.Number, info.DER, nil
}

// SSHCertificates counts the certificates for SSH.
func (d *Database) SSHCertificates() (n int, err error) {
	err = d.engine.each(sshCertificates, func(_, _ []byte) error {
		n++
		return nil
	})
	return n, err
}
