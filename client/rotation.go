package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// IssuerState is an issuing CA and what it does. An operator sees those that were and those that are to come, too.
type IssuerState struct {
	ID              string    `json:"id"`
	State           string    `json:"state"` // requested, installed, waiting, active, retiring, ended
	Subject         string    `json:"subject,omitempty"`
	RootFingerprint string    `json:"root_fingerprint,omitempty"`
	KeyURI          string    `json:"key_uri,omitempty"` // of the device that has its key
	CreatedAt       time.Time `json:"created_at,omitzero"`
	NotBefore       time.Time `json:"not_before,omitzero"`
	NotAfter        time.Time `json:"not_after,omitzero"`
	ActiveFrom      time.Time `json:"active_from,omitzero"`  // from then on it signs certificates
	ActiveUntil     time.Time `json:"active_until,omitzero"` // until another one does
	Issued          uint64    `json:"issued"`                // certificates
	LastExpiry      time.Time `json:"last_expiry,omitzero"`  // of the last of them
	EndsAt          time.Time `json:"ends_at,omitzero"`      // when nothing needs it any more, by what is known now
	CRL             string    `json:"crl,omitempty"`         // URL
	CSR             string    `json:"csr,omitempty"`         // PEM, while it is requested
	Certificate     string    `json:"certificate,omitempty"` // PEM
}

// IssuerStates is the answer of GET /v1/issuers.
type IssuerStates struct {
	Issuers []IssuerState `json:"issuers"`
}

// IssuerRequest asks for a new issuing CA's key and CSR. The zero value asks for one like the first.
type IssuerRequest struct {
	KeyType string `json:"key_type,omitempty"` // P-256, P-384, P-521, Ed25519, RSA-2048, RSA-3072 or RSA-4096
	KeyURI  string `json:"key_uri,omitempty"`  // of a key in a device, such as pkcs11:..., which is made if it is not there
}

// IssuerInstallation is the certificate that was signed for a request.
type IssuerInstallation struct {
	Certificate string   `json:"certificate"`         // PEM
	Root        string   `json:"root,omitempty"`      // PEM; the one of now if empty
	Chain       []string `json:"chain,omitempty"`     // PEM; between the two, and what leads to the root of now if Root is a new one
	RootCRL     []byte   `json:"root_crl,omitempty"`  // DER in base64, of who signed the certificate
	ActiveIn    string   `json:"active_in,omitempty"` // from when on it signs: a duration; 10m if empty
}

// TokenKeyState is a token signing key.
type TokenKeyState struct {
	ID        string    `json:"kid"`
	Algorithm string    `json:"alg"`
	InConfig  bool      `json:"in_config,omitempty"`
	Signs     bool      `json:"signs,omitempty"` // new tokens, now
	CreatedAt time.Time `json:"created_at,omitzero"`
	SignsFrom time.Time `json:"signs_from,omitzero"`
	EndsAt    time.Time `json:"ends_at,omitzero"` // then it is published no more
	Dropped   bool      `json:"dropped,omitempty"`
}

// TokenKeyStates is the answer of GET /v1/token-keys.
type TokenKeyStates struct {
	TokenKeys []TokenKeyState `json:"token_keys"`
}

// IssuerStates returns the issuing CAs in the order in which they sign.
func (a *API) IssuerStates(ctx context.Context) ([]IssuerState, error) {
	out, err := get[IssuerStates](ctx, a, "/v1/issuers", nil)
	if err != nil {
		return nil, err
	}
	return out.Issuers, nil
}

// RequestIssuer makes the key of a new issuing CA and returns it with its CSR.
func (a *API) RequestIssuer(ctx context.Context, r IssuerRequest) (*IssuerState, error) {
	return send[IssuerState](ctx, a, http.MethodPost, "/v1/issuers", r)
}

// InstallIssuer installs a new issuing CA's certificate. Called again with the same one it goes on from where it failed.
func (a *API) InstallIssuer(ctx context.Context, id string, in IssuerInstallation) (*IssuerState, error) {
	return send[IssuerState](ctx, a, http.MethodPut, "/v1/issuers/"+url.PathEscape(id)+"/certificate", in)
}

// DropIssuer takes away an issuing CA that is not about to become active.
func (a *API) DropIssuer(ctx context.Context, id string) error {
	return call(ctx, a.hc, http.MethodDelete, join(a.base, "/v1/issuers/"+url.PathEscape(id)), nil, nil, nil)
}

// TokenKeys returns the token signing keys.
func (a *API) TokenKeys(ctx context.Context) ([]TokenKeyState, error) {
	out, err := get[TokenKeyStates](ctx, a, "/v1/token-keys", nil)
	if err != nil {
		return nil, err
	}
	return out.TokenKeys, nil
}

// RotateTokenKey makes the next token signing key and returns it, or the one that is announced already.
func (a *API) RotateTokenKey(ctx context.Context) (*TokenKeyState, error) {
	return send[TokenKeyState](ctx, a, http.MethodPost, "/v1/token-keys", nil)
}

// DropTokenKey ends a token signing key at once, and every token that it signed.
func (a *API) DropTokenKey(ctx context.Context, kid string) error {
	return call(ctx, a.hc, http.MethodDelete, join(a.base, "/v1/token-keys/"+url.PathEscape(kid)), nil, nil, nil)
}
