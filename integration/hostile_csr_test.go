package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
)

// csrs are the kinds of certificate requests; each returns DER.
func (f *forge) csr(kind string) (string, error) {
	key := ecKey(f.t, elliptic.P256())
	switch kind {
	case "good":
		return f.pemCSR(f.signCSR(key, nil, 0))
	case "sans-200", "sans-10000":
		names := make([]string, map[string]int{"sans-200": 200, "sans-10000": 10_000}[kind])
		for i := range names {
			names[i] = fmt.Sprintf("h%d.example", i)
		}
		return f.pemCSR(f.signCSR(key, names, 0))
	case "wrong-signature":
		der := f.signCSR(key, nil, 0)
		der[len(der)-1] ^= 1
		return f.pemCSR(der)
	case "p-224":
		return f.pemCSR(f.signCSR(ecKey(f.t, elliptic.P224()), nil, 0))
	case "rsa-1024", "rsa-16384", "rsa-16384-der":
		bits := map[string]int{"rsa-1024": 1024}[kind]
		if bits == 0 {
			bits = 16384
		}
		der := f.forgedCSR(rsaSPKI(odd(bits), big.NewInt(65537)))
		if kind == "rsa-16384-der" {
			return string(der), nil
		}
		return f.pemCSR(der)
	case "e-3", "e-even", "e-1", "e-2^40", "e-2^2000", "e-negative":
		e := map[string]*big.Int{
			"e-3": big.NewInt(3), "e-even": big.NewInt(65538), "e-1": big.NewInt(1), "e-negative": big.NewInt(-65537),
			"e-2^40": new(big.Int).SetBit(big.NewInt(1), 40, 1), "e-2^2000": new(big.Int).SetBit(big.NewInt(1), 2000, 1),
		}[kind]
		return f.pemCSR(f.forgedCSR(rsaSPKI(f.rsa.N, e)))
	case "brainpool":
		return f.pemCSR(f.forgedCSR(ecSPKI(f.t, asn1.ObjectIdentifier{1, 3, 36, 3, 3, 2, 8, 1, 1, 7}, key)))
	case "explicit-curve":
		return f.pemCSR(f.forgedCSR(ecSPKI(f.t, struct {
			Version int
			Field   struct {
				Type  asn1.ObjectIdentifier
				Prime *big.Int
			}
		}{Version: 1, Field: struct {
			Type  asn1.ObjectIdentifier
			Prime *big.Int
		}{asn1.ObjectIdentifier{1, 2, 840, 10045, 1, 1}, key.Params().P}}, key)))
	case "off-curve":
		point, err := key.PublicKey.Bytes()
		if err != nil {
			return "", err
		}
		point[len(point)-1] ^= 1
		return f.pemCSR(f.forgedCSR(pointSPKI(f.t, asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, point)))
	case "dsa":
		return f.pemCSR(f.forgedCSR(must(f.t, pkixKey{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}}, asn1.BitString{Bytes: []byte{2, 1, 5}, BitLength: 24}})))
	case "sha1", "md5":
		return f.pemCSR(f.weakCSR(kind))
	}
	return "", fmt.Errorf("no CSR of kind %q", kind)
}

func (f *forge) pemCSR(der []byte) (string, error) {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

func (f *forge) signCSR(key crypto.Signer, names []string, alg x509.SignatureAlgorithm) []byte {
	f.t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names, SignatureAlgorithm: alg}, key)
	if err != nil {
		f.t.Fatal(err)
	}
	return der
}

// odd is a number of so many bits. Nobody looks for its factors.
func odd(bits int) *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	return n.SetBit(n.SetBit(n, bits-1, 1), 0, 1)
}

// pkixKey is a SubjectPublicKeyInfo (RFC 5280 section 4.1).
type pkixKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Key       asn1.BitString
}

func must(t *testing.T, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func rsaSPKI(n, e *big.Int) []byte {
	key, err := asn1.Marshal(struct{ N, E *big.Int }{n, e})
	if err != nil {
		panic(err) // two numbers always encode
	}
	der, err := asn1.Marshal(pkixKey{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue},
		asn1.BitString{Bytes: key, BitLength: 8 * len(key)},
	})
	if err != nil {
		panic(err)
	}
	return der
}

func ecSPKI(t *testing.T, params any, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return pointSPKI(t, params, point)
}

func pointSPKI(t *testing.T, params any, point []byte) []byte {
	t.Helper()
	return must(t, pkixKey{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, Parameters: asn1.RawValue{FullBytes: must(t, params)}},
		asn1.BitString{Bytes: point, BitLength: 8 * len(point)},
	})
}

var sha256WithRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}

// forgedCSR is a request over a key that nobody has, whose signature is noise.
func (f *forge) forgedCSR(spki []byte) []byte {
	noise := make([]byte, 256)
	rand.Read(noise)
	return f.wrapCSR(spki, sha256WithRSA, func([]byte) []byte { return noise })
}

// weakCSR is a request that is signed with a digest which is broken.
func (f *forge) weakCSR(kind string) []byte {
	spki, err := x509.MarshalPKIXPublicKey(f.rsa.Public())
	if err != nil {
		f.t.Fatal(err)
	}
	oid, hash := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, crypto.SHA1
	if kind == "md5" {
		oid, hash = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}, crypto.MD5
	}
	return f.wrapCSR(spki, oid, func(tbs []byte) []byte {
		digest := sha1.Sum(tbs)
		sum := digest[:]
		if kind == "md5" {
			digest := md5.Sum(tbs)
			sum = digest[:]
		}
		signature, err := rsa.SignPKCS1v15(rand.Reader, f.rsa, hash, sum)
		if err != nil {
			f.t.Fatal(err)
		}
		return signature
	})
}

// wrapCSR puts a key into a CertificationRequest (RFC 2986 section 4).
func (f *forge) wrapCSR(spki []byte, alg asn1.ObjectIdentifier, sign func(tbs []byte) []byte) []byte {
	f.t.Helper()
	tbs := must(f.t, struct {
		Version    int
		Subject    pkix.RDNSequence
		Key        asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0"`
	}{Key: asn1.RawValue{FullBytes: spki}})
	signature := sign(tbs)
	return must(f.t, struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		asn1.RawValue{FullBytes: tbs},
		pkix.AlgorithmIdentifier{Algorithm: alg, Parameters: asn1.NullRawValue},
		asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)},
	})
}
