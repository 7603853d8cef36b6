package daemon

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// explain holds what a client presented against the rules of a resource server, with the CA's own knowledge of keys,
// certificates, clients and tokens. r is the request that p describes.
func (d *Daemon) explain(p client.Presented, r *http.Request) (*client.Explanation, error) {
	now := time.Now
	if !p.At.IsZero() {
		now = func() time.Time { return p.At }
	}
	v, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer: d.cfg.URLs.Public, Audience: p.Audience, BaseURL: "https://" + r.URL.Host, RequiredScopes: p.Scopes,
		Keys: d.oauth, Tokens: d.oauth, Revocation: certificates{d.authority}, Replay: nothingUsed{}, Tolerance: *d.cfg.Tokens.ClockTolerance,
		FAPI2: d.cfg.Profile == config.ProfileFAPI2, MaxTokens: -1, Logger: slog.New(slog.DiscardHandler), Now: now,
	})
	if err != nil {
		return nil, err
	}
	checks := v.Explain(r)
	for i := range checks {
		if c := &checks[i]; c.Name == tokenbind.CheckCertificate && c.Result == tokenbind.Fail {
			if c.Hint, err = d.whyAnother(r.Context(), boundTo(p.Token), r.TLS.PeerCertificates, c.Hint); err != nil {
				return nil, err
			}
		}
	}
	return client.Explained(checks), nil
}

// boundTo is the certificate that a token says it is bound to; zero if it does not.
func boundTo(token string) (bound thumbprint.Cert) {
	t, err := jws.Parse(token, nil)
	if err != nil {
		return bound
	}
	cnf, _ := t.Claims["cnf"].(map[string]any)
	x5t, _ := cnf["x5t#S256"].(string)
	bound, _ = thumbprint.ParseCert(x5t) // zero with an error
	return bound
}

// nothingUsed is a replay memory for proofs that are only looked at.
type nothingUsed struct{}

func (nothingUsed) Use(context.Context, [32]byte, time.Time) error { return nil }

// whyAnother says what is known of a certificate that a token is not bound to, and of the one that it is. The hint is
// what could be told without.
func (d *Daemon) whyAnother(ctx context.Context, bound thumbprint.Cert, shown []*x509.Certificate, hint string) (string, error) {
	wanted, err := d.recordOf(ctx, bound)
	if err != nil || wanted == nil {
		return cmp.Or(hint, "the token is bound to a certificate that this CA did not issue"), err
	}
	if len(shown) == 0 {
		return fmt.Sprintf("the token is bound to certificate %s of %s, and none was shown: connect with it", wanted.Serial, wanted.ClientID), nil
	}
	seen, err := d.recordOf(ctx, thumbprint.OfCertificate(shown[0]))
	switch {
	case err != nil:
		return hint, err
	case seen == nil:
		return fmt.Sprintf("this CA did not issue the certificate that was shown; the token is bound to certificate %s of %s", wanted.Serial, wanted.ClientID), nil
	case seen.ClientID != wanted.ClientID:
		return fmt.Sprintf("the token is %s's, and the certificate that was shown is %s's", wanted.ClientID, seen.ClientID), nil
	case seen.IssuedAt.After(wanted.IssuedAt):
		return fmt.Sprintf("the certificate was renewed at %s, after the token was issued: the token is bound to %s, the one shown is %s; get a new token",
			stamp(seen.IssuedAt), wanted.Serial, seen.Serial), nil
	default:
		return fmt.Sprintf("the connection shows certificate %s, and the token is bound to %s, which is newer: connect again since the renewal", seen.Serial, wanted.Serial), nil
	}
}

// recordOf returns the record of the certificate with a thumbprint, or nil.
func (d *Daemon) recordOf(ctx context.Context, t thumbprint.Cert) (*ca.Record, error) {
	page, err := d.authority.List(ctx, ca.Query{Thumbprint: t, Limit: 1})
	if err != nil || len(page.Records) == 0 {
		return nil, err
	}
	return page.Records[0], nil
}
