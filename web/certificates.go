package web

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/appendjson"
	"github.com/pkid/pkid/thumbprint"
)

func (s *Server) getCA(w http.ResponseWriter, _ *http.Request) error {
	active := s.c.Authority.Issuer()
	out := client.CA{Name: s.c.Name, Root: pemOf(active.Root.Raw), Fingerprint: fingerprint(active.Root), URLs: s.c.URLs}
	shards := map[string][]uint32{} // of the issuers whose CRLs are published
	for _, shard := range s.c.CRL.Shards() {
		shards[shard.Issuer] = append(shards[shard.Issuer], shard.Number)
	}
	for _, issuer := range s.c.Authority.Issuers() {
		switch numbers := shards[issuer.ID()]; {
		case len(numbers) == 0: // it has ended
		case issuer.ID() == active.ID():
			out.Issuers = slices.Insert(out.Issuers, 0, issuerOf(issuer, numbers))
		default:
			out.Issuers = append(out.Issuers, issuerOf(issuer, numbers))
		}
		if other := pemOf(issuer.Root.Raw); other != out.Root && !slices.Contains(out.OtherRoots, other) {
			out.OtherRoots = append(out.OtherRoots, other)
		}
	}
	for i := range out.Issuers {
		out.Issuers[i].CRLLateSince = s.lateSince(out.Issuers[i].ID)
	}
	return writeJSON(w, http.StatusOK, out)
}

// lateSince is since when a CRL of an issuer should have been published and is not; zero if none is missing.
func (s *Server) lateSince(issuer string) (since time.Time) {
	for _, st := range s.c.CRL.Status() {
		if at := st.Late(s.now()); st.Shard.Issuer == issuer && !at.IsZero() && (since.IsZero() || at.Before(since)) {
			since = at.UTC()
		}
	}
	return since
}

func issuerOf(issuer *ca.Issuer, shards []uint32) client.Issuer {
	cert := issuer.Signer.Certificate()
	out := client.Issuer{ID: issuer.ID(), Certificate: pemOf(cert.Raw), NotAfter: cert.NotAfter.UTC(), CRL: issuer.CRLURL, WholeCRL: issuer.Whole}
	for _, c := range issuer.Chain()[1:] {
		out.Chain = append(out.Chain, pemOf(c.Raw))
	}
	if len(shards) > 1 || shards[0] > 0 {
		out.Shards, out.ShardCRL = shards, issuer.CRLTemplate()
	}
	return out
}

func (s *Server) postInvitation(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[client.InvitationRequest](r)
	if err != nil {
		return err
	}
	ttl, err := duration("ttl", in.TTL)
	if err != nil {
		return err
	}
	lifetime, err := duration("lifetime", in.Lifetime)
	if err != nil {
		return err
	}
	inv, secret, err := s.c.Enroll.Invite(r.Context(), enroll.InviteRequest{
		ClientID: in.ClientID, Profile: in.Profile, SANs: in.SANs, Scopes: in.Scopes, Resources: in.Resources,
		TTL: ttl, Lifetime: lifetime,
	})
	if err != nil {
		return err
	}
	token, err := s.enrolmentToken(inv.ID, secret)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, client.Invitation{
		ID: inv.ID, ClientID: inv.ClientID, Profile: inv.Profile, ExpiresAt: inv.ExpiresAt.UTC(), Token: token,
	})
}

func duration(name, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, refuse(badRequest, `%s is a duration such as "90m" or "24h", not %q`, name, text)
	}
	return d, nil
}

// enrolmentToken puts an invitation into the one string that enrolment needs.
func (s *Server) enrolmentToken(id string, secret [32]byte) (string, error) {
	raw, err := invitationID(id)
	if err != nil {
		return "", err
	}
	return client.EnrolmentToken{
		URL: s.c.URLs.Public, Root: thumbprint.OfCertificate(s.c.Authority.Issuer().Root), ID: raw, Secret: secret,
	}.String(), nil
}

func (s *Server) postCertificate(w http.ResponseWriter, r *http.Request) error {
	token, err := bearer(r)
	if err != nil {
		return err
	}
	csr, err := readCSR(r)
	if err != nil {
		return err
	}
	issued, err := s.c.Enroll.Enroll(r.Context(), token.InvitationID(), token.Secret, csr)
	if err != nil {
		return err
	}
	return s.writeIssued(w, r, issued)
}

func (s *Server) renewCertificate(w http.ResponseWriter, r *http.Request) error {
	var csr []byte
	empty, err := emptyBody(r)
	if err == nil && !empty {
		csr, err = readCSR(r)
	}
	if err != nil {
		return err
	}
	renew := s.c.Enroll.Renew
	if callOf(r.Context()).proxy != nil {
		renew = s.c.Enroll.RenewForwarded
	}
	issued, err := renew(r.Context(), r.TLS, csr)
	if err != nil {
		return err
	}
	return s.writeIssued(w, r, issued)
}

