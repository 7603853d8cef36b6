package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
)

// Call authorises one call that goes by another way than RoundTrip, such as over gRPC. It is for one goroutine.
type Call struct {
	s      *TokenSource
	method string
	url    *url.URL
	now    session
	tried  attempts
}

// Call begins a call of a method and an https URL, which is that of the proof (htu).
func (s *TokenSource) Call(method, target string) (*Call, error) {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("not sending a token to %q: it is no https URL", target)
	}
	return &Call{s: s, method: method, url: u, tried: attempts{}}, nil
}

// Authorize returns the headers for one attempt, and the certificate that the connection must show: that which the
// token is bound to, or nil if there is none. A connection that shows another one is not to be used.
func (c *Call) Authorize(ctx context.Context) (http.Header, *tls.Certificate, error) {
	var err error
	if c.now, err = c.s.current(ctx); err != nil {
		return nil, nil, err
	}
	h := http.Header{}
	return h, c.now.pair, c.s.authorize(h, c.now.token, c.method, c.url)
}

// Answered hears of the headers of an answer, whether it was good or a refusal (401, or its like). It reports whether to
// try again: once with a new token, and once with the server's nonce.
func (c *Call) Answered(h http.Header, refused bool) (again bool) {
	c.s.nonces.learn(resourceServer, c.url, h)
	return refused && c.s.again(c.tried, c.now.token, h)
}

// TLSConfig is for connections that show the certificate, whatever is renewed meanwhile, or none if it is nil, to servers
// that the source trusts.
func (s *TokenSource) TLSConfig(cert *tls.Certificate) *tls.Config { return showing(cert, s.c.Roots) }
