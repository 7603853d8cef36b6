package stepca

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
)

// TestImportKey reads keys as OpenSSL, old and new, and step-ca write them.
func TestImportKey(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI without openssl")
		}
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	secret := at("pass")
	if err := os.WriteFile(secret, pass, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if out, err := exec.CommandContext(ctx, openssl, args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	run("ecparam", "-name", "prime256v1", "-genkey", "-out", at("ec with parameters"))
	run("ec", "-in", at("ec with parameters"), "-aes256", "-passout", "file:"+secret, "-out", at("ec, encrypted the old way"))
	run("pkey", "-in", at("ec with parameters"), "-out", at("pkcs8"))
	run("pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in", at("pkcs8"), "-passout", "file:"+secret, "-out", at("pkcs8, encrypted"))
	run("genrsa", "-traditional", "-out", at("pkcs1"), "2048")
	run("genpkey", "-algorithm", "ed25519", "-out", at("ed25519"))
	for name, kind := range map[string]ca.KeyType{
		"ec with parameters": ca.P256, "ec, encrypted the old way": ca.P256, "pkcs8": ca.P256, "pkcs8, encrypted": ca.P256,
		"pkcs1": ca.RSA2048, "ed25519": ca.Ed25519,
	} {
		encrypted := strings.Contains(name, "encrypted")
		var passphrase []byte
		if encrypted {
			passphrase = pass
		}
		key, err := ImportKey(at(name), passphrase)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := ca.KeyTypeOf(key.Public()); got != kind || err != nil {
			t.Errorf("%s: a key of type %s, %v", name, got, err)
		}
		if !encrypted {
			continue
		}
		if _, err := ImportKey(at(name), nil); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "passphrase is") {
			t.Errorf("%s, without passphrase: %v", name, err)
		}
		const wrong = "another passphrase"
		if _, err := ImportKey(at(name), []byte(wrong)); !errors.Is(err, ErrKey) || strings.Contains(err.Error(), wrong) {
			t.Errorf("%s, wrong passphrase: %v", name, err)
		}
	}
	stored := at("stored")
	key, err := ImportKey(at("pkcs8"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := StoreKey(stored, key, pass); err != nil {
		t.Fatal(err)
	}
	opened, err := OpenKey(t.Context(), stored, pass)
	if err != nil {
		t.Fatal(err)
	}
	samePublic(t, key, opened)
}

// TestImportKeyShowsNothing: what is in a file that is no key stays out of the error.
func TestImportKeyShowsNothing(t *testing.T) {
	key, err := GenerateKey("P-256")
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"no PEM":    []byte("s3cr3t"),
		"cut short": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der[:len(der)/2]}),
		"misnamed":  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("s3cr3t")}),
	} {
		path := filepath.Join(t.TempDir(), "a.key")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ImportKey(path, nil)
		if !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
		for line := range strings.Lines(string(text)) {
			if err != nil && strings.Contains(err.Error(), strings.TrimSpace(line)) {
				t.Errorf("%s: the error shows what is in the file: %v", name, err)
			}
		}
	}
}
