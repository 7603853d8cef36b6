package stepca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
)

var pass = []byte("correct horse battery staple")

func samePublic(t *testing.T, a, b crypto.Signer) {
	t.Helper()
	if !a.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(b.Public()) {
		t.Error("another key came back")
	}
}

func TestKeyRoundTrip(t *testing.T) {
	for _, kind := range []ca.KeyType{ca.P256, ca.P384, ca.P521, ca.Ed25519, ca.RSA2048} {
		t.Run(string(kind), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ca.key")
			made, err := CreateKey(t.Context(), path, kind, pass)
			if err != nil {
				t.Fatal(err)
			}
			for _, uri := range []string{path, "file:" + path, "file://" + path, "softkms:" + path, "softkms:path=" + path} {
				opened, err := OpenKey(t.Context(), uri, pass)
				if err != nil {
					t.Fatalf("%s: %v", uri, err)
				}
				samePublic(t, made, opened)
			}
			if got, err := ca.KeyTypeOf(made.Public()); got != kind || err != nil {
				t.Errorf("made a key of type %q, %v", got, err)
			}
			if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if _, err := CreateKey(t.Context(), path, kind, pass); !errors.Is(err, os.ErrExist) {
				t.Errorf("an existing key was overwritten: %v", err)
			}
		})
	}
}

func TestKeyWrongPassphrase(t *testing.T) {
	dir := t.TempDir()
	path, data := filepath.Join(dir, "a.key"), filepath.Join(dir, "data.key")
	if _, err := CreateKey(t.Context(), path, ca.P256, pass); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateDataKey(data, pass); err != nil {
		t.Fatal(err)
	}
	wrong := []byte("wrong")
	if _, err := OpenKey(t.Context(), path, wrong); !errors.Is(err, ErrPassphrase) {
		t.Errorf("key: %v", err)
	}
	if _, err := OpenDataKey(data, wrong); !errors.Is(err, ErrPassphrase) {
		t.Errorf("data key: %v", err)
	}
	// One wrong passphrase in 256 leaves a padding that looks right, and noise before it.
	noise := bytes.Repeat([]byte{0x5a}, DataKeySize-1)
	for typ, open := range map[string]func(string) error{
		keyBlock:  func(path string) error { _, err := OpenKey(t.Context(), path, pass); return err },
		dataBlock: func(path string) error { _, err := OpenDataKey(path, pass); return err },
	} {
		path := filepath.Join(dir, "noise of "+typ)
		if err := createFile(path, typ, noise, pass, iterations); err != nil {
			t.Fatal(err)
		}
		if err := open(path); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%s, noise: %v", typ, err)
		}
	}
}

func TestDataKeyRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.key")
	made, err := CreateDataKey(path, pass)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenDataKey(path, pass)
	if err != nil || !bytes.Equal(made, opened) || len(made) != DataKeySize {
		t.Errorf("made %d octets, opened %d, %v", len(made), len(opened), err)
	}
	if _, err := OpenKey(t.Context(), path, pass); !errors.Is(err, ErrKey) {
		t.Errorf("a data key was opened as a private key: %v", err)
	}
	if text, _ := os.ReadFile(path); bytes.Contains(text, made) {
		t.Error("the key stands in the file in clear")
	}
}

func TestKeyRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := filepath.Join(dir, "good.key")
	key, err := CreateKey(t.Context(), good, ca.P256, pass)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(typ string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
	}
	for _, c := range []struct{ why, uri, want string }{
		{"missing", filepath.Join(dir, "none"), "no such file"},
		{"not encrypted", write("plain", 0o600, encode("PRIVATE KEY", plain)), "openssl pkcs8"},
		{"no PEM", write("der", 0o600, plain), "no PEM block"},
		{"empty", write("empty", 0o600, nil), "no PEM block"},
		{"a certificate", write("crt", 0o600, encode("CERTIFICATE", plain)), `type "CERTIFICATE"`},
		{"no envelope", write("bad", 0o600, encode(keyBlock, plain)), "PBES2"},
		{"cut short", write("cut", 0o600, encode(keyBlock, block.Bytes[:len(block.Bytes)-5])), "PBES2"},
		{"unknown scheme", "vault:kv/issuer", "neither a file nor a key URI"},
		{"not compiled in", "yubikey:slot-id=9c", "built without yubikey; build it with `CGO_ENABLED=1 go build -tags yubikey"},
		{"PIN in the URI", "pkcs11:token=x;pin-value=s3cr3t-pin", "pin-source"},
		{"others can read it", write("open", 0o644, text), "chmod 600"},
	} {
		t.Run(c.why, func(t *testing.T) {
			if c.why == "others can read it" && runtime.GOOS == "windows" {
				t.Skip("Windows has no such mode")
			}
			_, err := OpenKey(t.Context(), c.uri, pass)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a text with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cr3t-pin") {
				t.Errorf("the PIN stands in the error: %v", err)
			}
		})
	}
	if _, err := CreateKey(t.Context(), filepath.Join(dir, "new"), ca.P256, nil); !errors.Is(err, ErrKey) {
		t.Errorf("a key was written without passphrase: %v", err)
	}
	if _, err := CreateKey(t.Context(), filepath.Join(dir, "new"), "P-224", pass); !errors.Is(err, ErrKey) {
		t.Errorf("unknown key type: %v", err)
	}
}

// FuzzDecrypt: a damaged key file is an error, never a panic.
func FuzzDecrypt(f *testing.F) {
	for n := range 3 {
		der, err := encrypt(bytes.Repeat([]byte{1}, 16*n+n), pass, iterations)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
		f.Add(der[:len(der)-1])
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		var e encryptedPrivateKeyInfo
		if _, err := asn1.Unmarshal(der, &e); err == nil && e.Algorithm.Params.KDF.Params.Iterations > iterations {
			t.Skip("slow, not wrong")
		}
		if out, err := decrypt(der, pass); err == nil && len(out) >= len(der) {
			t.Errorf("%d octets out of %d", len(out), len(der))
		}
	})
}

// TestKeysOpenSSL reads what OpenSSL writes, and lets OpenSSL read what is written here.
func TestKeysOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI without openssl")
		}
		t.Skip("openssl is not installed")
	}
	run := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if out, err := exec.CommandContext(ctx, openssl, args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	dir := t.TempDir()
	ours, plain, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "plain"), filepath.Join(dir, "theirs")
	key, err := CreateKey(t.Context(), ours, ca.Ed25519, pass)
	if err != nil {
		t.Fatal(err)
	}
	run("pkey", "-in", ours, "-passin", "pass:"+string(pass), "-out", plain)
	for _, algorithm := range []string{"aes-256-cbc", "aes-128-cbc"} {
		for _, prf := range []string{"hmacWithSHA256", "hmacWithSHA512"} {
			run("pkcs8", "-topk8", "-v2", algorithm, "-v2prf", prf, "-in", plain, "-out", theirs, "-passout", "pass:"+string(pass))
			if err := os.Chmod(theirs, 0o600); err != nil {
				t.Fatal(err)
			}
			opened, err := OpenKey(t.Context(), theirs, pass)
			if err != nil {
				t.Fatalf("%s, %s: %v", algorithm, prf, err)
			}
			samePublic(t, key, opened)
		}
	}
}

func BenchmarkOpenKey(b *testing.B) {
	path := filepath.Join(b.TempDir(), "a.key")
	if _, err := CreateKey(b.Context(), path, ca.P256, pass); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := OpenKey(b.Context(), path, pass); err != nil {
			b.Fatal(err)
		}
	}
}
