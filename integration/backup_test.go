package integration

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pkitest"
)

// TestRestoreFromAnOlderBackup loses a CA whose backup is older than what it did last, and brings it back with what was
// kept elsewhere: the newest CRL, and the audit log.
func TestRestoreFromAnOlderBackup(t *testing.T) {
	for name, tt := range map[string]struct{ crl, log bool }{
		"with the CRL": {crl: true}, "with the audit log": {log: true}, "with both": {crl: true, log: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			identity, err := age.GenerateX25519Identity()
			if err != nil {
				t.Fatal(err)
			}
			s := pkitest.Start(t, pkitest.Options{})
			before := s.Enrol(t, client.InvitationRequest{ClientID: "before"})
			stays := s.Enrol(t, client.InvitationRequest{ClientID: "stays"})
			open := invite(t, s, "open")

			var file bytes.Buffer
			if _, err := daemon.BackUp(t.Context(), s.Config, s.Home, &file, identity.Recipient()); err != nil { // while it serves
				t.Fatal(err)
			}

			// What the backup does not know.
			after := s.Enrol(t, client.InvitationRequest{ClientID: "after"})
			gone := s.Enrol(t, client.InvitationRequest{ClientID: "gone"})
			enrolWith(t, open)
			revoke(t, s, before)
			revoke(t, s, gone)
			disabled := true
			if _, err := s.Operator(t).PatchClient(t.Context(), "stays", client.ClientPatch{Disabled: &disabled}); err != nil {
				t.Fatal(err)
			}
			list := crlWith(t, s, before, gone)
			var evidence daemon.Evidence
			if tt.crl {
				evidence.CRLs = [][]byte{list.Raw}
			}
			if tt.log {
				evidence.Audit = []io.Reader{auditLines(t, s)}
			}
			s.Stop(t)

			dir := filepath.Join(t.TempDir(), "restored")
			_, found, err := daemon.Restore(t.Context(), &file, dir, pkitest.Logger(t), evidence, identity)
			if err != nil {
				t.Fatal(err)
			}
			if len(found.Revoked) != 2 || len(found.Lost) != 1 {
				t.Errorf("revoked again: %v, of them unknown: %v", found.Revoked, found.Lost)
			}
			if tt.log && (len(found.Unknown) != 2 || len(found.Clients) != 1) { // "after" and "open"
				t.Errorf("issued since: %v; disabled again: %v", found.Unknown, found.Clients)
			}

			r := pkitest.Serve(t, dir, pkitest.Options{})
			next := crlWith(t, r, before, gone)
			if next.Number.Cmp(list.Number) <= 0 {
				t.Errorf("the CRL's number went from %s to %s", list.Number, next.Number)
			}
			mustBeUnknown(t, after)
			adopt(t, r, after)
			if err := after.Renew(t.Context(), client.RenewOptions{}); err != nil {
				t.Errorf("an adopted certificate: %v", err)
			}
			if tt.log {
				if c, err := r.Operator(t).Client(t.Context(), "stays"); err != nil || !c.Disabled {
					t.Errorf("a client that was disabled is %+v, %v", c, err)
				}
			} else if err := stays.Renew(t.Context(), client.RenewOptions{}); err != nil {
				t.Errorf("a certificate from before the backup: %v", err)
			}
			if err := tryEnrol(t, open); err == nil || !strings.Contains(err.Error(), "restored from a backup") {
				t.Errorf("an invitation that was used after the backup: %v", err)
			}
			verifyAudit(t, r)
		})
	}
}

func invite(t *testing.T, s *pkitest.Server, id string) client.EnrolmentToken {
	t.Helper()
	inv, err := s.Operator(t).Invite(t.Context(), client.InvitationRequest{ClientID: id})
	if err != nil {
		t.Fatal(err)
	}
	token, err := client.ParseEnrolmentToken(inv.Token)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func tryEnrol(t *testing.T, token client.EnrolmentToken) error {
	t.Helper()
	_, err := client.Enroll(t.Context(), token, client.EnrollOptions{Dir: filepath.Join(t.TempDir(), "id")})
	return err
}

func enrolWith(t *testing.T, token client.EnrolmentToken) {
	t.Helper()
	if err := tryEnrol(t, token); err != nil {
		t.Fatal(err)
	}
}

func revoke(t *testing.T, s *pkitest.Server, id *client.Identity) {
	t.Helper()
	if _, err := s.Operator(t).Revoke(t.Context(), fmt.Sprintf("%032x", id.Certificate().Leaf.SerialNumber), client.Revocation{Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}
}

// crlWith waits for the CRL that lists certificates.
func crlWith(t *testing.T, s *pkitest.Server, ids ...*client.Identity) *x509.RevocationList {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		list := fetchCRL(t, ids[0].Certificate().Leaf.CRLDistributionPoints[0])
		if list == nil {
			continue // it is being signed
		}
		missing := 0
		for _, id := range ids {
			if !lists(list, id.Certificate().Leaf.SerialNumber) {
				missing++
			}
		}
		if missing == 0 {
			return list
		}
	}
	t.Fatal("the CRL does not list what was revoked")
	return nil
}

// fetchCRL returns the list at url, or nil if there is none.
func fetchCRL(t *testing.T, url string) *x509.RevocationList {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	der, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func lists(list *x509.RevocationList, serial *big.Int) bool {
	for _, e := range list.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(serial) == 0 {
			return true
		}
	}
	return false
}

// auditLines is the audit log as it was kept elsewhere.
func auditLines(t *testing.T, s *pkitest.Server) io.Reader {
	t.Helper()
	var out bytes.Buffer
	for entry, err := range s.Operator(t).Audit(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(entry, '\n'))
	}
	return &out
}

func verifyAudit(t *testing.T, s *pkitest.Server) {
	t.Helper()
	var head audit.Head
	for text, err := range s.Operator(t).Audit(t.Context(), 0) {
		var e audit.Entry
		if err == nil {
			err = json.Unmarshal(text, &e)
		}
		if err == nil {
			head, err = audit.Verify(head, e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// mustBeUnknown tries to renew a certificate that the CA lost the record of.
func mustBeUnknown(t *testing.T, id *client.Identity) {
	t.Helper()
	err := id.Renew(t.Context(), client.RenewOptions{})
	if p, ok := errors.AsType[*client.Problem](err); !ok || p.Status/100 != 4 {
		t.Errorf("a certificate that was issued after the backup: %v", err)
	}
}

func adopt(t *testing.T, s *pkitest.Server, id *client.Identity) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.Certificate().Leaf.Raw})
	c, err := s.Operator(t).Adopt(t.Context(), client.Adoption{Certificate: string(text)})
	if err != nil || c.ClientID != "after" || c.Status != "active" {
		t.Fatalf("adopting: %+v, %v", c, err)
	}
	_, err = s.Operator(t).Adopt(t.Context(), client.Adoption{Certificate: string(text)})
	if p, ok := errors.AsType[*client.Problem](err); !ok || p.Status != http.StatusConflict {
		t.Errorf("adopting twice: %v", err)
	}
}
