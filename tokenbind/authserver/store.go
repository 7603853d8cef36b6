package authserver

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// Sentinels that the stores return, wrapped or bare.
var (
	// ErrNoClient: no client has that id.
	ErrNoClient = errors.New("no such client")
	// ErrConflict: the record changed in between, or exists where none was expected. Read it and start over.
	ErrConflict = errors.New("client changed in between")
	// ErrNoCertificate: this CA did not issue a certificate with that thumbprint.
	ErrNoCertificate = errors.New("no such certificate")
)

// AuthMethod is a token_endpoint_auth_method of the IANA registry.
type AuthMethod string

// The methods that the token endpoint takes (RFC 8705 section 2, RFC 7591 section 2).
const (
	TLSClientAuth           AuthMethod = "tls_client_auth"
	SelfSignedTLSClientAuth AuthMethod = "self_signed_tls_client_auth"
	PrivateKeyJWT           AuthMethod = "private_key_jwt"
	ClientSecretBasic       AuthMethod = "client_secret_basic"
	ClientSecretPost        AuthMethod = "client_secret_post"
	ClientSecretJWT         AuthMethod = "client_secret_jwt"
)

// SubjectKind says which name of a certificate identifies a tls_client_auth client (RFC 8705 section 2.1.2).
type SubjectKind string

// The five kinds; a client has exactly one.
const (
	SubjectDN SubjectKind = "tls_client_auth_subject_dn"
	SANDNS    SubjectKind = "tls_client_auth_san_dns"
	SANURI    SubjectKind = "tls_client_auth_san_uri"
	SANIP     SubjectKind = "tls_client_auth_san_ip"
	SANEmail  SubjectKind = "tls_client_auth_san_email"
)

// Client is a client's record. It is stored as JSON, so members may be added but not renamed.
type Client struct {
	ID          string      `json:"id"`
	Auth        AuthMethod  `json:"auth"`
	SubjectKind SubjectKind `json:"subject_kind,omitempty"` // with tls_client_auth
	Subject     string      `json:"subject,omitempty"`
	JWKS        []byte      `json:"jwks,omitempty"`     // a JWK set, with self_signed_tls_client_auth or private_key_jwt
	JWKSURI     string      `json:"jwks_uri,omitempty"` // or where it is published
	SecretHash  []byte      `json:"secret_hash,omitempty"`
	// SealedSecret is the secret encrypted under the data key; client_secret_jwt alone needs it back.
	SealedSecret []byte `json:"sealed_secret,omitempty"`

	DPoP           bool     `json:"dpop,omitempty"`            // dpop_bound_access_tokens: a proof is required
	Nonce          Nonce    `json:"require_nonce,omitempty"`   // whether proofs must carry a nonce of ours
	Profile        Profile  `json:"profile,omitempty"`         // security profile that it is held to
	InsecureBearer bool     `json:"insecure_bearer,omitempty"` // may get unbound tokens
	Introspect     bool     `json:"introspect,omitempty"`      // may introspect any token
	Scopes         []string `json:"scopes,omitempty"`
	Resources      []string `json:"resources,omitempty"` // a token without resource in its request is for all

	Disabled bool `json:"disabled,omitempty"`
	// TokensNotBefore refuses every token issued before it: set when the client is disabled, and kept.
	TokensNotBefore time.Time `json:"tokens_not_before,omitzero"`
	CreatedAt       time.Time `json:"created_at"`
	Version         uint64    `json:"version"` // 1 for a new record; PutClient raises it
}

// ClientStore keeps client records. Its methods may be called at once from many processes; what PutClient
// returned is durable, its audit event with it.
type ClientStore interface {
	// Client returns a record, or ErrNoClient.
	Client(ctx context.Context, id string) (*Client, error)
	// PutClient keeps c if the stored record's version is c.Version (0: there is none), and returns c with
	// its version raised by one. ErrConflict otherwise, with nothing changed.
	PutClient(ctx context.Context, c Client, ev audit.Event) (*Client, error)
	// Clients returns records in the order of their ids, those after the given id, at most limit.
	Clients(ctx context.Context, after string, limit int) ([]*Client, error)
}

// RevokedTokens keeps the ids of access tokens that were revoked before they expired (RFC 7009).
type RevokedTokens interface {
	// RevokeToken is durable when it returns. Revoking twice is no error. Entries may be dropped after until.
	RevokeToken(ctx context.Context, jti string, until time.Time, ev audit.Event) error
	// TokenRevoked reports whether the id was revoked.
	TokenRevoked(ctx context.Context, jti string) (bool, error)
}

// Certificates tells what this CA knows of a certificate.
type Certificates interface {
	// Certificate returns what is known of this very certificate, or ErrNoCertificate: the CA did not issue it.
	Certificate(ctx context.Context, cert *x509.Certificate) (*CertificateStatus, error)
	// Revoked reports whether a certificate of the CA is revoked or held. It is false for one of another CA.
	Revoked(ctx context.Context, t thumbprint.Cert) (bool, error)
}

// CertificateStatus is what became of a certificate of this CA.
type CertificateStatus struct {
	Serial   string // hex
	ClientID string // whom it was issued to
	Operator bool   // it makes its holder an operator of the CA; such a one is no client's credential
	Revoked  bool   // revoked or held
	Held     bool   // revoked for the time being: an operator may release it
}
