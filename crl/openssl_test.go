package crl

import (
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openssl runs it and returns what it printed. A laptop without openssl skips; CI fails.
func openssl(t *testing.T, args ...string) (out string, ok bool) {
	t.Helper()
	bin, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("openssl is not installed")
	}
	b, err := exec.CommandContext(t.Context(), bin, args...).CombinedOutput()
	return string(b), err == nil
}

func writePEM(t *testing.T, name, kind string, ders ...[]byte) string {
	t.Helper()
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestOpenSSLAgrees(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	c := publisherConfig(ca, m)
	p := newPublisher(t, c)
	m.revoke(5, 1)
	m.revoke(6, 6)
	list := writePEM(t, "list.pem", "X509 CRL", publish(t, p).DER.Bytes())
	caFile := writePEM(t, "ca.pem", "CERTIFICATE", ca.cert.Raw)

	if out, ok := openssl(t, "crl", "-in", list, "-CAfile", caFile, "-verify", "-noout"); !ok || !strings.Contains(out, "verify OK") {
		t.Errorf("crl -verify: %s", out)
	}
	out, _ := openssl(t, "crl", "-in", list, "-noout", "-text")
	for _, want := range []string{"Version 2", "X509v3 CRL Number", "Issuing Distribution Point: critical", "URI:" + testURL, "Key Compromise", "Certificate Hold"} {
		if !strings.Contains(out, want) {
			t.Errorf("crl -text does not show %q:\n%s", want, out)
		}
	}

	verify := func(serial int64, url, list string) (string, bool) {
		leaf := writePEM(t, "leaf.pem", "CERTIFICATE", ca.leaf(t, serial, url).Raw)
		return openssl(t, "verify", "-CAfile", caFile, "-CRLfile", list, "-crl_check", leaf)
	}
	if out, ok := verify(7, testURL, list); !ok {
		t.Errorf("good certificate: %s", out)
	}
	for _, serial := range []int64{5, 6} {
		if out, ok := verify(serial, testURL, list); ok || !strings.Contains(out, "certificate revoked") {
			t.Errorf("certificate %d: %s", serial, out)
		}
	}
	if out, ok := verify(7, testURL+"2", list); ok {
		t.Errorf("the list of another distribution point was accepted: %s", out)
	}
	stale := writePEM(t, "stale.pem", "X509 CRL", ca.list(t, 1, time.Now().Add(-2*time.Hour), nil))
	if out, ok := verify(7, testURL, stale); ok || !strings.Contains(out, "expired") {
		t.Errorf("stale list: %s", out)
	}
}

// A list that openssl made is read like one of ours.
func TestListByOpenSSL(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "ca.cnf")
	index := filepath.Join(dir, "index.txt")
	number := filepath.Join(dir, "number")
	for name, text := range map[string]string{
		config: "[ca]\ndefault_ca=a\n[a]\ndatabase=" + index + "\ncrlnumber=" + number + "\ndefault_md=sha256\ndefault_crl_hours=1\ncrl_extensions=e\n" +
			"[e]\nauthorityKeyIdentifier=keyid\nissuingDistributionPoint=critical,@i\n[i]\nfullname=URI:" + testURL + "\n",
		index:  "R\t491231235959Z\t250102030405Z,keyCompromise\t0A\tunknown\t/CN=x\n",
		number: "0A\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "list.pem")
	if text, ok := openssl(t, "ca", "-gencrl", "-config", config, "-cert", writePEM(t, "ca.pem", "CERTIFICATE", ca.cert.Raw),
		"-keyfile", writePEM(t, "key.pem", "PRIVATE KEY", key), "-out", out); !ok {
		t.Fatal(text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	l, err := ParseAndVerify(block.Bytes, ca.cert, testURL, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := l.Lookup(big.NewInt(10)); !ok || e.Reason != 1 || l.Number != 10 {
		t.Errorf("number %d, entry %+v", l.Number, e)
	}
}

func TestOpenSSLVerifiesTheListOfEveryKey(t *testing.T) {
	for name, ca := range everyKey(t) {
		d := draftOf(t, ca, 1<<63, testNow, time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC), oddEntries(t))
		signature, err := ca.SignCRL(t.Context(), "", d.tbs())
		if err != nil {
			t.Fatal(err)
		}
		list := writePEM(t, "list.pem", "X509 CRL", d.signed(signature).Bytes())
		caFile := writePEM(t, "ca.pem", "CERTIFICATE", ca.cert.Raw)
		if out, ok := openssl(t, "crl", "-in", list, "-CAfile", caFile, "-verify", "-noout"); !ok || !strings.Contains(out, "verify OK") {
			t.Errorf("%s: %s", name, out)
		}
		out, ok := openssl(t, "crl", "-in", list, "-noout", "-text")
		if n := strings.Count(out, "Serial Number:"); !ok || n != len(oddEntries(t)) || !strings.Contains(out, "Next Update: Jan  1 00:00:00 2050 GMT") {
			t.Errorf("%s: %d entries, want %d", name, n, len(oddEntries(t)))
		}
	}
}

// openssl takes the full list of before with the newest delta, finds what the delta alone has, and knows again what it
// took off.
func TestOpenSSLFollowsDeltas(t *testing.T) {
	ca, m, now := newCA(t, "Issuing CA"), newMemory(), time.Now()
	p := newPublisher(t, deltaConfig(ca, m, &now))
	m.revoke(5, 1)
	m.revoke(6, 6)
	full := publish(t, p)
	m.revoke(7, 1)
	m.release(6)
	newest := publish(t, p)
	base := writePEM(t, "base.pem", "X509 CRL", full.DER.Bytes())
	both := writePEM(t, "both.pem", "X509 CRL", full.DER.Bytes(), newest.Delta.Bytes())
	delta := writePEM(t, "delta.pem", "X509 CRL", newest.Delta.Bytes())
	caFile := writePEM(t, "ca.pem", "CERTIFICATE", ca.cert.Raw)

	if out, ok := openssl(t, "crl", "-in", delta, "-CAfile", caFile, "-verify", "-noout"); !ok || !strings.Contains(out, "verify OK") {
		t.Errorf("crl -verify: %s", out)
	}
	out, _ := openssl(t, "crl", "-in", delta, "-noout", "-text")
	for _, want := range []string{"Delta CRL Indicator: critical", "Issuing Distribution Point: critical", "Key Compromise", "Remove From CRL"} {
		if !strings.Contains(out, want) {
			t.Errorf("crl -text of the delta does not show %q:\n%s", want, out)
		}
	}
	if out, _ := openssl(t, "crl", "-in", base, "-noout", "-text"); !strings.Contains(out, "Freshest CRL") || !strings.Contains(out, testDeltaURL) {
		t.Errorf("crl -text of the full list does not show its delta:\n%s", out)
	}
	for _, tt := range []struct {
		serial  int64
		list    string
		revoked bool
	}{
		{5, base, true},
		{6, base, true},
		{7, base, false},
		{8, base, false},
		{5, both, true},
		{6, both, false},
		{7, both, true},
		{8, both, false},
	} {
		leaf := writePEM(t, "leaf.pem", "CERTIFICATE", ca.leaf(t, tt.serial, testURL).Raw)
		out, ok := openssl(t, "verify", "-CAfile", caFile, "-CRLfile", tt.list, "-crl_check", "-use_deltas", "-extended_crl", leaf)
		if ok == tt.revoked || strings.Contains(out, "certificate revoked") != tt.revoked {
			t.Errorf("certificate %d with both lists %t: %s", tt.serial, tt.list == both, out)
		}
	}
}
