//go:build pkcs11 && cgo

package stepca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/hsmtest"
)

// TestPKCS11 runs on one token, since a process stays with the one that its module found first.
func TestPKCS11(t *testing.T) {
	token := hsmtest.New(t)
	device := token.Flaky(t)
	t.Run("refusals", func(t *testing.T) { testRefusals(t, token) }) // a wrong PIN is none once the process has logged in
	t.Run("keys stay in the token", func(t *testing.T) { testKeysStay(t, token) })
	t.Run("a device that is pulled", func(t *testing.T) { testPulled(t, token, device) })
	t.Run("a device that hangs", func(t *testing.T) { testHangs(t, token, device) })
}

func testKeysStay(t *testing.T, token *hsmtest.Token) {
	for id, kind := range map[string]ca.KeyType{"11": ca.P256, "12": ca.P384, "13": ca.RSA2048} {
		uri := token.URI(id, "key-"+id)
		made, err := CreateKey(t.Context(), uri, kind, nil)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if got, err := ca.KeyTypeOf(made.Public()); got != kind || err != nil {
			t.Errorf("made a key of type %q, %v", got, err)
		}
		opened, err := OpenKey(t.Context(), uri, nil)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		samePublic(t, made, opened)
		verifies(t, opened)
		checkAttributes(t, token, "key-"+id)
		if _, err := CreateKey(t.Context(), uri, kind, nil); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "--existing-key") {
			t.Errorf("%s: a second key of that name: %v", kind, err)
		}
	}
}

func verifies(t *testing.T, key crypto.Signer) {
	t.Helper()
	sum := sha256.Sum256([]byte("text"))
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	switch pub := key.Public().(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(pub, sum[:], signature) {
			t.Error("the signature does not verify")
		}
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], signature); err != nil {
			t.Error(err)
		}
	}
}

// checkAttributes asks the module itself what may be done with a private key, and for the key.
func checkAttributes(t *testing.T, token *hsmtest.Token, label string) {
	t.Helper()
	p := pkcs11.New(token.Module)
	if p == nil {
		t.Fatal("the module cannot be loaded")
	}
	defer p.Destroy()
	session, private := findPrivate(t, p, token, label)
	defer p.CloseSession(session)
	want := map[uint]byte{
		pkcs11.CKA_TOKEN: 1, pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_ALWAYS_SENSITIVE: 1,
		pkcs11.CKA_EXTRACTABLE: 0, pkcs11.CKA_NEVER_EXTRACTABLE: 1, pkcs11.CKA_LOCAL: 1, pkcs11.CKA_SIGN: 1,
	}
	var template []*pkcs11.Attribute
	for attribute := range want {
		template = append(template, pkcs11.NewAttribute(attribute, nil))
	}
	got, err := p.GetAttributeValue(session, private, template)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range got {
		if !slices.Equal(a.Value, []byte{want[a.Type]}) {
			t.Errorf("%s: attribute %#x is %v, want %d", label, a.Type, a.Value, want[a.Type])
		}
	}
	for _, attribute := range []uint{pkcs11.CKA_VALUE, pkcs11.CKA_PRIVATE_EXPONENT} {
		if a, err := p.GetAttributeValue(session, private, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)}); err == nil {
			t.Errorf("%s: the token gave %d octets of the private key away", label, len(a[0].Value))
		}
	}
}

func findPrivate(t *testing.T, p *pkcs11.Ctx, token *hsmtest.Token, label string) (pkcs11.SessionHandle, pkcs11.ObjectHandle) {
	t.Helper()
	slots, err := p.GetSlotList(true) // the process has initialised the module
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := p.GetTokenInfo(slot); err != nil || info.Label != hsmtest.Label {
			continue
		}
		session, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		err = p.FindObjectsInit(session, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		})
		if err != nil {
			t.Fatal(err)
		}
		found, _, err := p.FindObjects(session, 2)
		if err != nil || len(found) != 1 {
			t.Fatalf("%d private keys of that name, %v", len(found), err)
		}
		if err := p.FindObjectsFinal(session); err != nil {
			t.Fatal(err)
		}
		return session, found[0]
	}
	t.Fatal("no such token")
	return 0, 0
}

