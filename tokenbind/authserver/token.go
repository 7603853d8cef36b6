package authserver

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/appendjson"
	"github.com/pkid/pkid/tokenbind"
)

// proofAlgorithms are those that DPoP proofs may be signed with.
var proofAlgorithms = tokenbind.ProofAlgorithms()

// Token is the token endpoint (RFC 6749 section 3.2).
func (s *Server) Token(w http.ResponseWriter, r *http.Request) { s.serve(w, r, s.token) }

// token refuses what can be told from the request alone before it looks at the proof, and records the proof
// last, so that neither a stranger nor a mistake spends one.
func (s *Server) token(c *call) ([]byte, error) {
	switch grant := c.form.Get("grant_type"); grant {
	case "client_credentials":
	case "":
		return nil, invalidRequest("grant_type is missing; use client_credentials")
	default:
		return nil, refused(http.StatusBadRequest, "unsupported_grant_type", "grant_type %q is not supported; use client_credentials", truncate(grant, 64))
	}
	client, err := s.authenticate(c)
	if err != nil {
		return nil, err
	}
	if s.c.Limits != nil {
		if err := s.c.Limits.Token(client.ID); err != nil {
			return nil, refused(http.StatusTooManyRequests, "temporarily_unavailable", "client %q asks for too many tokens; use each until it "+
				"expires, and try again after the time in Retry-After", client.ID).because(err)
		}
	}
	scope, err := grantScope(client, c.form.Get("scope"))
	if err != nil {
		return nil, err
	}
	audience, err := s.grantAudience(client, c.form["resource"])
	if err != nil {
		return nil, err
	}
	confirmation, err := s.bind(c, client)
	if err != nil {
		return nil, err
	}
	return s.issue(c, client, scope, audience, confirmation)
}

// grantScope returns the scope asked for, or all of the client's.
func grantScope(client *Client, asked string) (string, error) {
	if asked == "" {
		return strings.Join(client.Scopes, " "), nil
	}
	var granted []string
	for scope := range strings.SplitSeq(asked, " ") {
		switch {
		case !validScope(scope):
			return "", refused(http.StatusBadRequest, "invalid_scope", "scope is malformed: separate scopes by one space (RFC 6749 section 3.3)")
		case !slices.Contains(client.Scopes, scope):
			return "", refused(http.StatusBadRequest, "invalid_scope", "scope %q is not among those of client %q; ask the operator to add it", scope, client.ID)
		case !slices.Contains(granted, scope):
			granted = append(granted, scope)
		}
	}
	return strings.Join(granted, " "), nil
}

// grantAudience returns the resources asked for (RFC 8707 section 2.2), or all of the client's. A client
// without any gets tokens for this server. A token for several resources is good at each of them, so each sees a
// token that the others take; that it is bound to a key keeps it from being used there. A client that does not
// trust its resource servers alike asks for one resource at a time.
func (s *Server) grantAudience(client *Client, asked []string) ([]string, error) {
	if len(asked) == 0 {
		if len(client.Resources) == 0 {
			return []string{s.c.Issuer}, nil
		}
		return client.Resources, nil
	}
	var granted []string
	for _, resource := range asked {
		switch {
		case !validResource(resource):
			return nil, refused(http.StatusBadRequest, "invalid_target", "resource must be an absolute URI without fragment (RFC 8707 section 2)")
		case !slices.Contains(client.Resources, resource):
			return nil, refused(http.StatusBadRequest, "invalid_target", "resource %q is not among those of client %q; ask the operator to add it", resource, client.ID)
		case !slices.Contains(granted, resource):
			granted = append(granted, resource)
		}
	}
	return granted, nil
}

// bind finds out what the token is to be bound to: the certificate of the connection, the key of a DPoP
// proof, or both.
func (s *Server) bind(c *call, client *Client) (tokenbind.Confirmation, error) {
	var cnf tokenbind.Confirmation
	if c.cert != nil {
		if client.Auth != TLSClientAuth && client.Auth != SelfSignedTLSClientAuth { // else it was looked at already
			if _, err := s.standing(c, client.ID, invalidRequest); err != nil {
				return cnf, err
			}
		}
		cnf.Cert = c.x5t
	}
	switch proofs := c.http.Header.Values("DPoP"); {
	case len(proofs) > 0:
		proof, err := s.checkProof(c, client, proofs)
		if err != nil {
			return cnf, err
		}
		cnf.Key = proof.Key
	case client.DPoP:
		return cnf, refused(http.StatusBadRequest, "invalid_dpop_proof", "client %q is registered for DPoP-bound tokens; send a proof in the DPoP header", client.ID)
	}
	if cnf.IsZero() && !client.InsecureBearer {
		return cnf, invalidRequest("tokens are bound to a key here: present a client certificate at %s, or send a DPoP proof", s.c.MTLSBase+TokenPath)
	}
	return cnf, nil
}

