package web

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/rollover"
)

// defaultLead is how far ahead a new issuing CA becomes active if the operator names no time: enough for every node to
// have its key, and for servers that fetch CRLs every few minutes to have its first.
const defaultLead = 10 * time.Minute

func (s *Server) listIssuers(w http.ResponseWriter, r *http.Request) error {
	all, err := s.c.Issuers.All(r.Context())
	if all == nil {
		return err
	}
	out := client.IssuerStates{Issuers: []client.IssuerState{}}
	for i := range all {
		out.Issuers = append(out.Issuers, issuerState(&all[i]))
	}
	return writeJSON(w, http.StatusOK, out)
}

func (s *Server) postIssuer(w http.ResponseWriter, r *http.Request) error {
	in, err := decodeOptional[client.IssuerRequest](r)
	if err != nil {
		return err
	}
	made, err := s.c.Issuers.Request(r.Context(), rollover.Request{KeyType: ca.KeyType(in.KeyType), KeyURI: in.KeyURI})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/issuers/"+made.ID())
	return writeJSON(w, http.StatusCreated, issuerState(made))
}

func (s *Server) putIssuer(w http.ResponseWriter, r *http.Request) error {
	id, err := pathVariable(r, "id")
	if err != nil {
		return err
	}
	in, err := decode[client.IssuerInstallation](r)
	if err != nil {
		return err
	}
	lead := defaultLead
	if in.ActiveIn != "" {
		if lead, err = time.ParseDuration(in.ActiveIn); err != nil || lead < 0 {
			return refuse(badRequest, `active_in is a duration such as "10m" or "0s", not %q`, in.ActiveIn)
		}
	}
	what := rollover.Installation{RootCRL: in.RootCRL}
	if what.Certificate, err = certificateIn("certificate", in.Certificate); err != nil {
		return err
	}
	if in.Root != "" {
		if what.Root, err = certificateIn("root", in.Root); err != nil {
			return err
		}
	}
	for _, text := range in.Chain {
		cert, err := certificateIn("chain", text)
		if err != nil {
			return err
		}
		what.Chain = append(what.Chain, cert)
	}
	installed, err := s.c.Issuers.Install(r.Context(), id, what, lead)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, issuerState(installed))
}

// certificateIn reads one PEM certificate.
func certificateIn(member, text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, refuse(badRequest, "%s is a PEM certificate", member)
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, refuse(badRequest, "%s is one PEM certificate; those above it go into chain", member)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, refuse(badRequest, "%s: %v", member, err)
	}
	return cert, nil
}

func (s *Server) deleteIssuer(w http.ResponseWriter, r *http.Request) error {
	id, err := pathVariable(r, "id")
	if err == nil {
		err = s.c.Issuers.Drop(r.Context(), id)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) listTokenKeys(w http.ResponseWriter, r *http.Request) error {
	all, err := s.c.TokenKeys.All(r.Context())
	if err != nil {
		return err
	}
	now, out := s.now(), client.TokenKeyStates{TokenKeys: []client.TokenKeyState{}}
	current := rollover.Current(all, now)
	for i := range all {
		state := tokenKeyState(&all[i])
		state.Signs = len(current) > 0 && current[0].ID == state.ID
		out.TokenKeys = append(out.TokenKeys, state)
	}
	return writeJSON(w, http.StatusOK, out)
}

func (s *Server) postTokenKey(w http.ResponseWriter, r *http.Request) error {
	if empty, err := emptyBody(r); err != nil || !empty {
		return errors.Join(err, refuse(badRequest, "the request takes no body"))
	}
	made, err := s.c.TokenKeys.Rotate(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, tokenKeyState(made))
}

func (s *Server) deleteTokenKey(w http.ResponseWriter, r *http.Request) error {
	kid, err := pathVariable(r, "id")
	if err == nil {
		err = s.c.TokenKeys.Drop(r.Context(), kid)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func issuerState(i *rollover.Issuer) client.IssuerState {
	out := client.IssuerState{
		ID: i.ID(), State: string(i.State), CreatedAt: i.Key.CreatedAt, ActiveFrom: i.Since, ActiveUntil: i.Until,
		Issued: i.Issued, LastExpiry: i.LastExpiry, EndsAt: i.End, KeyURI: i.Key.URI,
	}
	if len(i.Key.Request) > 0 && i.Issuer == nil {
		out.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: i.Key.Request}))
	}
	if i.Issuer != nil {
		cert := i.Signer.Certificate()
		out.Subject, out.NotBefore, out.NotAfter = cert.Subject.String(), cert.NotBefore.UTC(), cert.NotAfter.UTC()
		out.Certificate, out.CRL, out.RootFingerprint = pemOf(cert.Raw), i.CRLURL, fingerprint(i.Root)
	}
	return out
}

func tokenKeyState(k *rollover.TokenKey) client.TokenKeyState {
	return client.TokenKeyState{
		ID: k.ID, Algorithm: k.Algorithm, InConfig: k.InConfig, CreatedAt: k.CreatedAt, SignsFrom: k.Since, EndsAt: k.End, Dropped: k.Dropped,
	}
}
