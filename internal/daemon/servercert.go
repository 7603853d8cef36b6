package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/tokenbind"
)

// serverCert is the daemon's own TLS certificate: issued by its own CA, with a key that exists in memory
// only, and replaced at two thirds of its life.
type serverCert struct {
	authority *ca.Authority
	names     ca.Names
	log       *slog.Logger
	current   atomic.Pointer[ownCert]
	moved     chan struct{} // another issuing CA signs

	responders *responders // nil: nothing is stapled
	restapleAt time.Time   // used by one goroutine at a time
}

// ownCert is the certificate with what is stapled to it. It never changes, so that handshakes under way go on with what
// they have.
type ownCert struct {
	*tls.Certificate
	issuer    *x509.Certificate
	stapled   *tls.Certificate // the same with an answer of OCSP; nil: none
	stapledTo time.Time        // until when the answer holds
}

// newServerCert checks the names. The certificate itself is issued by renew, once the listeners are bound, so
// that a start that fails leaves none behind.
func newServerCert(authority *ca.Authority, hosts []string, responders *responders, log *slog.Logger) (*serverCert, error) {
	names, err := ServerNames(hosts)
	if err != nil {
		return nil, err
	}
	return &serverCert{authority: authority, names: names, log: log, moved: make(chan struct{}, 1), responders: responders}, nil
}

// ServerNames are what the daemon's own certificate says: the hosts that clients reach it by.
func ServerNames(hosts []string) (ca.Names, error) {
	names, err := ca.ParseSANs(enroll.Daemon, hosts)
	if err == nil && len(names.DNS)+len(names.IPs) != len(hosts) {
		err = errors.New("only DNS names and IP addresses, each once")
	}
	if err != nil {
		return ca.Names{}, fmt.Errorf("hosts: %w (give --name once for each)", err)
	}
	return names, nil
}

func (s *serverCert) renew(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	proven, err := ca.ProveOwn(key)
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	issued, err := s.authority.Issue(ctx, ca.Request{Profile: config.ProfileServer, ClientID: enroll.Daemon, Names: s.names, Key: proven})
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{issued.Record.DER}, PrivateKey: key}
	for _, c := range issued.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	if cert.Leaf, err = x509.ParseCertificate(issued.Record.DER); err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	s.staple(ctx, ownCert{Certificate: cert, issuer: issued.Chain[0]})
	return nil
}

// follow has the certificate replaced if another issuing CA has taken over since it was issued.
func (s *serverCert) follow() {
	cert := s.current.Load()
	if cert == nil || bytes.Equal(cert.Leaf.AuthorityKeyId, s.authority.Issuer().Signer.Certificate().SubjectKeyId) {
		return
	}
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// run replaces the certificate in time, and what is stapled to it. A failure is tried again every minute; there is a
// third of the lifetime left to mend its cause.
func (s *serverCert) run(ctx context.Context) {
	due := s.dueIn()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.restapling():
			s.staple(ctx, *s.current.Load())
			continue
		case <-due:
		case <-s.moved:
		}
		if err := s.renew(ctx); err != nil {
			s.log.Error("renewing the daemon's own certificate", "err", err, "expires", s.current.Load().Leaf.NotAfter)
		}
		due = s.dueIn()
	}
}

// dueIn fires when the certificate is to be replaced.
func (s *serverCert) dueIn() <-chan time.Time {
	leaf := s.current.Load().Leaf
	return time.After(max(time.Until(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore)*2/3)), time.Minute))
}

// get is tls.Config.GetCertificate.
func (s *serverCert) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.current.Load().at(time.Now()), nil
}

// publicTLS asks for no client certificate. TLS 1.2 is for clients that know nothing newer, with what BCP 195 recommends
// of it. An answer is a few kilobytes, which the first flight of a connection carries: in one record it costs one system
// call, and in records that begin small, which help long answers to show early, three.
func (s *serverCert) publicTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: tokenbind.CipherSuites(), GetCertificate: s.get, DynamicRecordSizingDisabled: true,
	}
}

// mtlsTLS asks for a client certificate and takes any, or none: which certificate counts, and for what, is
// decided per request. ClientCAs stays nil, so the list of acceptable CAs is empty and clients with a
// self-signed certificate answer too (RFC 8705 section 6.1).
func (s *serverCert) mtlsTLS() *tls.Config {
	c := s.publicTLS()
	c.ClientAuth = tls.RequestClientCert
	return c
}