// checkProof checks a proof for this endpoint. While nonces are demanded, every answer to a proof carries
// the current one (RFC 9449 section 8), unless that is not enough yet: see starting.
func (s *Server) checkProof(c *call, client *Client, proofs []string) (*tokenbind.Proof, error) {
	demand := s.demandsNonce(client)
	if demand && !s.starting(c.now) {
		c.header.Set("DPoP-Nonce", s.nonces.Current())
	}
	proof, err := s.proofsOf(client).Check(c.http.Context(), tokenbind.ProofRequest{
		Headers:      proofs,
		Method:       c.http.Method,
		URLs:         s.tokenURLs,
		RequireNonce: demand,
	})
	var bad *tokenbind.ProofError
	switch {
	case errors.As(err, &bad):
		if bad.Nonce != "" {
			c.header.Set("DPoP-Nonce", bad.Nonce)
		}
		return nil, refused(http.StatusBadRequest, bad.Code, "%s", bad.Error())
	case err != nil:
		return nil, fmt.Errorf("checking DPoP proof: %w", err)
	}
	return proof, nil
}

// starting reports whether a fresh proof may still be held for one that was used before Config.ProofsSince. Until then
// a client keeps the nonce that it was refused with, which shows the contrary; the current one, which is the same on
// all nodes and at all times, would not.
func (s *Server) starting(now time.Time) bool {
	return !s.c.ProofsSince.IsZero() && !now.After(s.c.ProofsSince.Add(proofMaxAge+2*s.longest()))
}

// issue makes a token and the successful answer of RFC 6749 section 5.1.
func (s *Server) issue(c *call, client *Client, scope string, audience []string, cnf tokenbind.Confirmation) ([]byte, error) {
	var id [16]byte
	rand.Read(id[:]) // never fails
	issued := issuedAt(c.now, s.tokensNotBefore(client))
	expiry := c.now.Add(s.c.TokenLifetime)
	if c.cert != nil && c.cert.NotAfter.Before(expiry) { // the token is bound to it, and useless without
		expiry = c.cert.NotAfter
	}
	const before = `{"access_token":"` // a token needs no escaping
	answer, err := s.keys.Load().sign(append(make([]byte, 0, 1<<10), before...), &accessClaims{
		Issuer:       s.c.Issuer,
		Subject:      client.ID,
		Audience:     audience,
		Expiry:       numericDate(expiry.Unix()),
		IssuedAt:     numericDate(issued.Unix()),
		ID:           base64.RawURLEncoding.EncodeToString(id[:]),
		ClientID:     client.ID,
		Scope:        scope,
		Confirmation: cnf,
	})
	if err != nil {
		return nil, fmt.Errorf("issuing a token to %q: %w", client.ID, err)
	}
	if len(answer)-len(before) > maxToken { // names that JSON must escape
		return nil, refused(http.StatusBadRequest, "invalid_target", "a token for all that was asked for would be longer than %d octets; ask for fewer resources or scopes", maxToken)
	}
	answer = appendjson.String(append(answer, `","token_type":`...), cnfType(cnf))
	answer = strconv.AppendInt(append(answer, `,"expires_in":`...), int64(expiry.Sub(c.now)/time.Second), 10)
	return append(appendScope(answer, scope), '}'), nil
}

// maxAhead bounds how far in the future a token is dated.
const maxAhead = 10 * time.Second

// issuedAt is now in whole seconds, or the first whole second from notBefore on, since whatever is dated before that is
// dead: a token that is asked for in the second in which its client was enabled again is dated at the next one.
func issuedAt(now, notBefore time.Time) time.Time {
	issued := now.Truncate(time.Second)
	if next := notBefore.Add(time.Second - 1).Truncate(time.Second); issued.Before(notBefore) && next.Sub(now) <= maxAhead {
		return next
	}
	return issued
}

// endTokens is the notBefore that ends all tokens issued until now. Some may be dated at the next second, or at a later
// one if the client was disabled and enabled several times in this one.
func endTokens(now, notBefore time.Time) time.Time {
	if newest := issuedAt(now, notBefore); newest.After(now) {
		return newest.Add(time.Millisecond)
	}
	return now
}

// cnfType is the token_type that goes with a confirmation: DPoP (RFC 9449 section 5), or Bearer, also if the token is
// bound to a certificate (RFC 8705 section 3).
func cnfType(cnf tokenbind.Confirmation) string {
	if cnf.Key.IsZero() {
		return "Bearer"
	}
	return "DPoP"
}
