package daemon

import (
	"context"
	"crypto/tls"
	"time"
)

const (
	// stapleAgain is how soon it is tried again to staple an answer, at the earliest.
	stapleAgain = time.Second
	// stapleTimeout bounds the wait for one.
	stapleTimeout = 5 * time.Second
)

// staple puts what OCSP says of the certificate with it, for handshakes to send along (RFC 6066 section 8), and has
// handshakes use both from now on. Without an answer the one before stays.
func (s *serverCert) staple(ctx context.Context, own ownCert) {
	defer func() { s.current.Store(&own) }()
	if s.responders == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stapleTimeout)
	defer cancel()
	answer, err := s.responders.Staple(ctx, own.Leaf, own.issuer)
	now := time.Now()
	if err != nil || answer.NextUpdate.IsZero() {
		s.log.Debug("no OCSP answer to staple", "err", err)
		s.restapleAt = now.Add(stapleAgain)
		return
	}
	stapled := *own.Certificate
	stapled.OCSPStaple = answer.DER
	own.stapled, own.stapledTo = &stapled, answer.NextUpdate
	s.restapleAt = now.Add(max(answer.NextUpdate.Sub(now)/2, stapleAgain))
}

// at is what a handshake uses. An answer goes along for as long as it holds, whatever keeps another from coming: a device
// that hangs, or sleep of the whole machine. Then handshakes go without; it is the clients' choice to insist.
func (c *ownCert) at(now time.Time) *tls.Certificate {
	if c.stapled != nil && now.Before(c.stapledTo) {
		return c.stapled
	}
	return c.Certificate
}

// restapling fires when another answer is to be stapled; never, if none is.
func (s *serverCert) restapling() <-chan time.Time {
	if s.responders == nil {
		return nil
	}
	return time.After(time.Until(s.restapleAt))
}