func (s *Server) writeIssued(w http.ResponseWriter, r *http.Request, issued *ca.Issued) error {
	callOf(r.Context()).client = issued.Record.ClientID
	w.Header().Set("Location", "/v1/certificates/"+issued.Record.Serial.String())
	return s.writeCertificate(w, r, http.StatusCreated, issued)
}

// bearer reads the enrolment token from the Authorization header.
func bearer(r *http.Request) (client.EnrolmentToken, error) {
	text, err := bearerText(r)
	if err != nil {
		return client.EnrolmentToken{}, err
	}
	return client.ParseEnrolmentToken(text)
}

func bearerText(r *http.Request) (string, error) {
	if values := r.Header.Values("Authorization"); len(values) == 1 {
		if scheme, text, _ := strings.Cut(values[0], " "); strings.EqualFold(scheme, "Bearer") {
			return text, nil
		}
	}
	return "", refuse(tokenNeeded, "send the enrolment token as Authorization: Bearer pkid1_...")
}

// readCSR takes a request in JSON, or as it is. Its size is bounded before anything looks into it.
func readCSR(r *http.Request) ([]byte, error) {
	kind, err := mediaType(r)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "application/json":
		in, err := unmarshal[client.CSR](r.Body)
		return []byte(in.CSR), err
	case "application/pkcs10", pemFile:
		return io.ReadAll(r.Body)
	default:
		return nil, refuse(badMediaType, `send application/json with {"csr": PEM}, or application/pkcs10, not %q`, kind)
	}
}

func (s *Server) getCertificate(w http.ResponseWriter, r *http.Request) error {
	issued, err := s.issued(r)
	if err != nil {
		return err
	}
	return s.writeCertificate(w, r, http.StatusOK, issued)
}

// issued reads the certificate that the path names.
func (s *Server) issued(r *http.Request) (*ca.Issued, error) {
	serial, err := serialIn(r)
	if err != nil {
		return nil, err
	}
	return s.c.Authority.Issued(r.Context(), serial)
}

func serialIn(r *http.Request) (ca.Serial, error) {
	text, err := pathVariable(r, "serial")
	if err != nil {
		return ca.Serial{}, err
	}
	return ca.ParseSerial(text)
}

func (s *Server) revokeCertificate(w http.ResponseWriter, r *http.Request) error {
	in, err := decodeOptional[client.Revocation](r)
	if err != nil {
		return err
	}
	done, err := s.revoke(r, in)
	if err != nil {
		return err
	}
	if done.LineageErr != nil {
		s.log.WarnContext(r.Context(), "a certificate was revoked, and the rest of its lineage could not be read",
			"request_id", callOf(r.Context()).id, "serial", done.Record.Serial.String(), "error", done.LineageErr)
	}
	sendJSON(w, http.StatusOK, func(b []byte) []byte {
		b = appendCertificate(b, done.Record, s.now())
		b = appendSerials(b, `,"also_revoked":`, done.Also)
		b = appendSerials(b, `,"still_active":`, done.Active)
		if done.LineageErr != nil {
			b = append(b, `,"lineage_unknown":true`...)
		}
		return append(b, "}\n"...)
	})
	return nil
}

// appendSerials appends a member of client.Certificate's JSON, if it is not empty.
func appendSerials(b []byte, member string, list []ca.Serial) []byte {
	if len(list) == 0 {
		return b
	}
	var text []string
	for _, s := range list {
		text = append(text, s.String())
	}
	return appendjson.Strings(append(b, member...), text)
}

// revoke revokes, holds or releases the certificate that the path names.
func (s *Server) revoke(r *http.Request, in client.Revocation) (*ca.RevocationOutcome, error) {
	serial, err := serialIn(r)
	if err != nil {
		return nil, err
	}
	reason, err := ca.ParseReason(in.Reason)
	if err != nil {
		return nil, refuse(badRequest, "%v", err)
	}
	return s.c.Authority.Revoke(r.Context(), ca.RevocationRequest{Serial: serial, Reason: reason, Lineage: in.WithLineage()})
}

func (s *Server) listCertificates(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r, append(filters, "limit", "format")...)
	query, format := q.certificates(), q.oneOf("format", "json", "ndjson", "csv")
	query.Limit = q.limit()
	switch streams := format == "ndjson" || format == "csv"; {
	case streams && q.values.Has("limit"):
		q.fail("format=%s answers with everything that matches: leave limit out", format)
	case streams:
		query.Limit = maxPage
	}
	if q.err != nil {
		return q.err
	}
	if format == "ndjson" || format == "csv" {
		return s.export(w, r, query, format)
	}
	page, err := s.listPage(r.Context(), query)
	if err != nil {
		return err
	}
	sendJSON(w, http.StatusOK, func(b []byte) []byte {
		now := s.now()
		b = append(b, `{"certificates":[`...)
		for i, rec := range page.Records {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendCertificate(b, rec, now), '}')
		}
		b = append(b, ']')
		if page.Next != "" {
			b = appendjson.String(append(b, `,"next_cursor":`...), page.Next)
		}
		return append(b, "}\n"...)
	})
	return nil
}
