package crl

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"slices"
	"time"
)

// ErrList reports a CRL that must not be relied on; the wrapping error says why.
var ErrList = errors.New("CRL refused")

// maxSkew is how far ahead of the local clock a list's thisUpdate may be.
const maxSkew = 2 * time.Minute

var (
	oidCRLNumber      = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidFreshestCRL    = asn1.ObjectIdentifier{2, 5, 29, 46}
	oidDeltaIndicator = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidAuthorityKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}
)

// List is a verified full CRL. It is read-only and takes 32 octets of memory per entry.
type List struct {
	Number     uint64
	ThisUpdate time.Time
	NextUpdate time.Time
	URL        string // of its IssuingDistributionPoint; empty if it has none
	DeltaURL   string // of its FreshestCRL (RFC 5280 section 5.2.6), where changes to it are told; empty if it has none

	entries []revoked         // sorted by serial
	sum     [sha256.Size]byte // SHA-256 of the signature: two lists of one issuer that differ have different ones
	scope   []byte            // the content of its IssuingDistributionPoint
	base    uint64            // the BaseCRLNumber of a delta
	overlay *overlay          // what a delta said on top; nil in a list as it was fetched
}

// Len returns how many certificates are on the list.
func (l *List) Len() int {
	if l.overlay != nil {
		return l.overlay.count
	}
	return len(l.entries)
}

// signedLike reports whether a list bears this one's signature: it is this one, or does not verify.
func (l *List) signedLike(der []byte) bool {
	p, err := split(DER{der})
	if err != nil {
		return false
	}
	h, err := x509.ParseRevocationList(p.bare)
	return err == nil && sha256.Sum256(h.Signature) == l.sum
}

// Lookup returns a certificate's entry. NotAfter is not set: a CRL does not carry it.
func (l *List) Lookup(serial *big.Int) (Entry, bool) {
	r, ok := l.find(serial)
	if !ok {
		return Entry{}, false
	}
	return r.entry(), true
}

// All yields the entries in the order of their serials, without NotAfter.
func (l *List) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for r := range l.all() {
			if !yield(r.entry()) {
				return
			}
		}
	}
}

// Stale reports whether nextUpdate has passed.
func (l *List) Stale(now time.Time) bool { return now.After(l.NextUpdate) }

// ParseAndVerify reads a CRL that was fetched for certificates of issuer whose CRL distribution point is
// wantURL. An empty wantURL demands a list that is not limited to a distribution point. It checks
//
//   - the issuer's name and key: issuer as subject, its subject key identifier as authority key identifier,
//     its signature, and its right to sign CRLs (RFC 5280 section 6.3.3 (c), (f), (g));
//   - that the list is full and direct, and is the one for wantURL (section 6.3.3 (b));
//   - that number, thisUpdate and nextUpdate are there, and thisUpdate is at most two minutes ahead of now;
//   - that nothing critical is left that it does not understand, in the list or in an entry (section 5.2).
//
// It does not check that the list is still fresh, which Stale tells, nor that it is newer than another one.
// The error wraps ErrList.
func ParseAndVerify(der []byte, issuer *x509.Certificate, wantURL string, now time.Time) (*List, error) {
	l, err := parseAndVerify(der, issuer, wantURL, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrList, err)
	}
	return l, nil
}

func parseAndVerify(der []byte, issuer *x509.Certificate, wantURL string, now time.Time) (*List, error) {
	l, p, err := verify(DER{der}, fullList, issuer, wantURL, now)
	if err != nil {
		return nil, err
	}
	if l.entries, err = parseEntries(p.entries.Bytes()); err != nil {
		return nil, err
	}
	return l, nil
}

// verify checks a list as ParseAndVerify does, but for its entries.
func verify(der DER, want kind, issuer *x509.Certificate, wantURL string, now time.Time) (*List, pieces, error) {
	p, err := split(der)
	if err != nil {
		return nil, p, err
	}
	l, h, err := readBare(p.bare, want, issuer, wantURL, now)
	if err != nil {
		return nil, p, err
	}
	h.RawTBSRevocationList = p.tbs.Bytes()
	if err := h.CheckSignatureFrom(issuer); err != nil {
		return nil, p, fmt.Errorf("checking the signature: %w", err)
	}
	return l, p, nil
}

// readBare reads everything but the entries. Of the signature it reads the octets.
func readBare(bare []byte, want kind, issuer *x509.Certificate, wantURL string, now time.Time) (*List, *x509.RevocationList, error) {
	h, err := x509.ParseRevocationList(bare)
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(h.RawIssuer, issuer.RawSubject) {
		return nil, nil, fmt.Errorf("it is by %q, not by %q", h.Issuer, issuer.Subject)
	}
	if !bytes.Equal(h.AuthorityKeyId, issuer.SubjectKeyId) {
		return nil, nil, fmt.Errorf("signed with key %x, not with the issuer's key %x", h.AuthorityKeyId, issuer.SubjectKeyId)
	}
	l := &List{ThisUpdate: h.ThisUpdate, NextUpdate: h.NextUpdate, sum: sha256.Sum256(h.Signature)}
	if err := l.setExtensions(h, want, wantURL); err != nil {
		return nil, nil, err
	}
	if l.ThisUpdate.After(now.Add(maxSkew)) {
		return nil, nil, fmt.Errorf("thisUpdate %s is in the future; it is %s here", l.ThisUpdate.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if l.NextUpdate.Before(l.ThisUpdate) {
		return nil, nil, errors.New("nextUpdate is before thisUpdate")
	}
	return l, h, nil
}

// setExtensions fills in numbers and URLs, and refuses what makes the list another than the one wanted.
func (l *List) setExtensions(h *x509.RevocationList, want kind, wantURL string) error {
	var idp IDP
	got := fullList
	for i, ext := range h.Extensions {
		if slices.ContainsFunc(h.Extensions[:i], func(e pkix.Extension) bool { return e.Id.Equal(ext.Id) }) {
			return fmt.Errorf("extension %s twice", ext.Id)
		}
		switch {
		case ext.Id.Equal(oidDeltaIndicator):
			got = deltaList
			if err := l.setBase(ext); err != nil {
				return err
			}
		case ext.Id.Equal(oidFreshestCRL) && !ext.Critical:
			l.DeltaURL = parseFreshest(ext.Value)
		case ext.Id.Equal(oidIssuingDistributionPoint):
			var err error
			if idp, err = ParseIDP(ext.Value); err != nil {
				return err
			}
			l.scope = ext.Value
			if !idp.Full() || len(idp.URLs) == 0 {
				return errors.New("its IssuingDistributionPoint limits it to some certificates or reasons, or makes it indirect")
			}
		case ext.Critical && !ext.Id.Equal(oidCRLNumber) && !ext.Id.Equal(oidAuthorityKeyID):
			return fmt.Errorf("unknown critical extension %s", ext.Id)
		}
	}
	if h.Number == nil || h.Number.Sign() < 0 || !h.Number.IsUint64() {
		return errors.New("its CRL number is missing, or does not fit 64 bits")
	}
	l.Number = h.Number.Uint64()
	if err := l.checkKind(got, want); err != nil {
		return err
	}
	switch {
	case wantURL == "" && len(idp.URLs) == 0:
		return nil
	case !slices.Contains(idp.URLs, wantURL):
		return fmt.Errorf("it is the list for %q, not for %q", idp.URLs, wantURL)
	}
	l.URL = wantURL
	return nil
}
