package client

import (
	"context"
	"crypto/x509"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// API calls the REST API as the holder of an identity. What its calls do needs an operator's certificate,
// save CA and Issuers. A refusal is a *Problem.
type API struct {
	base  string
	roots []*x509.Certificate
	hc    *http.Client
}

// API returns the REST API of the identity's CA, over mTLS.
func (id *Identity) API() *API {
	return &API{base: id.info.URLs.MTLS, roots: id.TrustedRoots(), hc: id.HTTPClient()}
}

// NewAPI returns the REST API at pkid's public URL for somebody without an identity, who may ask for CA and Issuers. All
// trust comes from the roots: the server must prove itself by them, and issuing CAs must lead to one.
func NewAPI(public string, roots ...*x509.Certificate) *API {
	return &API{base: public, roots: roots, hc: newHTTPClient(showing(nil, pool(roots...)))}
}

// CA returns what the CA says of itself.
func (a *API) CA(ctx context.Context) (*CA, error) { return get[CA](ctx, a, "/v1/ca", nil) }

// Issuers returns the certificates of the CA's issuing CAs that lead to a root of the identity. They are what a
// crl.Checker needs to know: give it this method to ask again when there are others (CheckerConfig.Learn).
func (a *API) Issuers(ctx context.Context) ([]*x509.Certificate, error) {
	ca, err := a.CA(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the issuing CAs: %w", err)
	}
	return ca.VerifiedIssuers(a.roots...)
}

// Invite makes an invitation. Its token is shown this once.
func (a *API) Invite(ctx context.Context, r InvitationRequest) (*Invitation, error) {
	return send[Invitation](ctx, a, http.MethodPost, "/v1/invitations", r)
}

// Certificate returns a certificate by its serial, in hex.
func (a *API) Certificate(ctx context.Context, serial string) (*Certificate, error) {
	return get[Certificate](ctx, a, "/v1/certificates/"+url.PathEscape(serial), nil)
}

// Revoke revokes a certificate, holds it (certificateHold) or releases it (removeFromCRL), and returns what
// became of it.
func (a *API) Revoke(ctx context.Context, serial string, r Revocation) (*Certificate, error) {
	return send[Certificate](ctx, a, http.MethodPost, "/v1/certificates/"+url.PathEscape(serial)+"/revoke", r)
}

// CertificateFilter narrows a list of certificates; its zero value narrows nothing.
type CertificateFilter struct {
	Client        string
	Name          string
	Thumbprint    string
	Status        string // active, held, revoked or expired
	Profile       string
	ExpiresBefore time.Time
}

func (f CertificateFilter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{
		"client": f.Client, "name": f.Name, "thumbprint": f.Thumbprint, "status": f.Status, "profile": f.Profile,
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if !f.ExpiresBefore.IsZero() {
		q.Set("expires_before", f.ExpiresBefore.UTC().Format(time.RFC3339))
	}
	return q
}

// Certificates yields the certificates that pass the filter, fetching page after page. An error ends it.
func (a *API) Certificates(ctx context.Context, f CertificateFilter) iter.Seq2[Certificate, error] {
	return pages(f.query(), func(q url.Values) ([]Certificate, string, error) {
		page, err := get[Certificates](ctx, a, "/v1/certificates", q)
		if err != nil {
			return nil, "", err
		}
		return page.Certificates, page.NextCursor, nil
	})
}

// AddClient registers an OAuth client. A secret that the CA made for it is in the answer, this once.
func (a *API) AddClient(ctx context.Context, c ClientRecord) (*ClientRecord, error) {
	return send[ClientRecord](ctx, a, http.MethodPost, "/v1/clients", c)
}

// Client returns an OAuth client.
func (a *API) Client(ctx context.Context, id string) (*ClientRecord, error) {
	return get[ClientRecord](ctx, a, "/v1/clients/"+url.PathEscape(id), nil)
}

// PatchClient changes an OAuth client and returns it as it is then.
func (a *API) PatchClient(ctx context.Context, id string, p ClientPatch) (*ClientRecord, error) {
	return send[ClientRecord](ctx, a, http.MethodPatch, "/v1/clients/"+url.PathEscape(id), p)
}

// Clients yields all OAuth clients in the order of their ids. An error ends it.
func (a *API) Clients(ctx context.Context) iter.Seq2[ClientRecord, error] {
	return pages(url.Values{}, func(q url.Values) ([]ClientRecord, string, error) {
		page, err := get[ClientRecords](ctx, a, "/v1/clients", q)
		if err != nil {
			return nil, "", err
		}
		return page.Clients, page.NextCursor, nil
	})
}

// pages yields the items of page after page. A cursor that comes twice would go on for ever, so it is an error.
func pages[T any](q url.Values, fetch func(url.Values) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		for cursor := ""; ; {
			items, next, err := fetch(q)
			if err != nil {
				yield(zero, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			if next == cursor {
				yield(zero, fmt.Errorf("the server sent the same cursor twice"))
				return
			}
			cursor = next
			q.Set("cursor", cursor)
		}
	}
}

func get[T any](ctx context.Context, a *API, path string, q url.Values) (*T, error) {
	target := join(a.base, path)
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	out := new(T)
	if err := call(ctx, a.hc, http.MethodGet, target, nil, nil, out); err != nil {
		return nil, err
	}
	return out, nil
}

func send[T any](ctx context.Context, a *API, method, path string, in any) (*T, error) {
	out := new(T)
	if err := call(ctx, a.hc, method, join(a.base, path), nil, in, out); err != nil {
		return nil, err
	}
	return out, nil
}
