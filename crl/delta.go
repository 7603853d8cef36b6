package crl

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// A delta CRL says what changed since a full list, its base (RFC 5280 section 5.2.4). It has the scope, the number
// and the times of the full list that is published with it, which names its URL in FreshestCRL.

// kind is which of the two a list is.
type kind bool

const (
	fullList  kind = false
	deltaList kind = true
)

// removeFromCRL is the reason that takes a certificate off the list (RFC 5280 section 5.3.1).
const removeFromCRL = 8

// validDeltaReason reports whether a delta list may give the reason.
func validDeltaReason(code int) bool { return validReason(code) || code == removeFromCRL }

// DeltaURL returns where the delta list of a list at this URL is served: at x-delta.crl for x.crl.
func DeltaURL(list string) string { return strings.TrimSuffix(list, ".crl") + "-delta.crl" }

// freshestCRL returns the extension by which a full list names its delta. It must not be critical (RFC 5280 section
// 5.2.6).
func freshestCRL(location string) []byte {
	name := wrap(tagDistributionPoint, wrap(tagFullName, wrap(tagURI, []byte(location))))
	return extension(oidFreshestCRL, nil, wrap(tagSequence, wrap(tagSequence, name)))
}

const (
	tagDistributionPoint = 0xa0 // distributionPoint [0]
	tagFullName          = 0xa0 // fullName [0]
	tagURI               = 0x80 | generalNameURI
)

// deltaIndicator returns the extension that makes a list a delta to a base.
func deltaIndicator(base uint64) []byte {
	return extension(oidDeltaIndicator, isCritical, unsigned(base))
}

// parseFreshest returns the first URL in a FreshestCRL extension from which a delta can be had. The extension is a
// hint: one that cannot be read names none.
func parseFreshest(value []byte) string {
	var points []distributionPoint
	if rest, err := asn1.Unmarshal(value, &points); err != nil || len(rest) > 0 {
		return ""
	}
	for _, p := range points {
		if p.Reasons.BitLength > 0 || len(p.Issuer.FullBytes) > 0 {
			continue // for some reasons only, or signed by somebody else
		}
		for _, name := range p.Name.FullName {
			if name.Class == asn1.ClassContextSpecific && name.Tag == generalNameURI && checkURL(string(name.Bytes)) == nil {
				return string(name.Bytes)
			}
		}
	}
	return ""
}

// setBase reads a deltaCRLIndicator.
func (l *List) setBase(ext pkix.Extension) error {
	if !ext.Critical {
		return errors.New("its deltaCRLIndicator is not critical")
	}
	var base *big.Int
	if rest, err := asn1.Unmarshal(ext.Value, &base); err != nil || len(rest) > 0 || !base.IsUint64() {
		return errors.New("its deltaCRLIndicator has no BaseCRLNumber, or one that does not fit 64 bits")
	}
	l.base = base.Uint64()
	return nil
}

// checkKind refuses a list of another kind than is wanted, and a delta that cannot be one.
func (l *List) checkKind(got, want kind) error {
	switch {
	case got != want && got == deltaList:
		return errors.New("it is a delta CRL")
	case got != want:
		return errors.New("it is not a delta CRL")
	case got == deltaList && l.base > l.Number:
		return fmt.Errorf("it is number %d, and a delta to number %d", l.Number, l.base)
	case got == deltaList && l.DeltaURL != "": // RFC 5280 section 5.2.6
		return errors.New("a delta CRL with a FreshestCRL")
	}
	return nil
}

// parseDelta reads a delta CRL as ParseAndVerify reads a full one: what is no different is checked there. An entry may
// say removeFromCRL, and no two may be about one certificate.
func parseDelta(der []byte, issuer *x509.Certificate, wantURL string, now time.Time) (*List, error) {
	l, p, err := verify(DER{der}, deltaList, issuer, wantURL, now)
	if err == nil {
		l.entries, err = parseEntriesWith(p.entries.Bytes(), validDeltaReason)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: delta: %w", ErrList, err)
	}
	for i := 1; i < len(l.entries); i++ {
		if l.entries[i].serial == l.entries[i-1].serial {
			return nil, fmt.Errorf("%w: delta: %x is on it twice", ErrList, l.entries[i].serial)
		}
	}
	return l, nil
}
