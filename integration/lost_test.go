package integration

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pkitest"
)

// TestLostRecords restores a CA that knows a revoked certificate by its serial number alone, and asks for it everywhere.
func TestLostRecords(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := pkitest.Start(t, pkitest.Options{})
	var file bytes.Buffer
	if _, err := daemon.BackUp(t.Context(), s.Config, s.Home, &file, identity.Recipient()); err != nil {
		t.Fatal(err)
	}
	gone := s.Enrol(t, client.InvitationRequest{ClientID: "gone"})
	again := s.Enrol(t, client.InvitationRequest{ClientID: "gone"})
	revoke(t, s, gone)
	revoke(t, s, again)
	list := crlWith(t, s, gone, again)
	s.Stop(t)
	dir := filepath.Join(t.TempDir(), "restored")
	if _, _, err := daemon.Restore(t.Context(), &file, dir, pkitest.Logger(t), daemon.Evidence{CRLs: [][]byte{list.Raw}}, identity); err != nil {
		t.Fatal(err)
	}
	r := pkitest.Serve(t, dir, pkitest.Options{})
	serial := fmt.Sprintf("%032x", gone.Certificate().Leaf.SerialNumber)

	found := 0
	for c, err := range r.Operator(t).Certificates(t.Context(), client.CertificateFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if c.ClientID == "?" {
			found++
			if c.Status != "revoked" || c.Certificate != "" {
				t.Errorf("listed as %+v", c)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d lost certificates are listed", found)
	}
	if c, err := r.Operator(t).Certificate(t.Context(), serial); err != nil || c.Status != "revoked" || c.Certificate != "" {
		t.Errorf("asked for: %+v, %v", c, err)
	}
	operator, err := client.Load(r.Home)
	if err != nil {
		t.Fatal(err)
	}
	hc := operator.HTTPClient()
	for _, path := range []string{"/v1/certificates/" + serial, "/v1/certificates", "/console", "/console/certificates", "/console/certificates/" + serial, "/console/clients", "/console/audit"} {
		for _, accept := range []string{"", "application/x-pem-file", "text/csv"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URLs.MTLS+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept", accept)
			resp, err := hc.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode/100 == 5 || bytes.Contains(body, []byte("CERTIFICATE-----\n-----END")) {
				t.Errorf("%s as %q: %s, %v: %s", path, accept, resp.Status, err, body)
			}
		}
	}
	mustBeUnknown(t, gone)
	crlWith(t, r, gone, again)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: gone.Certificate().Leaf.Raw})
	if _, err := r.Operator(t).Adopt(t.Context(), client.Adoption{Certificate: string(text)}); err == nil {
		t.Error("a certificate that was revoked before the restore is adopted")
	}
	for _, reason := range []string{"removeFromCRL", "keyCompromise"} {
		if c, err := r.Operator(t).Revoke(t.Context(), serial, client.Revocation{Reason: reason}); err == nil {
			t.Errorf("revoked for %s: %+v", reason, c)
		}
	}
}
