package authserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pkid/pkid/internal/appendjson"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind"
)

// inactive is the whole answer about a token that does not count (RFC 7662 section 2.2).
var inactive = []byte(`{"active":false}`)

// Introspect is the introspection endpoint (RFC 7662). A client may ask about its own tokens, and one that is
// registered to introspect about all. The caller compares cnf with what its own client proved; no proof is
// checked here.
func (s *Server) Introspect(w http.ResponseWriter, r *http.Request) { s.serve(w, r, s.introspect) }

func (s *Server) introspect(c *call) ([]byte, error) {
	caller, claims, err := s.asked(c)
	if err != nil {
		return nil, err
	}
	if claims == nil || !caller.Introspect && claims.ClientID != caller.ID {
		return inactive, nil // not to say which (RFC 7662 section 2.2)
	}
	active, err := s.active(c.http.Context(), c.now, claims)
	if err != nil {
		return nil, err
	}
	if !active {
		return inactive, nil
	}
	answer := append(make([]byte, 0, 512), `{"active":true,"token_type":`...)
	answer = append(appendjson.String(answer, cnfType(claims.Confirmation)), ',')
	return append(claims.appendMembers(answer), '}'), nil
}

// asked returns who calls, and the claims of the token that it names, or nil if we did not sign that.
func (s *Server) asked(c *call) (*Client, *accessClaims, error) {
	caller, err := s.authenticate(c)
	if err != nil {
		return nil, nil, err
	}
	token := c.form.Get("token")
	if token == "" {
		return nil, nil, invalidRequest("token is missing")
	}
	return caller, s.keys.Load().verify(token), nil
}

// tokensNotBefore is the instant before which no token of the client counts.
func (s *Server) tokensNotBefore(client *Client) time.Time {
	if s.c.Restored.After(client.TokensNotBefore) {
		return s.c.Restored
	}
	return client.TokensNotBefore
}

// active reports whether a token that we signed still stands. An error means that it cannot be known.
func (s *Server) active(ctx context.Context, now time.Time, claims *accessClaims) (bool, error) {
	if claims.Issuer != s.c.Issuer || !now.Before(claims.Expiry.Time()) {
		return false, nil
	}
	why, err := s.ended(ctx, claims.ID, claims.ClientID, claims.IssuedAt.Time(), claims.Confirmation)
	return why == "" && err == nil, err
}

// ended says why a token that we signed ended before its time, or nothing. An error means that it cannot be known.
func (s *Server) ended(ctx context.Context, id, clientID string, issued time.Time, cnf tokenbind.Confirmation) (why string, err error) {
	client, err := s.c.Registry.Get(ctx, clientID)
	if errors.Is(err, ErrNoClient) {
		return "its client is not registered", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading client %q: %w", clientID, err)
	}
	// iat has whole seconds, so a token of the second in which the client was disabled is dead as well.
	switch {
	case client.Disabled:
		return "its client is disabled", nil
	case issued.Before(s.tokensNotBefore(client)):
		return "it was issued before its client was disabled, or before a restore", nil
	case cnf.IsZero() && s.underFAPI(client): // from before the profile
		return "it is bound to nothing, and its client is held to FAPI 2.0", nil
	}
	revoked, err := s.c.Revoked.TokenRevoked(ctx, id)
	if err != nil {
		return "", fmt.Errorf("looking up token %s: %w", id, err)
	}
	if revoked {
		return "it was revoked", nil
	}
	if cnf.Cert.IsZero() {
		return "", nil
	}
	// A certificate that the client made itself is never revoked here. The end of any is the token's: see issue.
	revoked, err = s.c.Certificates.Revoked(ctx, cnf.Cert)
	if err != nil {
		return "", fmt.Errorf("looking up the certificate of token %s: %w", id, err)
	}
	if revoked {
		return "its certificate is revoked", nil
	}
	return "", nil
}

// CheckToken tells a verifier in this process what introspection would tell another: it is tokenbind.TokenStatus. The
// token was signed with one of our keys.
func (s *Server) CheckToken(ctx context.Context, claims *tokenbind.Claims) error {
	why, err := s.ended(ctx, claims.ID, claims.ClientID, claims.IssuedAt, claims.Confirmation)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", tokenbind.ErrUnavailable, err)
	case why != "":
		return errors.New("the token does not stand any more: " + why)
	}
	return nil
}

// Revoke is the revocation endpoint (RFC 7009). A client may revoke its own tokens.
func (s *Server) Revoke(w http.ResponseWriter, r *http.Request) { s.serve(w, r, s.revoke) }

func (s *Server) revoke(c *call) ([]byte, error) {
	caller, claims, err := s.asked(c)
	if err != nil {
		return nil, err
	}
	if claims == nil || claims.Issuer != s.c.Issuer || !c.now.Before(claims.Expiry.Time()) {
		return nil, nil // what does not work is as good as revoked (RFC 7009 section 2.2)
	}
	if claims.ClientID != caller.ID {
		return nil, refused(http.StatusBadRequest, "invalid_grant", "the token was issued to another client, which alone may revoke it")
	}
	ctx := c.http.Context()
	revoked, err := s.c.Revoked.TokenRevoked(ctx, claims.ID)
	if err != nil {
		return nil, fmt.Errorf("looking up token %s: %w", claims.ID, err)
	}
	if revoked {
		return nil, nil // one entry in the audit log is enough
	}
	actor := audit.From(ctx)
	actor.Name = caller.ID
	if actor.Address == "" {
		actor.Address = remoteAddress(c.http)
	}
	until := claims.Expiry.Time().Add(maxTolerance) // no resource server takes it any more by then, however tolerant
	ev := audit.Event{
		Time: c.now, Actor: actor, Action: audit.TokenRevoke, Subject: claims.ID,
		Detail: map[string]string{"client": caller.ID, "until": until.UTC().Format(time.RFC3339)},
	}
	if err := s.c.Revoked.RevokeToken(ctx, claims.ID, until, ev); err != nil {
		return nil, fmt.Errorf("revoking token %s: %w", claims.ID, err)
	}
	return nil, nil
}
