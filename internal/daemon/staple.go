package daemon

import (
	"context"
	"crypto/tls"
	"time"
)

const (
	// stapleAgain is how soon it is tried again to staple an answer, after there was none.
	stapleAgain = time.Second
	// stapleTimeout bounds the wait for one.
	stapleTimeout = 5 * time.Second
)

// stapled puts what OCSP says of the certificate with it, for handshakes to send along (RFC 6066 section 8), and notes
// when it is to be replaced. Without an answer the one before stays for as long as it holds, and then handshakes go
// without: it is the clients' choice to insist.
func (s *serverCert) stapled(ctx context.Context, cert *tls.Certificate) {
	if s.responders == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stapleTimeout)
	defer cancel()
	now := time.Now()
	answer, err := s.responders.Staple(ctx, cert.Leaf, s.issuer)
	if err != nil || answer.NextUpdate.IsZero() {
		s.log.Debug("no OCSP answer to staple", "err", err)
		if !now.Before(s.stapleEnds) {
			cert.OCSPStaple = nil
		}
		s.restapleAt = now.Add(stapleAgain)
		return
	}
	cert.OCSPStaple, s.stapleEnds = answer.DER, answer.NextUpdate
	s.restapleAt = now.Add(answer.NextUpdate.Sub(now) / 2)
}

// restaple replaces the certificate by the same with a newer answer. Handshakes under way go on with what they have.
func (s *serverCert) restaple(ctx context.Context) {
	cert := *s.current.Load()
	s.stapled(ctx, &cert)
	s.current.Store(&cert)
}
