package tokenbind

import (
	"context"
	"net/http"
)

type claimsKey struct{}

// ClaimsFrom returns the claims that Handler left in the context of a request.
func ClaimsFrom(ctx context.Context) (*Claims, bool) {
	c, ok := ctx.Value(claimsKey{}).(*Claims)
	return c, ok
}

// Handler lets through to next what Verify accepts, with the claims in its context, and refuses the rest.
func (v *Verifier) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := v.verify(r)
		if err != nil {
			v.Refuse(w, r, err)
			return
		}
		v.renewNonce(w, q)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), claimsKey{}, &q.claims)))
	})
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
