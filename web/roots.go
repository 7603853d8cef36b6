package web

import (
	"bytes"
	"crypto/x509"
	"slices"

	"github.com/pkid/pkid/ca"
)

// root is a trust anchor of the issuing CAs, or an intermediate that signed one of them, with its own CRL.
type root struct {
	id   string // in URLs: that of its key, and "root" for the first one's
	cert *x509.Certificate
	crl  *x509.RevocationList // nil: published elsewhere, or nowhere
}

// firstRoot is the id of the root of the CA's first issuer. It stands in certificates, so it must not change.
const firstRoot = "root"

// roots are the anchors of all issuing CAs that are known, the first one's first, each with the newest CRL.
func (s *Server) roots() []root {
	var all []root
	add := func(cert *x509.Certificate) {
		if slices.ContainsFunc(all, func(r root) bool { return r.cert.Equal(cert) }) {
			return
		}
		r := root{id: ca.IssuerID(cert), cert: cert, crl: s.rootCRLOf(cert)}
		if len(all) == 0 {
			r.id = firstRoot
		}
		all = append(all, r)
	}
	issuers := s.c.Authority.Issuers()
	add(issuers[0].Root)
	for _, i := range issuers {
		add(i.Root)
		add(i.Above())
	}
	if all[0].crl == nil { // the first issuing CA's certificate may say that its issuer's CRL is here, whoever that is
		all[0].crl = s.rootCRLOf(issuers[0].Above())
	}
	return all
}

// rootCRLOf returns the newest CRL of a root or intermediate, or nil. Whoever gave it has checked its signature.
func (s *Server) rootCRLOf(signer *x509.Certificate) *x509.RevocationList {
	newest := s.rootCRL
	if newest != nil && !isOf(newest, signer) {
		newest = nil
	}
	if s.c.RootCRLs == nil {
		return newest
	}
	for _, list := range s.c.RootCRLs() {
		if isOf(list, signer) && (newest == nil || list.Number.Cmp(newest.Number) > 0) {
			newest = list
		}
	}
	return newest
}

func isOf(list *x509.RevocationList, signer *x509.Certificate) bool {
	return bytes.Equal(list.RawIssuer, signer.RawSubject) && bytes.Equal(list.AuthorityKeyId, signer.SubjectKeyId)
}

// rootIn returns the root that a path names, if it names one.
func (s *Server) rootIn(id string) (root, bool) {
	all := s.roots()
	n := slices.IndexFunc(all, func(r root) bool { return r.id == id })
	if n < 0 {
		return root{}, false
	}
	return all[n], true
}
