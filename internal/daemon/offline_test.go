package daemon_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pkitest"
)

// authority is a CA of somebody else's.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// caTemplate is a CA certificate that pkid takes.
func caTemplate(name string) *x509.Certificate {
	serial := make([]byte, 8)
	rand.Read(serial)
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func newAuthority(t *testing.T, above *authority, template *x509.Certificate) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	if above == nil {
		above = &authority{cert: template, key: key}
	}
	a.cert = above.sign(t, template, key.Public())
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, pub any) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// crl writes a CRL and returns its path.
func (a *authority) crl(t *testing.T, number int64, nextUpdate time.Time, revoked ...*big.Int) string {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: nextUpdate}
	for _, serial := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "a.crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func file(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pemFile(t *testing.T, certs ...*x509.Certificate) string {
	t.Helper()
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return file(t, "cert.pem", text)
}

// offline makes a data directory whose root is elsewhere, and returns its configuration and its request's key.
func offline(t *testing.T) (*config.Config, any) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pkid-data")
	err := daemon.Init(t.Context(), daemon.InitSpec{
		Dir: dir, OfflineRoot: true, Hosts: []string{"localhost", "127.0.0.1"},
		Listen: config.Listen{Public: "127.0.0.1:0", MTLS: "127.0.0.1:0", Status: "127.0.0.1:0", Ops: "127.0.0.1:0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := daemon.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := daemon.Request(cfg)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		t.Fatalf("the request is %q", text)
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := req.CheckSignature(); err != nil || req.Subject.CommonName != "pkid Issuing CA" || len(req.Extensions) != 2 {
		t.Errorf("request of %q with %d extensions, %v", req.Subject, len(req.Extensions), err)
	}
	return cfg, req.PublicKey
}

// TestInstallIssuerBelowIntermediates: a corporate root, two CAs below it, and this one. Clients are sent everything up
// to the root.
func TestInstallIssuerBelowIntermediates(t *testing.T) {
	cfg, pub := offline(t)
	if _, err := daemon.New(t.Context(), cfg, pkitest.Logger(t)); err == nil || !strings.Contains(err.Error(), "pkid issuer install") {
		t.Fatalf("serving without a certificate: %v", err)
	}
	root := newAuthority(t, nil, caTemplate("Corporate Root"))
	first := newAuthority(t, root, caTemplate("Corporate Policy CA"))
	second := newAuthority(t, first, caTemplate("Corporate Machine CA"))
	template := caTemplate("Any name the corporation likes")
	template.MaxPathLenZero = true
	template.CRLDistributionPoints = []string{daemon.RootCRLURL(cfg)}
	cert := second.sign(t, template, pub)

	notes, err := daemon.InstallIssuer(t.Context(), cfg, daemon.Installation{
		Certificate: pemFile(t, first.cert, cert, second.cert), Root: pemFile(t, root.cert), // in any order
		RootCRL: second.crl(t, 1, time.Now().Add(24*time.Hour)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(notes, "\n"); !strings.Contains(text, "AIA") || strings.Contains(text, "no CRL") {
		t.Errorf("notes: %s", text)
	}
	s := pkitest.Serve(t, filepath.Dir(cfg.Path(config.File)), pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "svc"})
	pair, err := os.ReadFile(filepath.Join(id.Dir(), "client.crt"))
	if err != nil {
		t.Fatal(err)
	}
	chain := certificates(t, pair)
	if len(chain) != 4 || !chain[1].Equal(cert) || !chain[2].Equal(second.cert) || !chain[3].Equal(first.cert) {
		t.Errorf("a client got a chain of %d certificates", len(chain))
	}
	roots, above := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.cert)
	for _, c := range chain[1:] {
		above.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	published, err := x509.ParseRevocationList(fetch(t, daemon.RootCRLURL(cfg)))
	if err != nil || published.CheckSignatureFrom(second.cert) != nil {
		t.Errorf("the CRL of who signed the issuing CA is not at the URL that its certificate names: %v", err)
	}
	issuers, err := id.API().Issuers(t.Context())
	if err != nil || len(issuers) != 1 || !issuers[0].Equal(cert) {
		t.Errorf("the CA names %d issuers, %v", len(issuers), err)
	}
	s.Stop(t)
	if _, err := daemon.InstallIssuer(t.Context(), cfg, daemon.Installation{Certificate: pemFile(t, cert)}); err == nil {
		t.Error("another issuing CA was installed over the first")
	}
}

func fetch(t *testing.T, url string) []byte {
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
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return body
}

func certificates(t *testing.T, text []byte) (certs []*x509.Certificate) {
	t.Helper()
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return certs
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
}

func TestInstallIssuerRefuses(t *testing.T) {
	cfg, pub := offline(t)
	root := newAuthority(t, nil, caTemplate("Root"))
	other := newAuthority(t, nil, caTemplate("Root")) // of the same name
	between := newAuthority(t, root, caTemplate("Between"))
	flat := caTemplate("Flat Root")
	flat.MaxPathLen, flat.MaxPathLenZero = 0, true
	flatRoot := newAuthority(t, nil, flat)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	good := root.sign(t, caTemplate("Issuing"), pub)
	issued := func(by *authority, change func(*x509.Certificate)) *x509.Certificate {
		template := caTemplate("Issuing")
		change(template)
		return by.sign(t, template, pub)
	}
	_, private, err := net.ParseCIDR("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		why  string
		cert *x509.Certificate
		more []*x509.Certificate
		root *x509.Certificate
		want string
	}{
		{"another key", root.sign(t, caTemplate("Issuing"), stranger.Public()), nil, root.cert, "no certificate is for this CA's key"},
		{"no CA", issued(root, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }), nil, root.cert, "no CA's"},
		{"no CRLs", issued(root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }), nil, root.cert, "sign certificates and CRLs"},
		{"expired", issued(root, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour) }), nil, root.cert, "it expired at"},
		{"not yet", issued(root, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }), nil, root.cert, "not valid before"},
		{"no root", good, nil, nil, "--root"},
		{"a root of the same name", good, nil, other.cert, "the root's key is another"},
		{"no root but a CA below it", between.sign(t, caTemplate("Issuing"), pub), nil, between.cert, "not signed by itself"},
		{"a CA missing in between", between.sign(t, caTemplate("Issuing"), pub), nil, root.cert, "neither the root"},
		{"path length", flatRoot.sign(t, caTemplate("Issuing"), pub), nil, flatRoot.cert, "too many intermediates"},
		{"names", issued(root, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"corp.example"} }), nil, root.cert, "not authorized to sign for this name"},
		{"addresses", issued(root, func(c *x509.Certificate) { c.PermittedIPRanges = []*net.IPNet{private} }), nil, root.cert, "not authorized to sign for this name"},
		{"usage", issued(root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }), nil, root.cert, "incompatible key usage"},
		{"self-signed", (&authority{cert: caTemplate("Self"), key: root.key}).sign(t, caTemplate("Self"), root.key.Public()), nil, root.cert, "no certificate is for this CA's key"},
	} {
		t.Run(c.why, func(t *testing.T) {
			in := daemon.Installation{Certificate: pemFile(t, append(c.more, c.cert)...)}
			if c.root != nil {
				in.Root = pemFile(t, c.root)
			}
			_, err := daemon.InstallIssuer(t.Context(), cfg, in)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a text with %q", err, c.want)
			}
		})
	}
	in := daemon.Installation{Certificate: pemFile(t, good), Root: pemFile(t, root.cert)}
	later := now.Add(24 * time.Hour)
	for why, c := range map[string]struct{ file, want string }{
		"another CA's CRL": {other.crl(t, 1, later), "not the CRL of"},
		"an expired CRL":   {root.crl(t, 1, now.Add(-time.Minute)), "expired"},
		"revoked":          {root.crl(t, 1, later, good.SerialNumber), "revokes the issuing CA"},
		"no CRL":           {pemFile(t, good), "no CRL"},
	} {
		in := in
		in.RootCRL = c.file
		if _, err := daemon.InstallIssuer(t.Context(), cfg, in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want a text with %q", why, err, c.want)
		}
	}
	// Nothing of all that was left behind.
	if _, err := daemon.InstallIssuer(t.Context(), cfg, in); err != nil {
		t.Error(err)
	}
}

