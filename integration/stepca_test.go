package integration

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/internal/stepimport"
)

// stepCA is a home that a real step-ca left, and what is taken over from it.
type stepCA struct {
	home string
	root *x509.Certificate
}

func newStepCA(t *testing.T, engine string) *stepCA {
	t.Helper()
	s := &stepCA{home: filepath.Join(t.TempDir(), "step")}
	if err := os.CopyFS(s.home, os.DirFS(filepath.Join("..", "internal", "stepimport", "testdata", engine))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(s.home, "password"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.root = readCertificates(t, filepath.Join(s.home, "certs", "root_ca.crt"))[0]
	return s
}

func (s *stepCA) takeOver(t *testing.T, spec daemon.InitSpec, keepIssuer bool) (dir string, done *daemon.Imported, err error) {
	t.Helper()
	spec.Dir = filepath.Join(t.TempDir(), "pkid-data")
	spec.Listen = pkitest.FreeListen(t)
	from := daemon.StepCA{Home: s.home, PasswordFile: filepath.Join(s.home, "password"), KeepIssuer: keepIssuer}
	done, err = daemon.ImportStepCA(t.Context(), spec, from)
	return spec.Dir, done, err
}

// identity is one of step-ca's clients, with the certificate and key that it got there.
func (s *stepCA) identity(t *testing.T, at *pkitest.Server, file, clientID string) *client.Identity {
	t.Helper()
	chain := readCertificates(t, filepath.Join(s.home, "clients", file+".crt"))
	text, err := os.ReadFile(filepath.Join(s.home, "clients", file+".key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	info := client.Info{Name: "pkid", ClientID: clientID, Fingerprint: fmt.Sprintf("%x", pkitest.Fingerprint(s.root)), URLs: at.URLs}
	id, err := client.Create(filepath.Join(t.TempDir(), file), key.(crypto.Signer), chain, s.root, info)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func readCertificates(t *testing.T, path string) (certs []*x509.Certificate) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	return certs
}

// A fleet of step-ca goes on with the certificates that it has, and moves by renewing them: with a new issuing CA, and
// with the one that it had.
func TestComingFromStepCA(t *testing.T) {
	t.Parallel()
	t.Run("badgerv2", func(t *testing.T) { testStepCA(t, "badgerv2", daemon.InitSpec{}, false) })
	t.Run("bbolt, and the intermediate goes on", func(t *testing.T) { testStepCA(t, "bbolt", daemon.InitSpec{}, true) })
	t.Run("badgerv1, into a database", func(t *testing.T) {
		var spec daemon.InitSpec
		spec.Store, spec.StorePassword = pkitest.Database(t, pgtest.Database(t))
		testStepCA(t, "badgerv1", spec, false)
	})
}

func testStepCA(t *testing.T, engine string, spec daemon.InitSpec, keepIssuer bool) {
	step := newStepCA(t, engine)
	dir, done, err := step.takeOver(t, spec, keepIssuer)
	if err != nil {
		t.Fatal(err)
	}
	if done.Found != 5 || done.Certificates != 5 || done.Revoked != 3 || done.Lost != 1 || len(done.Skipped) != 0 ||
		done.Unrenewable.Count != 1 || done.Derived.Count != 1 || done.Unregistered.Count != 0 || done.NewIssuer == keepIssuer {
		t.Errorf("%+v", done)
	}
	s := pkitest.Serve(t, dir, pkitest.Options{})
	derived, _, _ := strings.Cut(done.Derived.First[0], " ")
	billing, again := step.identity(t, s, "billing", "billing"), step.identity(t, s, "billing", "billing")
	stolen := step.identity(t, s, "stolen", "stolen.example.com")
	wildcard, alice := step.identity(t, s, "wildcard", "wildcard.example.com"), step.identity(t, s, "alice", derived)
	for _, id := range []*client.Identity{billing, wildcard, alice} {
		wantTokenError(t, id, "")
	}
	wantTokenError(t, stolen, "revoked")
	checkStepCRL(t, s, step, done)
	sh, checker := newShell(t, s), stepChecker(t, s)
	status := map[*client.Identity]string{billing: "good", again: "good", wildcard: "good", alice: "good", stolen: "certificate revoked"}
	checkStatus(t, sh, "as imported", checker, status)

	old := billing.Certificate().Leaf
	for _, id := range []*client.Identity{billing, alice} {
		if err := id.Renew(t.Context(), client.RenewOptions{Rekey: true}); err != nil {
			t.Fatal(err)
		}
		wantTokenError(t, id, "")
	}
	renewed := billing.Certificate().Leaf
	if renewed.SerialNumber.Cmp(old.SerialNumber) == 0 || renewed.Subject.String() != "CN=billing" || !slices.Equal(renewed.DNSNames, old.DNSNames) || len(renewed.ExtKeyUsage) != 2 || len(old.ExtKeyUsage) != 2 {
		t.Errorf("renewed as %s %v for %v", renewed.Subject, renewed.DNSNames, renewed.ExtKeyUsage)
	}
	if by := renewed.Issuer.CommonName; (by == "Example Intermediate CA") != keepIssuer {
		t.Errorf("renewed by %q", by)
	}
	if err := wildcard.Renew(t.Context(), client.RenewOptions{}); err == nil || !strings.Contains(err.Error(), "no DNS name") {
		t.Errorf("renewing what pkid does not issue: %v", err)
	}
	fresh := s.Enrol(t, client.InvitationRequest{ClientID: "fresh"})
	status[fresh] = "good"
	checkStatus(t, sh, "after renewing", checker, status)

	if _, err := s.Operator(t).Revoke(t.Context(), fmt.Sprintf("%032x", old.SerialNumber), client.Revocation{Reason: "superseded"}); err != nil {
		t.Fatal(err)
	}
	status[again] = "certificate revoked"
	wantTokenError(t, again, "revoked")
	s.Stop(t)
	s = pkitest.Serve(t, s.Dir, pkitest.Options{})
	checkStatus(t, sh, "after a restart", stepChecker(t, s), status)
}

// checkStepCRL holds the list of the imported intermediate against what step-ca had revoked.
func checkStepCRL(t *testing.T, s *pkitest.Server, step *stepCA, done *daemon.Imported) {
	t.Helper()
	list := fetchCRL(t, stepIssuer(t, s).CRL)
	if list == nil {
		t.Fatal("no CRL")
	}
	unknown, _ := new(big.Int).SetString("123456789012345678901234567890123456789", 10)
	want := map[string]int{unknown.String(): 5}
	for file, reason := range map[string]int{"stolen": 1, "replaced": 4} {
		want[readCertificates(t, filepath.Join(step.home, "clients", file+".crt"))[0].SerialNumber.String()] = reason
	}
	for _, e := range list.RevokedCertificateEntries {
		if reason, ok := want[e.SerialNumber.String()]; !ok || reason != e.ReasonCode {
			t.Errorf("%s is on the CRL with reason %d", e.SerialNumber, e.ReasonCode)
		}
	}
	if len(list.RevokedCertificateEntries) != 3 || done.CRLNumber == 0 || list.Number.Uint64() <= done.CRLNumber {
		t.Errorf("CRL %s has %d entries; step-ca's was %d", list.Number, len(list.RevokedCertificateEntries), done.CRLNumber)
	}
}

func stepIssuer(t *testing.T, s *pkitest.Server) client.Issuer {
	t.Helper()
	ca, err := s.Operator(t).CA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ca.Issuers {
		if i.WholeCRL {
			return i
		}
	}
	t.Fatal("no issuer is step-ca's")
	return client.Issuer{}
}

// stepChecker is what a resource server has.
func stepChecker(t *testing.T, s *pkitest.Server) *crl.Checker {
	t.Helper()
	api := s.Operator(t)
	certs, err := api.Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := crl.CheckerConfig{Issuers: certs, Learn: api.Issuers}
	old := stepIssuer(t, s)
	for _, cert := range certs {
		if string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})) == old.Certificate {
			c.Points = append(c.Points, crl.Point{Issuer: cert, From: old.CRL})
		}
	}
	checker, err := crl.NewChecker(c)
	if err != nil || len(c.Points) != 1 {
		t.Fatalf("%d points, err %v", len(c.Points), err)
	}
	return checker
}

// checkStatus asks openssl, who trusts step-ca's root alone and has the lists that pkid publishes, and a resource server.
func checkStatus(t *testing.T, sh *shell, when string, checker *crl.Checker, want map[*client.Identity]string) {
	t.Helper()
	pkitest.Eventually(t, 10*time.Second, func() error {
		if out, err := sh.try(`pkictl crl fetch --pem --out lists.pem 2>&1`); err != nil {
			return fmt.Errorf("%s: %s", when, out)
		}
		if err := checker.Refresh(t.Context()); err != nil {
			return err
		}
		for id, want := range want {
			out, err := sh.try(fmt.Sprintf(`openssl verify -crl_check -CAfile %[1]s/root.crt -untrusted %[1]s/client.crt -CRLfile lists.pem %[1]s/client.crt 2>&1`, id.Dir()))
			if err == nil {
				out = "good"
			}
			if !strings.Contains(out, want) {
				return fmt.Errorf("%s: openssl says of %s: %s; want %q", when, id.Info().ClientID, out, want)
			}
			err = checker.Check(t.Context(), id.Certificate().Leaf)
			if _, revoked := errors.AsType[*crl.RevokedError](err); revoked != (want != "good") || err != nil && !revoked {
				return fmt.Errorf("%s: the checker says of %s: %w", when, id.Info().ClientID, cmp.Or(err, errors.New("good")))
			}
		}
		return nil
	})
}

// What is not taken over leaves nothing behind.
func TestStepCAThatIsNotTakenOver(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(s *stepCA) error
		keep  bool
		is    error
		says  string
	}{
		"wrong password": {func(s *stepCA) error { return os.WriteFile(filepath.Join(s.home, "password"), []byte("x"), 0o600) }, false, nil, "passphrase does not open it"},
		"wrong password of the intermediate": {func(s *stepCA) error {
			return os.WriteFile(filepath.Join(s.home, "password"), []byte("x"), 0o600)
		}, true, nil, "passphrase does not open it"},
		"password for all to read": {func(s *stepCA) error { return os.Chmod(filepath.Join(s.home, "password"), 0o644) }, false, nil, "--password-file"},
		"no database":              {func(s *stepCA) error { return os.RemoveAll(filepath.Join(s.home, "db")) }, false, stepimport.ErrHome, "missing"},
		"no home":                  {func(s *stepCA) error { return os.RemoveAll(s.home) }, false, stepimport.ErrHome, "step path"},
		"another's intermediate": {func(s *stepCA) error {
			return os.Rename(filepath.Join(s.home, "certs", "root_ca.crt"), filepath.Join(s.home, "certs", "intermediate_ca.crt"))
		}, true, stepimport.ErrHome, "root's certificate"},
	} {
		step := newStepCA(t, "bbolt")
		if err := tt.spoil(step); err != nil {
			t.Fatal(err)
		}
		dir, _, err := step.takeOver(t, daemon.InitSpec{}, tt.keep)
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %s is there: %v", name, dir, err)
		}
	}
}
