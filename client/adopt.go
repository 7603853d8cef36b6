package client

import (
	"context"
	"net/http"
)

// Adoption is the body of POST /v1/certificates/adopt.
type Adoption struct {
	Certificate string `json:"certificate"`         // PEM
	ClientID    string `json:"client_id,omitempty"` // whom it speaks for; its common name if empty
	Profile     string `json:"profile,omitempty"`   // "client" if empty
}

// Adopt makes a certificate count again that the CA signed and lost the record of, because it was restored from an
// older backup.
func (a *API) Adopt(ctx context.Context, ad Adoption) (*Certificate, error) {
	return send[Certificate](ctx, a, http.MethodPost, "/v1/certificates/adopt", ad)
}
