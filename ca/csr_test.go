package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/pkid/pkid/ca"
)

func TestProveCSRRefuses(t *testing.T) {
	key := newKey(t)
	good := newCSR(t, key, nil)
	block, _ := pem.Decode(good)
	flipped := bytes.Clone(block.Bytes)
	flipped[len(flipped)-1] ^= 1
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		why  string
		csr  []byte
		want error
	}{
		{"empty", nil, ca.ErrCSR},
		{"text", []byte("give me a certificate"), ca.ErrCSR},
		{"too large", append(bytes.Clone(good), bytes.Repeat([]byte("\n"), ca.MaxCSR)...), ca.ErrCSR},
		{"certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}), ca.ErrCSR},
		{"private key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes}), ca.ErrCSR},
		{"two", append(bytes.Clone(good), good...), ca.ErrCSR},
		{"wrong signature", flipped, ca.ErrCSR},
		{"cut short", block.Bytes[:len(block.Bytes)-3], ca.ErrCSR},
		{"with a tail", append(bytes.Clone(block.Bytes), 0), ca.ErrCSR},
		{"P-224", newCSR(t, small, nil), ca.ErrKey},
		{"another's key", swapKey(t, block.Bytes), ca.ErrCSR},
	} {
		if _, err := ca.ProveCSR(c.csr); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.why, err, c.want)
		}
	}
	for _, ok := range [][]byte{good, block.Bytes, bytes.ReplaceAll(good, []byte("CERTIFICATE REQUEST"), []byte("NEW CERTIFICATE REQUEST"))} {
		proven, err := ca.ProveCSR(ok)
		if err != nil {
			t.Error(err)
			continue
		}
		if der, _ := ca.ProveCSR(block.Bytes); proven.Use() != der.Use() {
			t.Error("PEM and DER of one request are told apart")
		}
	}
}

// swapKey puts another public key into a request, under the signature of the first.
func swapKey(t *testing.T, der []byte) []byte {
	t.Helper()
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.MarshalPKIXPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(der, req.RawSubjectPublicKeyInfo, other, 1)
}

func TestKeyTypeOf(t *testing.T) {
	for kind, key := range keys() {
		if got, err := ca.KeyTypeOf(key.Public()); got != kind || err != nil {
			t.Errorf("%s: got %s, %v", kind, got, err)
		}
	}
	n := keys()[ca.RSA2048].Public().(*rsa.PublicKey).N
	for why, pub := range map[string]any{
		"nil":            nil,
		"string":         "key",
		"exponent 3":     &rsa.PublicKey{N: n, E: 3},
		"even exponent":  &rsa.PublicKey{N: n, E: 65538},
		"large exponent": &rsa.PublicKey{N: n, E: 1<<31 + 1},
		"1024 bits":      &rsa.PublicKey{N: new(big.Int).Rsh(n, 1024), E: 65537},
	} {
		if got, err := ca.KeyTypeOf(pub); !errors.Is(err, ca.ErrKey) {
			t.Errorf("%s: %s, %v", why, got, err)
		}
	}
}

// FuzzCSR: ProveCSR never panics, and what it takes verifies and has a key of a known type.
func FuzzCSR(f *testing.F) {
	for _, key := range keys() {
		csr := newCSR(f, key, nil)
		block, _ := pem.Decode(csr)
		f.Add(csr)
		f.Add(block.Bytes)
	}
	f.Fuzz(func(t *testing.T, csr []byte) {
		_, err := ca.ProveCSR(csr)
		if err != nil {
			if !errors.Is(err, ca.ErrCSR) && !errors.Is(err, ca.ErrKey) {
				t.Fatalf("%v is neither ErrCSR nor ErrKey", err)
			}
			return
		}
		der := csr
		if block, _ := pem.Decode(csr); block != nil {
			der = block.Bytes
		}
		req, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := req.CheckSignature(); err != nil {
			t.Fatal(err)
		}
		if _, err := ca.KeyTypeOf(req.PublicKey); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNewProfileRefuses(t *testing.T) {
	good := func() ca.ProfileConfig {
		return ca.ProfileConfig{
			Name: "p", Lifetime: ca.MinLifetime, KeyTypes: ca.KeyTypes,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Policy: permitAll{},
		}
	}
	if _, err := ca.NewProfile(good()); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*ca.ProfileConfig){
		"no name":            func(c *ca.ProfileConfig) { c.Name = "" },
		"lifetime":           func(c *ca.ProfileConfig) { c.Lifetime-- },
		"max_lifetime":       func(c *ca.ProfileConfig) { c.MaxLifetime = ca.MaxLifetime + 1 },
		"no key types":       func(c *ca.ProfileConfig) { c.KeyTypes = nil },
		"unknown key type":   func(c *ca.ProfileConfig) { c.KeyTypes = []ca.KeyType{"P-224"} },
		"extended key usage": func(c *ca.ProfileConfig) { c.ExtKeyUsage = nil },
		"only clientAuth":    func(c *ca.ProfileConfig) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"no name policy":     func(c *ca.ProfileConfig) { c.Policy = nil },
	} {
		c := good()
		change(&c)
		if _, err := ca.NewProfile(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

type permitAll struct{}

func (permitAll) Check(ca.Names) error { return nil }
