// Package client is what an application imports to hold an identity of a pkid CA: the REST API's types and
// calls, an identity that enrols and renews itself, and an http.RoundTripper that fetches bound tokens.
package client

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// CA is the answer of GET /v1/ca.
type CA struct {
	Name        string   `json:"name"`
	Root        string   `json:"root"`                  // PEM
	Fingerprint string   `json:"fingerprint"`           // SHA-256 of the root's DER, lower-case hex
	OtherRoots  []string `json:"other_roots,omitempty"` // PEM; those that were before it or are to come
	Issuers     []Issuer `json:"issuers"`               // the one that signs certificates now comes first
	URLs        URLs     `json:"urls"`
}

// Issuer is an issuing CA.
type Issuer struct {
	ID          string `json:"id"`
	Certificate string `json:"certificate"` // PEM
	// Chain has the CAs between this one and the root, in PEM, this one's own issuer first, and after them those that lead to
	// another root. It is empty if the root signed it and there was no other.
	Chain    []string  `json:"chain,omitempty"`
	NotAfter time.Time `json:"not_after"`
	CRL      string    `json:"crl"` // URL of shard 0
	// WholeCRL says that this CRL has no IssuingDistributionPoint and speaks of every certificate of the issuer, of those
	// too that name no CRL or somebody else's: another program issued some. crl.Point without URL is for such a list.
	WholeCRL bool `json:"whole_crl,omitempty"`
	// Shards are the CRLs that are published; each certificate names its own. It is empty if there is shard 0 alone.
	Shards []uint32 `json:"shards,omitempty"`
	// ShardCRL is the URL of the others, with {shard} where their number stands.
	ShardCRL string `json:"shard_crl,omitempty"`
	// CRLLateSince is since when one of its CRLs should have been published and is not. It is zero if none is missing.
	CRLLateSince time.Time `json:"crl_late_since,omitzero"`
}

// CRLs returns the URLs of the issuer's CRLs, by shard.
func (i *Issuer) CRLs() map[uint32]string {
	if len(i.Shards) == 0 {
		return map[uint32]string{0: i.CRL}
	}
	all := map[uint32]string{}
	for _, n := range i.Shards {
		all[n] = i.CRL
		if n > 0 {
			all[n] = strings.ReplaceAll(i.ShardCRL, "{shard}", strconv.FormatUint(uint64(n), 10))
		}
	}
	return all
}

// URLs are where a pkid daemon answers.
type URLs struct {
	Public string `json:"public"` // REST, OAuth, discovery
	MTLS   string `json:"mtls"`   // the same, and what asks for a client certificate
	Status string `json:"status"` // CRLs and issuer certificates, plain HTTP
}

// Certificate is a certificate in the REST API.
type Certificate struct {
	Serial           string          `json:"serial"` // 32 hex digits
	ClientID         string          `json:"client_id"`
	Profile          string          `json:"profile"`
	Thumbprint       thumbprint.Cert `json:"x5t#S256"`
	Names            []string        `json:"names"`
	NotBefore        time.Time       `json:"not_before"`
	NotAfter         time.Time       `json:"not_after"`
	IssuedAt         time.Time       `json:"issued_at"`
	Status           string          `json:"status"` // active, held, revoked, expired
	RevokedAt        time.Time       `json:"revoked_at,omitzero"`
	RevocationReason string          `json:"revocation_reason,omitempty"` // an RFC 5280 name
	Renews           string          `json:"renews,omitempty"`            // serial of the certificate before it
	Issuer           string          `json:"issuer"`                      // id
	Certificate      string          `json:"certificate"`                 // PEM
	Chain            []string        `json:"chain,omitempty"`             // PEM; what a client sends after its own
	Root             string          `json:"root,omitempty"`              // PEM; in answers to enrolment and renewal
	AlsoRevoked      []string        `json:"also_revoked,omitempty"`      // serials; in the answer to a revocation with lineage
	StillActive      []string        `json:"still_active,omitempty"`      // serials; in the answer to one without
	LineageUnknown   bool            `json:"lineage_unknown,omitempty"`   // the revocation took effect, and StillActive could not be found out
}

// Certificates is the answer of GET /v1/certificates. An empty NextCursor marks the end.
type Certificates struct {
	Certificates []Certificate `json:"certificates"`
	NextCursor   string        `json:"next_cursor,omitempty"`
}

// CSR is the JSON body of POST /v1/certificates and of POST /v1/certificates/renew, where an empty one means
// the same key again. application/pkcs10 (DER) and application/x-pem-file are taken as they are.
type CSR struct {
	CSR string `json:"csr,omitempty"` // PEM
}

