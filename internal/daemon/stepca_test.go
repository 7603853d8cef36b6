package daemon_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
)

// stepHome is a home of step-ca with a bbolt database that rows are added to.
type stepHome struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate // the intermediate's
	key  *ecdsa.PrivateKey
	rows map[string]map[string][]byte
}

func newStepHome(t *testing.T) *stepHome {
	t.Helper()
	h := &stepHome{t: t, dir: t.TempDir(), rows: map[string]map[string][]byte{}}
	if err := os.CopyFS(h.dir, os.DirFS("../stepimport/testdata/bbolt")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(h.dir, "password"), 0o600); err != nil {
		t.Fatal(err)
	}
	der := func(name string) *pem.Block {
		text, err := os.ReadFile(filepath.Join(h.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		return block
	}
	var err error
	if h.cert, err = x509.ParseCertificate(der("certs/intermediate_ca.crt").Bytes); err != nil {
		t.Fatal(err)
	}
	decrypted, err := x509.DecryptPEMBlock(der("secrets/intermediate_ca_key"), []byte("step by step")) //nolint:staticcheck // step's default
	if err != nil {
		t.Fatal(err)
	}
	if h.key, err = x509.ParseECPrivateKey(decrypted); err != nil {
		t.Fatal(err)
	}
	return h
}

// issue adds a certificate that is valid for a day, but for what change makes of it.
func (h *stepHome) issue(name string, change func(*x509.Certificate)) *x509.Certificate {
	h.t.Helper()
	serial := make([]byte, 16)
	rand.Read(serial)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(template)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, h.cert, key.Public(), h.key)
	if err != nil {
		h.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		h.t.Fatal(err)
	}
	h.put("x509_certs", cert.SerialNumber.String(), der)
	return cert
}

func (h *stepHome) revoke(serial *big.Int, reason int, expires time.Time) {
	h.t.Helper()
	text, err := json.Marshal(map[string]any{"Serial": serial.String(), "ReasonCode": reason, "RevokedAt": time.Now().Add(-time.Hour), "ExpiresAt": expires})
	if err != nil {
		h.t.Fatal(err)
	}
	h.put("revoked_x509_certs", serial.String(), text)
}

func (h *stepHome) put(table, key string, value []byte) {
	if h.rows[table] == nil {
		h.rows[table] = map[string][]byte{}
	}
	h.rows[table][key] = value
}

// takeOver writes the rows and imports them.
func (h *stepHome) takeOver() (*config.Config, *daemon.Imported) {
	h.t.Helper()
	db, err := bolt.Open(filepath.Join(h.dir, "db", "step.db"), 0o600, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for table, rows := range h.rows {
			b, err := tx.CreateBucketIfNotExists([]byte(table))
			if err != nil {
				return err
			}
			for key, value := range rows {
				if err := b.Put([]byte(key), value); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		h.t.Fatal(err)
	}
	free := "127.0.0.1:0"
	spec := daemon.InitSpec{Dir: filepath.Join(h.t.TempDir(), "d"), Listen: config.Listen{Public: free, MTLS: free, Status: free, Ops: free}}
	done, err := daemon.ImportStepCA(h.t.Context(), spec, daemon.StepCA{Home: h.dir, PasswordFile: filepath.Join(h.dir, "password")})
	if err != nil {
		h.t.Fatal(err)
	}
	cfg, err := daemon.Load(spec.Dir)
	if err != nil {
		h.t.Fatal(err)
	}
	return cfg, done
}

// What there is beside the usual in a database of step-ca, and what becomes of it.
func TestImportSortsCertificates(t *testing.T) {
	h := newStepHome(t)
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	client := h.issue("only-client", usage(x509.ExtKeyUsageClientAuth))
	server := h.issue("only-server", usage(x509.ExtKeyUsageServerAuth))
	both := h.issue("both", func(*x509.Certificate) {})
	codeSigner := h.issue("signer", usage(x509.ExtKeyUsageCodeSigning))
	h.revoke(codeSigner.SerialNumber, 8, codeSigner.NotAfter)
	organised := h.issue("organised", func(c *x509.Certificate) {
		c.Subject.Organization, c.DNSNames = []string{"Example"}, []string{"organised.example.com"}
	})
	nameless := h.issue("", func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/nameless"}}
	})
	expired := func(ago time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-ago-time.Hour), time.Now().Add(-ago)
		}
	}
	lately := h.issue("lately", expired(24*time.Hour))
	h.revoke(lately.SerialNumber, 1, lately.NotAfter)
	longAgo := h.issue("long-ago", expired(400*24*time.Hour))
	h.revoke(longAgo.SerialNumber, 1, longAgo.NotAfter)
	h.revoke(big.NewInt(-5), 1, time.Time{})
	odd := h.issue("oddly-revoked", func(*x509.Certificate) {})
	h.put("revoked_x509_certs", fmt.Sprintf("%#x", odd.SerialNumber), []byte(`{"RevokedAt": "2026-01-02T03:04:05Z"}`))
	h.revoke(big.NewInt(77), 1, time.Now().Add(-400*24*time.Hour))
	h.revoke(big.NewInt(78), 99, time.Time{})
	h.revoke(new(big.Int).Lsh(big.NewInt(1), 150), 1, time.Time{})
	h.issue("long-serial", func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 140) })
	h.issue("a CA", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h.key = key
	forged := *h.cert
	forged.PublicKey, h.cert = h.key.Public(), &forged
	h.issue("forged", func(*x509.Certificate) {})
	h.put("x509_certs", "5", []byte("no certificate"))
	h.put("ssh_certs", "1", []byte("x"))

	cfg, done := h.takeOver()
	want := map[string]int{
		"not readable as certificates": 1, "of CAs": 1, "by another CA than this intermediate": 1, "for neither clients nor servers": 1, "for SSH": 1,
		"with a serial number of 0, below, or of more than 128 bits": 1, "expired longer ago than pkid keeps them (retention.certificates)": 1,
		"revocations: with a serial number of 0, below, or of more than 128 bits": 2, "revocations: expired longer ago than pkid keeps them (retention.certificates)": 1,
	}
	if !maps.Equal(done.Skipped, want) {
		t.Errorf("skipped %v, want %v", done.Skipped, want)
	}
	const fixture = 5 // certificates, and three revocations, of which one is of none of them
	if done.Found != fixture+13 || done.Certificates != fixture+7 || done.Revoked != 3+4 || done.Lost != 1+2 || done.Unrenewable.Count != 2 || done.Derived.Count != 2 {
		t.Errorf("%+v", done)
	}

	store, err := boltstore.Open(cfg.StorePath(), boltstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	record := func(n *big.Int) *ca.Record {
		serial, err := ca.SerialOf(n)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := store.Certificate(t.Context(), serial)
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	for cert, profile := range map[*x509.Certificate]string{client: "client", server: "server", both: "imported", organised: "imported", nameless: "imported", lately: "imported", odd: "imported"} {
		rec := record(cert.SerialNumber)
		if rec.Profile != profile || !rec.IssuedAt.Equal(cert.NotBefore) || !rec.NotAfter.Equal(cert.NotAfter) || string(rec.DER) != string(cert.Raw) {
			t.Errorf("%s: profile %s, issued %s, until %s", cert.Subject, rec.Profile, rec.IssuedAt, rec.NotAfter)
		}
		if revoked := rec.Revocation != nil; revoked != (cert == lately || cert == odd) {
			t.Errorf("%s: revoked %t", cert.Subject, revoked)
		}
	}
	for n, until := range map[*big.Int]time.Time{codeSigner.SerialNumber: codeSigner.NotAfter, big.NewInt(78): h.cert.NotAfter} {
		if rec := record(n); rec.ClientID != ca.UnknownClient || rec.Revocation == nil || rec.Revocation.Reason != ca.Unspecified || !rec.NotAfter.Equal(until) {
			t.Errorf("revocation of %s: %+v %+v", n, rec, rec.Revocation)
		}
	}
	for id, subject := range map[string]string{"both": "CN=both", "only-client": "CN=only-client", "organised": "organised.example.com"} {
		if c, err := store.Client(t.Context(), id); err != nil || c.Subject != subject {
			t.Errorf("client %s is known by %+v, err %v", id, c, err)
		}
	}
	if _, err := store.Client(t.Context(), "only-server"); err == nil {
		t.Error("a server is a client of the token endpoint")
	}
	checkAudit(t, store, done)
}

// checkAudit finds an entry for each certificate and revocation, and one for all of it, in an unbroken chain.
func checkAudit(t *testing.T, store *boltstore.Store, done *daemon.Imported) {
	t.Helper()
	counts := map[string]int{}
	var head audit.Head
	for {
		page, err := store.Audit(t.Context(), head.Seq, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			if head, err = audit.Verify(head, e); err != nil {
				t.Fatal(err)
			}
			counts[e.Action]++
		}
	}
	if counts[audit.Import] != done.Certificates+done.Lost || counts[audit.Revoke] != done.Revoked || counts[audit.ImportCA] != 1 {
		t.Errorf("entries %v", counts)
	}
}

// A daemon starts on what was taken over, whatever its serial numbers say about the time.
func TestImportedSerialsDoNotTellTheTime(t *testing.T) {
	h := newStepHome(t)
	for n := range 50 {
		h.issue(fmt.Sprintf("c%d", n), func(c *x509.Certificate) {
			if n == 0 {
				c.SerialNumber = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1)) // above every other
			}
		})
	}
	cfg, done := h.takeOver()
	if done.Certificates != 55 {
		t.Errorf("%+v", done)
	}
	d, err := daemon.New(context.WithoutCancel(t.Context()), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
