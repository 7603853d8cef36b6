package tokenbind

import (
	"context"
	"net/http"
)

type claimsKey struct{}

// WithClaims returns a context that carries the claims of its request: Handler's does, and so should that of whoever
// verifies requests by other means.
func WithClaims(ctx context.Context, claims *Claims) context.Context {
	return context.WithValue(ctx, claimsKey{}, claims)
}

// ClaimsFrom returns the claims that Handler left in the context of a request.
func ClaimsFrom(ctx context.Context) (*Claims, bool) {
	c, ok := ctx.Value(claimsKey{}).(*Claims)
	return c, ok
}

// Handler lets through to next what Verify accepts, with the claims in its context, and refuses the rest.
func (v *Verifier) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if claims, err := v.Admit(w, r); err == nil {
			next.ServeHTTP(w, r.WithContext(WithClaims(r.Context(), claims)))
		}
	})
}

// Admit is Handler for those who go on themselves. It returns the claims of a request that may pass, and has set the
// headers that its answer needs. One that is refused has been answered, and err says why.
func (v *Verifier) Admit(w http.ResponseWriter, r *http.Request) (*Claims, error) {
	q, err := v.verify(r)
	if err != nil {
		v.Refuse(w, r, err)
		return nil, err
	}
	v.renewNonce(w, q)
	return &q.claims, nil
}

// Requiring returns a Verifier that demands these scopes instead of Config.RequiredScopes. It is the same in all else, and
// shares all that v knows: keys, tokens, nonces, and the proofs that were used. To make one costs next to nothing.
func (v *Verifier) Requiring(scopes ...string) *Verifier {
	w := *v
	w.conf.RequiredScopes = scopes
	return &w
}

// Stands judges again what Verify accepted, for a stream that goes on for long: the token's lifetime, the certificate's,
// and whether either was revoked or the client disabled meanwhile. r is the request as it was verified. A refusal is an
// *Error. A proof is not looked at again.
func (v *Verifier) Stands(r *http.Request, claims *Claims) error {
	q := v.begin(r)
	q.claims, q.seen = *claims, &knownToken{}
	if walk(&q.t, standingRules, q) {
		return nil
	}
	return newError(q.t.first, CodeInvalidToken, q.scheme)
}

// renewNonce hands out the next nonce before the client's runs out, which saves it a refusal. An answer that
// carries a nonce is not to be cached (RFC 9449 section 8.2).
func (v *Verifier) renewNonce(w http.ResponseWriter, q *request) {
	if q.proof == nil || !v.conf.RequireNonce {
		return
	}
	next := q.proof.nonce()
	if q.proof.jws.Claims["nonce"] == next {
		return
	}
	h := w.Header()
	h.Set("DPoP-Nonce", next)
	h.Set("Cache-Control", "no-store")
	exposeHeaders(h)
}