// Revocation is the body of POST /v1/certificates/{serial}/revoke. removeFromCRL releases a held certificate.
type Revocation struct {
	Reason string `json:"reason,omitempty"` // an RFC 5280 name; unspecified if empty
	// Lineage revokes also what the certificate renews and what renewed it, directly or through others.
	Lineage *bool `json:"lineage,omitempty"`
}

// WithLineage reports what Lineage says, or if it is absent, true for keyCompromise, where those before may have
// the same key and a thief may have renewed first, and false for every other reason.
func (r Revocation) WithLineage() bool {
	if r.Lineage == nil {
		return r.Reason == "keyCompromise"
	}
	return *r.Lineage
}

// InvitationRequest is the body of POST /v1/invitations.
type InvitationRequest struct {
	ClientID  string   `json:"client_id"`
	Profile   string   `json:"profile,omitempty"` // client if empty
	SANs      []string `json:"sans,omitempty"`
	Scopes    []string `json:"scopes,omitempty"`
	Resources []string `json:"resources,omitempty"`
	TTL       string   `json:"ttl,omitempty"`      // how long the invitation holds, such as "24h" (the default); at most 720h
	Lifetime  string   `json:"lifetime,omitempty"` // of the certificate, such as "24h"; the profile's if empty
}

// Invitation is the answer of POST /v1/invitations, the only one that ever shows the token.
type Invitation struct {
	ID        string    `json:"id"`
	ClientID  string    `json:"client_id"`
	Profile   string    `json:"profile"`
	ExpiresAt time.Time `json:"expires_at"`
	Token     string    `json:"token"` // an EnrolmentToken
}

// ClientRecord is an OAuth client in the REST API: the body of POST /v1/clients and the answer of GET. Its
// names are those of RFC 7591 and RFC 8705 where they have one.
type ClientRecord struct {
	ID         string          `json:"client_id"`
	Auth       string          `json:"token_endpoint_auth_method"`
	SubjectDN  string          `json:"tls_client_auth_subject_dn,omitempty"`
	SANDNS     string          `json:"tls_client_auth_san_dns,omitempty"`
	SANURI     string          `json:"tls_client_auth_san_uri,omitempty"`
	SANIP      string          `json:"tls_client_auth_san_ip,omitempty"`
	SANEmail   string          `json:"tls_client_auth_san_email,omitempty"`
	JWKS       json.RawMessage `json:"jwks,omitempty"` // a JWK set
	JWKSURI    string          `json:"jwks_uri,omitempty"`
	DPoP       bool            `json:"dpop_bound_access_tokens,omitempty"`
	Nonce      string          `json:"dpop_nonce,omitempty"`      // required or optional; if empty, as the server asks of all
	Profile    string          `json:"profile,omitempty"`         // security profile that it is held to: fapi2, or none if empty
	Bearer     bool            `json:"insecure_bearer,omitempty"` // may get tokens that are bound to nothing
	Introspect bool            `json:"introspect,omitempty"`      // may introspect any token
	Scopes     []string        `json:"scopes,omitempty"`
	Resources  []string        `json:"resources,omitempty"`
	Disabled   bool            `json:"disabled"`
	CreatedAt  time.Time       `json:"created_at,omitzero"`
	Secret     string          `json:"client_secret,omitempty"` // in the answer that made it, never again
}

// ClientPatch is the body of PATCH /v1/clients/{id}; absent members stay as they are.
type ClientPatch struct {
	Disabled   *bool     `json:"disabled,omitempty"`
	DPoP       *bool     `json:"dpop_bound_access_tokens,omitempty"`
	Nonce      *string   `json:"dpop_nonce,omitempty"` // required, optional, or empty for what the server asks of all
	Profile    *string   `json:"profile,omitempty"`
	Bearer     *bool     `json:"insecure_bearer,omitempty"`
	Introspect *bool     `json:"introspect,omitempty"`
	Scopes     *[]string `json:"scopes,omitempty"`
	Resources  *[]string `json:"resources,omitempty"`
}

// ClientRecords is the answer of GET /v1/clients. An empty NextCursor marks the end.
type ClientRecords struct {
	Clients    []ClientRecord `json:"clients"`
	NextCursor string         `json:"next_cursor,omitempty"`
}

// Problem is an RFC 9457 problem document. Type is stable: "urn:pkid:problem:" and a word.
type Problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"` // what is wrong and what to do
	RequestID string `json:"request_id,omitempty"`
}

func (p *Problem) Error() string {
	switch {
	case p.Detail != "":
		return p.Detail
	case p.RequestID != "":
		return p.Title + " (request " + p.RequestID + ")"
	default:
		return p.Title
	}
}
