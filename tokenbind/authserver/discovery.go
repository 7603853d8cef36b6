package authserver

import (
	"net/http"

	"github.com/pkid/pkid/tokenbind"
)

// metadata is the document of RFC 8414 section 2, with the members that RFC 8705 sections 3.3 and 5 and RFC
// 9449 section 5.1 add.
type metadata struct {
	Issuer                 string   `json:"issuer"`
	TokenEndpoint          string   `json:"token_endpoint"`
	IntrospectionEndpoint  string   `json:"introspection_endpoint"`
	RevocationEndpoint     string   `json:"revocation_endpoint"`
	JWKSURI                string   `json:"jwks_uri"`
	GrantTypes             []string `json:"grant_types_supported"`
	ResponseTypes          []string `json:"response_types_supported"` // required, and empty: there is no authorization endpoint
	TokenAuthMethods       []string `json:"token_endpoint_auth_methods_supported"`
	TokenAuthAlgs          []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	IntrospectionAuth      []string `json:"introspection_endpoint_auth_methods_supported"`
	IntrospectionAuthAlgs  []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
	RevocationAuth         []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAuthAlgs     []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	CertificateBoundTokens bool     `json:"tls_client_certificate_bound_access_tokens"`
	MTLSEndpoints          aliases  `json:"mtls_endpoint_aliases"`
	DPoPSigningAlgs        []string `json:"dpop_signing_alg_values_supported"`
}

// aliases are the endpoints on the listener that asks for a client certificate (RFC 8705 section 5). They are
// always there: some clients know no other way to it.
type aliases struct {
	Token         string `json:"token_endpoint"`
	Introspection string `json:"introspection_endpoint"`
	Revocation    string `json:"revocation_endpoint"`
}

func (s *Server) describe() metadata {
	methods, algs, proofAlgs := names(authMethods), assertionAlgorithms, proofAlgorithms
	if s.c.Profile == FAPI2 {
		methods, algs, proofAlgs = names(fapiMethods), tokenbind.FAPIAlgorithms(), tokenbind.FAPIAlgorithms()
	}
	return metadata{
		Issuer:                 s.c.Issuer,
		TokenEndpoint:          s.c.Issuer + TokenPath,
		IntrospectionEndpoint:  s.c.Issuer + IntrospectPath,
		RevocationEndpoint:     s.c.Issuer + RevokePath,
		JWKSURI:                s.c.Issuer + JWKSPath,
		GrantTypes:             []string{"client_credentials"},
		ResponseTypes:          []string{},
		TokenAuthMethods:       methods,
		TokenAuthAlgs:          algs,
		IntrospectionAuth:      methods,
		IntrospectionAuthAlgs:  algs,
		RevocationAuth:         methods,
		RevocationAuthAlgs:     algs,
		CertificateBoundTokens: true,
		MTLSEndpoints: aliases{
			Token:         s.c.MTLSBase + TokenPath,
			Introspection: s.c.MTLSBase + IntrospectPath,
			Revocation:    s.c.MTLSBase + RevokePath,
		},
		DPoPSigningAlgs: proofAlgs,
	}
}

func names[T ~string](values []T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

// Metadata serves the server's metadata (RFC 8414 section 3).
func (s *Server) Metadata(w http.ResponseWriter, r *http.Request) { serveDocument(w, r, s.metadata) }

// JWKS serves the keys that verify access tokens (RFC 7517 section 5).
func (s *Server) JWKS(w http.ResponseWriter, r *http.Request) {
	serveDocument(w, r, s.keys.Load().jwks)
}

func serveDocument(w http.ResponseWriter, r *http.Request, body []byte) {
	allowOrigins(w.Header())
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		w.Header().Set("Cache-Control", "public, max-age=300")
		writeJSON(w, http.StatusOK, body)
	case http.MethodOptions:
		preflight(w)
	default:
		w.Header().Set("Allow", "GET, HEAD, OPTIONS")
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}
