package integration

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/internal/stepca"
)

// newRoot brings an issuing CA below a new root into service: the request is taken elsewhere and signed there, and the
// root before signs the new one's key.
func newRoot(t *testing.T, s *pkitest.Server) *x509.Certificate {
	t.Helper()
	passphrase, err := s.Config.ReadPassphrase()
	if err != nil {
		t.Fatal(err)
	}
	oldKey, err := stepca.OpenKey(t.Context(), s.Path("keys", "root.key"), passphrase)
	if err != nil {
		t.Fatal(err)
	}
	old := readPEM(t, s.Path("root.crt"))
	key, err := stepca.GenerateKey(ca.P384)
	if err != nil {
		t.Fatal(err)
	}
	spec := stepca.CeremonySpec{Name: "Next", RootCRLURL: s.URLs.Status + "/crl/root.crl", RootAIAURL: s.URLs.Status + "/issuers/root.crt"}
	root, err := stepca.CreateRoot(spec, key)
	if err != nil {
		t.Fatal(err)
	}
	cross, err := stepca.CrossSign(spec, root, old, oldKey)
	if err != nil {
		t.Fatal(err)
	}
	next, err := daemon.Rotation{}.Next(t.Context(), s.Config)
	if err != nil {
		t.Fatal(err)
	}
	again, err := daemon.Rotation{}.Next(t.Context(), s.Config)
	if err != nil || again.CSR != next.CSR {
		t.Errorf("asking twice for the request gives another one, %v", err)
	}
	block, _ := pem.Decode([]byte(next.CSR))
	cert, err := stepca.SignIssuerRequest(spec, root, key, block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "signed.pem")
	var text []byte
	for _, c := range []*x509.Certificate{cross, cert, root} { // in any order
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	installed, err := daemon.Rotation{ActiveIn: "0s"}.Install(t.Context(), s.Config, daemon.Installation{Certificate: file})
	if err != nil {
		t.Fatal(err)
	}
	if installed.ID != next.ID || installed.State != "active" {
		t.Fatalf("installed %+v", installed)
	}
	return root
}

func readPEM(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// With a new root, who knows only the one before and who knows only the new one accept the same chain, tokens that were
// not used yet are good still, and an identity learns of the new root when it renews.
func TestRolloverToANewRoot(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	old := s.Enrol(t, client.InvitationRequest{ClientID: "old"})
	inv, err := s.Operator(t).Invite(t.Context(), client.InvitationRequest{ClientID: "late"})
	if err != nil {
		t.Fatal(err)
	}
	oldRoot := old.Root()
	root := newRoot(t, s)

	token, err := client.ParseEnrolmentToken(inv.Token)
	if err != nil {
		t.Fatal(err)
	}
	late, err := client.Enroll(t.Context(), token, client.EnrollOptions{Dir: filepath.Join(t.TempDir(), "late")})
	if err != nil {
		t.Fatalf("an invitation from before: %v", err)
	}
	if !late.Root().Equal(oldRoot) {
		t.Error("it trusts another root than its token names")
	}
	fresh := s.Enrol(t, client.InvitationRequest{ClientID: "fresh"})
	if roots := fresh.TrustedRoots(); len(roots) != 1 || !roots[0].Equal(root) {
		t.Errorf("an invitation from after names %d roots, the first %q", len(roots), roots[0].Subject)
	}
	if err := old.Renew(t.Context(), client.RenewOptions{}); err != nil {
		t.Fatal(err)
	}
	again, err := client.Load(old.Dir())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []*client.Identity{old, again} {
		if roots := id.TrustedRoots(); len(roots) != 2 || !roots[0].Equal(root) || !roots[1].Equal(oldRoot) {
			t.Errorf("after it renewed it trusts %d roots, the first %q", len(roots), roots[0].Subject)
		}
	}
	for _, id := range []*client.Identity{old, late, fresh, again} {
		wantTokenError(t, id, "")
		if _, err := id.API().CA(t.Context()); err != nil {
			t.Errorf("%s: %v", id.Info().ClientID, err)
		}
		issuers, err := id.API().Issuers(t.Context())
		if err != nil || len(issuers) == 0 || !bytes.Equal(issuers[0].AuthorityKeyId, root.SubjectKeyId) {
			t.Errorf("%s: issuers %d, %v", id.Info().ClientID, len(issuers), err)
		}
	}

	sh := newShell(t, s)
	for name, anchor := range map[string]*x509.Certificate{"old": oldRoot, "new": root} {
		if err := os.WriteFile(filepath.Join(sh.dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: anchor.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sh.run(`pkictl crl fetch --pem --out lists.pem`)
	for _, id := range []*client.Identity{old, late, fresh} {
		for _, anchor := range []string{"old", "new"} {
			out, err := sh.try(fmt.Sprintf(`openssl verify -crl_check -CAfile %[2]s.pem -untrusted %[1]s/client.crt -CRLfile lists.pem %[1]s/client.crt 2>&1`, id.Dir(), anchor))
			if err != nil || !strings.Contains(out, "OK") {
				t.Errorf("%s, by who trusts the %s root alone: %s", id.Info().ClientID, anchor, out)
			}
		}
	}
	for path, want := range map[string]*x509.Certificate{"root": oldRoot, ca.IssuerID(root): root} {
		got := sh.run(fmt.Sprintf(`curl -sSf "$STATUS/issuers/%s.crt" | openssl x509 -inform DER -noout -fingerprint -sha256 | tr -d : | cut -d= -f2`, path))
		if want := fmt.Sprintf("%X", pkitest.Fingerprint(want)); strings.TrimSpace(got) != want {
			t.Errorf("/issuers/%s.crt has %s, want %s", path, got, want)
		}
	}
	pkitest.Eventually(t, 5*time.Second, func() error {
		return servedBy(s.URLs.Public, fresh.Roots(), fresh.Certificate().Leaf.Issuer.CommonName)
	})

	s.Stop(t)
	s = pkitest.Serve(t, s.Dir, pkitest.Options{}) // where the file of the root's CRL is still the old root's
	if err := servedBy(s.URLs.Public, late.Roots(), fresh.Certificate().Leaf.Issuer.CommonName); err != nil {
		t.Errorf("after a restart, to who trusts the old root: %v", err)
	}
}
