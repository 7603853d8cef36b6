package daemon

import (
	"crypto"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/internal/stepca"
)

// While a daemon serves, the file of the root's CRL is replaced by hand. Whatever is in it meanwhile, the newest list
// that was read rightly goes on being served.
func TestRootCRLOnlyEverGrows(t *testing.T) {
	root, key := newRoot(t)
	other, otherKey := newRoot(t)
	file := filepath.Join(t.TempDir(), "root.crl")
	cfg := &config.Config{Issuer: config.Issuer{RootCRL: file}}
	d := &Daemon{cfg: cfg, issuer: &ca.Issuer{Signer: rollover.Keyless{Cert: root}, Root: root}}
	list := func(by *x509.Certificate, key crypto.Signer, number int64) []byte {
		der, err := stepca.CreateRootCRL(by, key, big.NewInt(number), time.Now(), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	step := func(name string, der []byte, ring []rollover.Issuer, ok bool, want int64) {
		t.Helper()
		if err := os.WriteFile(file, der, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.setRootCRLs(ring); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
		for _, l := range *d.rootCRLs.Load() {
			if l.CheckSignatureFrom(root) == nil && l.Number.Int64() != want {
				t.Errorf("%s: number %s, want %d", name, l.Number, want)
			}
		}
	}
	step("the first", list(root, key, 5), nil, true, 5)
	step("a newer one", list(root, key, 6), nil, true, 6)
	step("an older one", list(root, key, 4), nil, true, 6)
	step("half of one", list(root, key, 7)[:100], nil, false, 6)
	step("nothing", nil, nil, true, 6)
	step("another CA's", list(other, otherKey, 8), nil, false, 6)
	broken := list(root, key, 9)
	broken[len(broken)-1] ^= 1
	step("one that was not signed", broken, nil, false, 6)
	step("one that came with an issuing CA", broken, []rollover.Issuer{{Key: keyring.Key{RootCRL: list(root, key, 10)}}}, false, 10)
	step("the newest", list(root, key, 11), nil, true, 11)
	if n := len(*d.rootCRLs.Load()); n != 1 {
		t.Errorf("%d lists of one root", n)
	}
}

// A client's certificate counts below an issuing CA until that has ended, and a look at a ring that has not changed
// leaves what is known of chains as it is.
func TestAnchors(t *testing.T) {
	first, _ := newRoot(t)
	second, _ := newRoot(t)
	d := &Daemon{}
	ring := func(state rollover.State) []rollover.Issuer {
		return []rollover.Issuer{
			{State: state, Issuer: &ca.Issuer{Signer: rollover.Keyless{Cert: first}}},
			{State: rollover.Active, Issuer: &ca.Issuer{Signer: rollover.Keyless{Cert: second}}},
			{State: rollover.Requested},
		}
	}
	both, one := x509.NewCertPool(), x509.NewCertPool()
	both.AddCert(first)
	both.AddCert(second)
	one.AddCert(second)

	d.setAnchors(ring(rollover.Retiring))
	before := d.anchors.Load()
	if !before.Equal(both) {
		t.Error("an issuing CA that retires vouches for its certificates no more")
	}
	d.setAnchors(ring(rollover.Retiring))
	if d.anchors.Load() != before {
		t.Error("other anchors, though the ring is the same")
	}
	d.setAnchors(ring(rollover.Ended))
	if !d.anchors.Load().Equal(one) {
		t.Error("an issuing CA that has ended goes on vouching for certificates")
	}
}

func newRoot(t *testing.T) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := stepca.GenerateKey(ca.P256)
	if err != nil {
		t.Fatal(err)
	}
	root, err := stepca.CreateRoot(stepca.CeremonySpec{Name: "Test"}, key)
	if err != nil {
		t.Fatal(err)
	}
	return root, key
}