// TestRootCRLPublishedHere: the issuing CA's certificate says that the daemon has the CRL above it, so it must.
func TestRootCRLPublishedHere(t *testing.T) {
	cfg, pub := offline(t)
	root := newAuthority(t, nil, caTemplate("Root"))
	template := caTemplate("Issuing")
	template.CRLDistributionPoints = []string{daemon.RootCRLURL(cfg)}
	notes, err := daemon.InstallIssuer(t.Context(), cfg, daemon.Installation{Certificate: pemFile(t, root.sign(t, template, pub), root.cert)})
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(notes, "\n"); !strings.Contains(text, "--root-crl") {
		t.Errorf("notes: %s", text)
	}
	if _, err := daemon.New(t.Context(), cfg, pkitest.Logger(t)); err == nil || !strings.Contains(err.Error(), "--root-crl") {
		t.Fatalf("served without the CRL that it is said to publish: %v", err)
	}
	later := time.Now().Add(24 * time.Hour)
	if err := daemon.InstallRootCRL(cfg, root.crl(t, 7, later)); err != nil {
		t.Fatal(err)
	}
	if err := daemon.InstallRootCRL(cfg, root.crl(t, 6, later)); err == nil || !strings.Contains(err.Error(), "older") {
		t.Errorf("an older CRL replaced a newer one: %v", err)
	}
	pkitest.Serve(t, filepath.Dir(cfg.Path(config.File)), pkitest.Options{})
}