func testRefusals(t *testing.T, token *hsmtest.Token) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const wrong = "0000-wrong"
	good := token.URI("21", "refused")
	from := func(source string) string {
		base, _, _ := strings.Cut(good, "?")
		return base + "?pin-source=" + source
	}
	t.Setenv("PKID_TEST_PIN", wrong)
	for _, c := range []struct{ why, uri, want string }{
		{"wrong PIN", from("env:PKID_TEST_PIN"), "CKR_PIN_INCORRECT"},
		{"the wrong PIN again", from("env:PKID_TEST_PIN"), "not asked again"},
		{"no such key", good, "was not found"},
		{"no such token", strings.Replace(good, "token="+hsmtest.Label, "token=other", 1), "could not find PKCS#11 token"},
		{"no such module", strings.Replace(good, "flaky.so", "none.so", 1), "failed to open module"},
		{"no PIN file", from("file:" + filepath.Join(dir, "none")), "no such file"},
		{"a PIN file that others can read", from("file:" + file("open", 0o644, wrong)), "chmod 600"},
		{"an empty PIN", from("file:" + file("empty", 0o600, "\n")), "it is empty"},
		{"a relative path", from("file:pin"), "absolute path"},
		{"the PIN as its source", from(wrong), "file:PATH"},
		{"a PIN in the URI", good + "&pin-value=" + wrong, "pin-source"},
		{"a PIN in the URI, before the question mark", strings.Replace(good, "?", ";pin-value="+wrong+"?", 1), "pin-source"},
	} {
		_, err := OpenKey(t.Context(), c.uri, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want a text with %q", c.why, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), wrong) || strings.Contains(err.Error(), token.PIN)) {
			t.Errorf("%s: the PIN stands in the error: %v", c.why, err)
		}
	}
	if _, err := OpenKey(t.Context(), from("env:PKID_TEST_PIN"), nil); !errors.Is(err, ErrPIN) {
		t.Errorf("who would start pkid again cannot tell that it must not: %v", err)
	}
	for _, uri := range []string{strings.Replace(good, "id=21;", "", 1), strings.Replace(good, ";object=refused", "", 1)} {
		if _, err := CreateKey(t.Context(), uri, ca.P256, nil); !errors.Is(err, ErrKey) {
			t.Errorf("a key without id or object: %v", err)
		}
	}
	if _, err := CreateKey(t.Context(), good, ca.Ed25519, nil); !errors.Is(err, ErrKey) {
		t.Errorf("an Ed25519 key: %v", err)
	}
}

func testPulled(t *testing.T, token *hsmtest.Token, device hsmtest.Switch) {
	first, err := CreateKey(t.Context(), token.URI("31", "pulled"), ca.P256, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := CreateKey(t.Context(), token.URI("32", "pulled-too"), ca.P256, nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("text"))
	device.Pull(t)
	for _, key := range []crypto.Signer{first, second} {
		if _, err := key.Sign(rand.Reader, sum[:], crypto.SHA256); !errors.Is(err, ca.ErrSignerAway) {
			t.Errorf("while it is away: %v", err)
		}
		if Check(t.Context(), key) == nil {
			t.Error("a key that is away is said to be well")
		}
	}
	device.Well(t)
	eventually(t, func() error { return Check(t.Context(), first) }) // it asks the device by itself
	verifies(t, first)
	verifies(t, second)
}

func testHangs(t *testing.T, token *hsmtest.Token, device hsmtest.Switch) {
	key, err := CreateKey(t.Context(), token.URI("41", "hanging"), ca.P256, nil)
	if err != nil {
		t.Fatal(err)
	}
	gate := gateOf(key)
	sum := sha256.Sum256([]byte("text"))
	device.Hang(t)
	if _, err := gate.wait(t.Context(), 50*time.Millisecond, sum[:], crypto.SHA256); !errors.Is(err, ca.ErrSignerAway) {
		t.Errorf("while it hangs: %v", err)
	}
	if Check(t.Context(), key) == nil {
		t.Error("a key that hangs is said to be well")
	}
	device.Well(t)
	eventually(t, func() error { return Check(t.Context(), key) })
	verifies(t, key)
}

// eventually waits until f returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
