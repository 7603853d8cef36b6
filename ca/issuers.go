package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// issuing is an issuer with what is made from it once, and the count of the CRL that its certificates go into.
type issuing struct {
	*Issuer
	id     string
	cert   *x509.Certificate
	leaf   *leafWriter
	shards *shards
	chain  []*x509.Certificate
}

// issuers are the issuing CAs that are known, in the order in which they sign certificates. The set never changes:
// SetIssuers puts another in its place.
type issuers struct {
	all []*issuing
	by  map[string]*issuing // id
}

// at returns the one that signs certificates at an instant. That is for the clock alone to say, so that nodes which
// know of the same issuers agree, whatever they hear from each other.
func (s *issuers) at(now time.Time) *issuing {
	for _, i := range slices.Backward(s.all) {
		if !now.Before(i.From) {
			return i
		}
	}
	return s.all[0]
}

// SetIssuers says which issuing CAs there are: each signs certificates from its instant until that of the next one, and
// signs its CRLs whatever the time is. A revocation or a chain is asked for of those only, so one stays until nothing
// that it signed is of use any more. The first one's instant does not count: somebody must sign.
//
// What is under way goes on with the issuer that it was decided for.
func (a *Authority) SetIssuers(list ...*Issuer) error {
	if len(list) == 0 {
		return errors.New("ca: at least one issuer is required")
	}
	a.setting.Lock()
	defer a.setting.Unlock()
	known := a.issuers.Load()
	next := &issuers{by: map[string]*issuing{}}
	for _, i := range list {
		own, err := a.prepare(known, i)
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		if next.by[own.id] != nil {
			return fmt.Errorf("ca: issuing CA %s twice", own.id)
		}
		next.by[own.id] = own
		next.all = append(next.all, own)
	}
	slices.SortStableFunc(next.all, func(x, y *issuing) int { return x.From.Compare(y.From) })
	a.issuers.Store(next)
	return nil
}

// prepare makes of an issuer what certificates are written with. The CRL that is being filled stays the same for one
// that was known before.
func (a *Authority) prepare(known *issuers, i *Issuer) (*issuing, error) {
	if i == nil || i.Signer == nil || i.Root == nil {
		return nil, errors.New("an issuer with Signer and Root is required")
	}
	if i.CRLURL == "" || i.AIAURL == "" {
		return nil, errors.New("the issuer's CRLURL and AIAURL are required: they stand in every certificate")
	}
	if err := i.checkChain(); err != nil {
		return nil, err
	}
	own := &issuing{Issuer: i, id: i.ID(), cert: i.Signer.Certificate(), chain: i.Chain()}
	var err error
	if own.leaf, err = newLeafWriter(i); err != nil {
		return nil, err
	}
	if before := known.find(own.id); before != nil && before.CRLURL == i.CRLURL {
		own.shards = before.shards
		return own, nil
	}
	size := a.shardSize
	if i.Whole {
		size = 0
	}
	own.shards, err = newShards(i, a.store, size, a.openShard)
	return own, err
}

// find returns the issuer with that id, or nil.
func (s *issuers) find(id string) *issuing {
	if s == nil {
		return nil
	}
	return s.by[id]
}

// issuerOf returns the issuing CA of a record, or ErrIssuer.
func (a *Authority) issuerOf(rec *Record) (*issuing, error) {
	if i := a.issuers.Load().find(rec.Issuer); i != nil {
		return i, nil
	}
	return nil, fmt.Errorf("%w: %s is of %s", ErrIssuer, rec.Serial, rec.Issuer)
}

// Issuer returns the issuing CA that signs certificates now.
func (a *Authority) Issuer() *Issuer { return a.issuers.Load().at(a.clock()).Issuer }

// Issuers returns the issuing CAs that are known, in the order in which they sign certificates.
func (a *Authority) Issuers() []*Issuer {
	var all []*Issuer
	for _, i := range a.issuers.Load().all {
		all = append(all, i.Issuer)
	}
	return all
}

// FindIssuer returns the issuing CA with that id, or false.
func (a *Authority) FindIssuer(id string) (*Issuer, bool) {
	i := a.issuers.Load().find(id)
	if i == nil {
		return nil, false
	}
	return i.Issuer, true
}
