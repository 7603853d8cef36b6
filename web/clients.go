package web

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/tokenbind/authserver"
)

func (s *Server) postClient(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[client.ClientRecord](r)
	if err != nil {
		return err
	}
	if in.ID == enroll.Daemon {
		return fmt.Errorf("%w: the client id %q is the daemon's own", authserver.ErrClientMetadata, in.ID)
	}
	c, err := registered(in)
	if err != nil {
		return err
	}
	added, secret, err := s.c.Clients.Add(r.Context(), c)
	if err != nil {
		return err
	}
	out := clientOf(added)
	out.Secret = secret
	w.Header().Set("Location", "/v1/clients/"+url.PathEscape(added.ID))
	return writeJSON(w, http.StatusCreated, out)
}

func (s *Server) getClient(w http.ResponseWriter, r *http.Request) error {
	id, err := pathVariable(r, "id")
	if err != nil {
		return err
	}
	c, err := s.c.Clients.Get(r.Context(), id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, clientOf(c))
}

func (s *Server) patchClient(w http.ResponseWriter, r *http.Request) error {
	id, err := pathVariable(r, "id")
	if err != nil {
		return err
	}
	patch, err := decode[client.ClientPatch](r)
	if err != nil {
		return err
	}
	c, err := s.c.Clients.Change(r.Context(), id, func(c *authserver.Client) error {
		set(&c.Disabled, patch.Disabled)
		set(&c.DPoP, patch.DPoP)
		set(&c.Nonce, (*authserver.Nonce)(patch.Nonce))
		set(&c.Profile, (*authserver.Profile)(patch.Profile))
		set(&c.InsecureBearer, patch.Bearer)
		set(&c.Introspect, patch.Introspect)
		set(&c.Scopes, patch.Scopes)
		set(&c.Resources, patch.Resources)
		return nil
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, clientOf(c))
}

func set[T any](member *T, to *T) {
	if to != nil {
		*member = *to
	}
}

func (s *Server) listClients(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r, "cursor", "limit")
	limit := q.limit()
	if q.err != nil {
		return q.err
	}
	found, next, err := s.clientPage(r, q.text("cursor"), limit)
	if err != nil {
		return err
	}
	out := client.ClientRecords{Clients: []client.ClientRecord{}, NextCursor: next}
	for _, c := range found {
		out.Clients = append(out.Clients, clientOf(c))
	}
	return writeJSON(w, http.StatusOK, out)
}

// clientPage reads the clients after a cursor, and the cursor of the next page, which is the last id in hex:
// it shows to nobody that it means anything.
func (s *Server) clientPage(r *http.Request, cursor string, limit int) ([]*authserver.Client, string, error) {
	after, err := hex.DecodeString(cursor)
	if err != nil {
		return nil, "", refuse(badRequest, "unknown cursor: use next_cursor of an earlier answer as it was")
	}
	found, err := s.c.Clients.List(r.Context(), string(after), limit)
	if err != nil || len(found) < limit {
		return found, "", err
	}
	return found, hex.EncodeToString([]byte(found[len(found)-1].ID)), nil
}

// registered turns a request's record into the registry's. The registry validates it.
func registered(in client.ClientRecord) (authserver.Client, error) {
	if in.Secret != "" || !in.CreatedAt.IsZero() {
		return authserver.Client{}, refuse(badRequest, "client_secret and created_at are chosen by the server: leave them out")
	}
	c := authserver.Client{
		ID: in.ID, Auth: authserver.AuthMethod(in.Auth), JWKS: in.JWKS, JWKSURI: in.JWKSURI,
		DPoP: in.DPoP, Nonce: authserver.Nonce(in.Nonce), Profile: authserver.Profile(in.Profile), InsecureBearer: in.Bearer, Introspect: in.Introspect,
		Scopes: in.Scopes, Resources: in.Resources, Disabled: in.Disabled,
	}
	subjects := map[authserver.SubjectKind]string{
		authserver.SubjectDN: in.SubjectDN, authserver.SANDNS: in.SANDNS, authserver.SANURI: in.SANURI,
		authserver.SANIP: in.SANIP, authserver.SANEmail: in.SANEmail,
	}
	for _, name := range subjects {
		if name == "" && c.Auth != authserver.TLSClientAuth {
			continue // with tls_client_auth one is needed; elsewhere one is refused, by the registry
		}
		var err error
		c.SubjectKind, c.Subject, err = authserver.Subject(subjects)
		return c, err
	}
	return c, nil
}

// clientOf puts a client's record into its wire form, without what is secret.
func clientOf(c *authserver.Client) client.ClientRecord {
	subject := func(kind authserver.SubjectKind) string {
		if c.SubjectKind == kind {
			return c.Subject
		}
		return ""
	}
	return client.ClientRecord{
		ID: c.ID, Auth: string(c.Auth),
		SubjectDN: subject(authserver.SubjectDN), SANDNS: subject(authserver.SANDNS), SANURI: subject(authserver.SANURI),
		SANIP: subject(authserver.SANIP), SANEmail: subject(authserver.SANEmail),
		JWKS: c.JWKS, JWKSURI: c.JWKSURI, DPoP: c.DPoP, Nonce: string(c.Nonce), Profile: string(c.Profile), Bearer: c.InsecureBearer,
		Introspect: c.Introspect, Scopes: c.Scopes, Resources: c.Resources, Disabled: c.Disabled, CreatedAt: c.CreatedAt.UTC(),
	}
}