// TestTakeover: a root and an issuing CA that exist, with keys as other programs write them.
func TestTakeover(t *testing.T) {
	root := newAuthority(t, nil, caTemplate("Old Root"))
	issuing := newAuthority(t, root, caTemplate("Old Issuing CA"))
	sec1 := func(a *authority) string {
		der, err := x509.MarshalECPrivateKey(a.key)
		if err != nil {
			t.Fatal(err)
		}
		return file(t, "a.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	}
	later := time.Now().Add(24 * time.Hour)
	init := func(takeover daemon.Takeover) (string, error) {
		dir := filepath.Join(t.TempDir(), "pkid-data")
		return dir, daemon.Init(t.Context(), daemon.InitSpec{
			Dir: dir, Takeover: takeover,
			Listen: config.Listen{Public: "127.0.0.1:0", MTLS: "127.0.0.1:0", Status: "127.0.0.1:0", Ops: "127.0.0.1:0"},
		})
	}
	t.Run("root", func(t *testing.T) {
		dir, err := init(daemon.Takeover{RootCert: pemFile(t, root.cert), RootKey: sec1(root), RootCRL: root.crl(t, 3, later, big.NewInt(4711))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "keys", "root.key")); !os.IsNotExist(err) {
			t.Errorf("the root's key was kept: %v", err)
		}
		der, err := os.ReadFile(filepath.Join(dir, "root.crl"))
		if err != nil {
			t.Fatal(err)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil || len(list.RevokedCertificateEntries) != 1 || list.Number.Cmp(big.NewInt(3)) <= 0 {
			t.Errorf("the root's CRL forgot what it listed: %v", err)
		}
		enrolsBelow(t, dir, root.cert)
	})
	t.Run("issuing CA", func(t *testing.T) {
		dir, err := init(daemon.Takeover{IssuerCert: pemFile(t, issuing.cert), IssuerKey: sec1(issuing), RootCert: pemFile(t, root.cert)})
		if err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "keys", "issuer.key")); err != nil || !strings.Contains(string(text), "ENCRYPTED PRIVATE KEY") {
			t.Errorf("the key is not kept as pkid keeps keys: %v", err)
		}
		enrolsBelow(t, dir, root.cert)
	})
	for why, c := range map[string]struct {
		takeover daemon.Takeover
		want     string
	}{
		"another root's key":   {daemon.Takeover{RootCert: pemFile(t, root.cert), RootKey: sec1(issuing)}, "the key is another's"},
		"no key":               {daemon.Takeover{RootCert: pemFile(t, root.cert)}, "belong together"},
		"a certificate as key": {daemon.Takeover{RootCert: pemFile(t, root.cert), RootKey: pemFile(t, root.cert)}, "no private key"},
		"both":                 {daemon.Takeover{RootCert: pemFile(t, root.cert), RootKey: sec1(root), IssuerCert: pemFile(t, issuing.cert)}, "choose one"},
	} {
		if dir, err := init(c.takeover); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want a text with %q", why, err, c.want)
		} else if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: something was left behind: %v", why, err)
		}
	}
}

func enrolsBelow(t *testing.T, dir string, root *x509.Certificate) {
	t.Helper()
	s := pkitest.Serve(t, dir, pkitest.Options{})
	if id := s.Enrol(t, client.InvitationRequest{ClientID: "svc"}); !id.Root().Equal(root) {
		t.Error("a client has another root")
	}
}
