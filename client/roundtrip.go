package client

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/pkid/pkid/tokenbind"
)

// The errors of a challenge that are worth a second try (RFC 6750 section 3.1, RFC 9449 sections 8 and 9).
const (
	invalidToken = "invalid_token"
	useNonce     = "use_dpop_nonce"
	// invalidProof is also what comes back when net/http sent a request twice, because its connection ended
	// before the answer: the proof was used up by the first.
	invalidProof = "invalid_dpop_proof"
)

// RoundTrip sends a request with a token, and a fresh proof if the token is bound to a DPoP key. It is
// documented at TokenSource.
func (s *TokenSource) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		closeBody(req)
		return nil, fmt.Errorf("not sending a token to %s: it is not https", req.URL.Redacted())
	}
	if leftOrigin(req) {
		return s.bare(req)
	}
	for tried := (attempts{}); ; {
		now, err := s.current(req.Context())
		if err != nil {
			closeBody(req)
			return nil, err
		}
		resp, err := s.send(now.hc, now.token, req)
		if err != nil {
			return nil, err
		}
		if again := resp.StatusCode == http.StatusUnauthorized && s.again(tried, now.token, resp.Header); !again || !rewind(&req) {
			return resp, nil
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
		resp.Body.Close()
	}
}

// attempts are the reasons for which a request was sent again already: once for each.
type attempts map[string]bool

// again reports whether a request that was refused with these headers is worth another attempt. A token that was refused
// is not used again, whether or not this request can be sent again.
func (s *TokenSource) again(tried attempts, token *Token, refusal http.Header) bool {
	why := challengeError(refusal)
	worth := why == invalidToken || s.prover != nil && (why == invalidProof || why == useNonce && refusal.Get(nonceHeader) != "")
	if tried[why] || !worth {
		return false
	}
	if tried[why] = true; why == invalidToken {
		s.refused.Store(token)
	}
	return true
}

// send makes one attempt. Its proof is made for it alone (RFC 9449 section 11.1).
func (s *TokenSource) send(hc *http.Client, token *Token, req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	if err := s.authorize(out.Header, token, out.Method, out.URL); err != nil {
		closeBody(req)
		return nil, err
	}
	resp, err := hc.Transport.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	s.nonces.learn(resourceServer, req.URL, resp.Header)
	return resp, nil
}

// bare passes on a request that a redirect led to another origin: without the token, as net/http does with
// headers that a caller set, and without the certificate.
func (s *TokenSource) bare(req *http.Request) (*http.Response, error) {
	s.elsewhere.once.Do(func() {
		s.elsewhere.transport = newTransport(showing(nil, s.c.Roots))
	})
	return s.elsewhere.transport.RoundTrip(req)
}

// leftOrigin reports whether any redirect on the way to req went from one origin to another. One that came
// back may have been aimed by the stranger in between, so it counts too.
func leftOrigin(req *http.Request) bool {
	for r := req; r.Response != nil && r.Response.Request != nil; r = r.Response.Request {
		if origin(r.URL) != origin(r.Response.Request.URL) {
			return true
		}
	}
	return false
}

// authorize sets the headers that a resource server wants.
func (s *TokenSource) authorize(h http.Header, token *Token, method string, u *url.URL) error {
	h.Set("Authorization", token.scheme()+" "+token.AccessToken)
	return s.prove(h, resourceServer, token.AccessToken, method, u)
}

// prove sets the DPoP header, if s has a key.
func (s *TokenSource) prove(h http.Header, role role, accessToken, method string, u *url.URL) error {
	if s.prover == nil {
		return nil
	}
	proof, err := s.prover.Proof(method, u.String(), tokenbind.ProofOptions{
		AccessToken: accessToken,
		Nonce:       s.nonces.of(role, u),
		Now:         s.c.Now(),
	})
	if err != nil {
		return fmt.Errorf("making a DPoP proof: %w", err)
	}
	h.Set("DPoP", proof)
	return nil
}

// scheme is how the token is presented: as its type says (RFC 6750 section 2.1, RFC 9449 section 7.1).
func (t *Token) scheme() string {
	if strings.EqualFold(t.Type, "DPoP") {
		return "DPoP"
	}
	return "Bearer"
}

// rewind prepares a request to be sent again, and reports whether it can be.
func rewind(req **http.Request) bool {
	if (*req).Body == nil || (*req).Body == http.NoBody {
		return true
	}
	if (*req).GetBody == nil {
		return false
	}
	body, err := (*req).GetBody()
	if err != nil {
		return false
	}
	again := (*req).Clone((*req).Context())
	again.Body = body
	*req = again
	return true
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// role tells an authorization server from a resource server, whose nonces are not interchangeable even if
// they live at one origin (RFC 9449 section 9).
type role string

const (
	authorizationServer role = "as"
	resourceServer      role = "rs"

	nonceHeader = "DPoP-Nonce"
	maxNonces   = 1000 // servers that are remembered
	maxNonceLen = 1024
)

// nonces remembers the newest nonce of each server. Its zero value is ready.
type nonces struct {
	mu     sync.Mutex        // guards newest
	newest map[string]string // by role and origin
}

func (n *nonces) of(r role, u *url.URL) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.newest[string(r)+" "+origin(u)]
}

// learn keeps the nonce of any answer, good or bad: the newest is the one to use (RFC 9449 section 8.2).
func (n *nonces) learn(r role, u *url.URL, answer http.Header) {
	nonce := answer.Get(nonceHeader)
	if nonce == "" || len(nonce) > maxNonceLen {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.newest == nil || len(n.newest) >= maxNonces { // a forgotten nonce costs one more round trip
		n.newest = map[string]string{}
	}
	n.newest[string(r)+" "+origin(u)] = nonce
}

// origin is scheme, host and port.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}
