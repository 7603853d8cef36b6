package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/tokenbind"
)

// Presented is what a client presented to a resource server, or would: the body of POST /v1/explain.
type Presented struct {
	Token       string   `json:"token"`
	Certificate string   `json:"certificate,omitempty"` // PEM, the one that the client showed; empty if it showed none
	Proof       string   `json:"proof,omitempty"`       // the DPoP header; with it the token came with the DPoP scheme
	Method      string   `json:"method,omitempty"`      // GET if empty
	URL         string   `json:"url,omitempty"`         // of the request, as the resource server sees it; the audience if that is an https URL, if empty
	Audience    string   `json:"audience,omitempty"`    // the resource server's identifier; the token's first if empty
	Scopes      []string `json:"scopes,omitempty"`      // that the resource server requires
	// At is when it was presented, now if zero: the clock that lifetimes and proofs are held against. What was revoked
	// is judged as it is now.
	At time.Time `json:"at,omitzero"`
}

// Explanation says what a resource server makes of a request.
type Explanation struct {
	Accepted bool `json:"accepted"`
	// Cause is the likely one of a refusal, of the first check that fails.
	Cause  string            `json:"cause,omitempty"`
	Checks []tokenbind.Check `json:"checks"`
}

// Explain asks the CA, which knows of its certificates, clients and tokens, why a request was refused. The proof is not
// used up, and whether it was used before is not looked at: only the resource server knows that.
func (a *API) Explain(ctx context.Context, p Presented) (*Explanation, error) {
	return send[Explanation](ctx, a, http.MethodPost, "/v1/explain", p)
}

// Complete sets what was left to its default, and refuses what cannot be looked at.
func (p *Presented) Complete() error {
	if p.Token == "" {
		return errors.New("token: there is none to explain")
	}
	if p.Method == "" {
		p.Method = http.MethodGet
	}
	if p.Audience == "" {
		if p.Audience = audienceOf(p.Token); p.Audience == "" {
			return errors.New("audience: the token names none that can be read, so name the resource server's")
		}
	}
	switch {
	case p.URL != "" && !overTLS(p.URL):
		return fmt.Errorf("url: %q is no https URL", p.URL)
	case p.URL == "" && overTLS(p.Audience):
		p.URL = p.Audience
	case p.URL == "":
		p.URL = "https://localhost/" // it matters for a proof only
	}
	return nil
}

func overTLS(url string) bool {
	normal, err := tokenbind.NormalURL(url)
	return err == nil && strings.HasPrefix(normal, "https:")
}

// Request rebuilds the request. p is complete.
func (p *Presented) Request(ctx context.Context) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, p.Method, p.URL, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("method and url: %w", err)
	}
	r.TLS = &tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13}
	scheme := "Bearer "
	if p.Proof != "" {
		scheme = "DPoP "
		r.Header.Set("DPoP", p.Proof)
	}
	r.Header.Set("Authorization", scheme+p.Token)
	if p.Certificate == "" {
		return r, nil
	}
	block, _ := pem.Decode([]byte(p.Certificate))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("certificate: want one in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	r.TLS.PeerCertificates = []*x509.Certificate{cert}
	return r, nil
}

// Explained makes an explanation of what a verifier reported. Whether the proof was used before is struck out, since
// whoever explains did not see the requests.
func Explained(checks []tokenbind.Check) *Explanation {
	e := &Explanation{Accepted: true, Checks: slices.Clone(checks)}
	for i := range e.Checks {
		c := &e.Checks[i]
		if c.Name == tokenbind.CheckReplay && c.Result == tokenbind.Pass {
			c.Result, c.Hint = tokenbind.NotApplicable, "only the server that got the proof knows whether it was used before"
		}
		if c.Result == tokenbind.Fail && e.Accepted {
			e.Accepted, e.Cause = false, c.Hint
		}
	}
	return e
}

// audienceOf reads the first audience of a token that was not verified.
func audienceOf(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var one struct {
		Audience string `json:"aud"`
	}
	if json.Unmarshal(payload, &one) == nil && one.Audience != "" {
		return one.Audience
	}
	var many struct {
		Audience []string `json:"aud"`
	}
	if json.Unmarshal(payload, &many) == nil && len(many.Audience) > 0 {
		return many.Audience[0]
	}
	return ""
}
