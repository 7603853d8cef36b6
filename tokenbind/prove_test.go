package tokenbind

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
)

// opaque hides a private key, as an HSM does.
type opaque struct{ crypto.Signer }

func (o opaque) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return o.Signer.Sign(r, digest, opts)
}

func proverKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	keys := map[string]crypto.Signer{"PS256": testRSA()}
	for alg, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[alg] = k
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys["EdDSA"] = ed
	return keys
}

func TestProverRoundTrip(t *testing.T) {
	for alg, key := range proverKeys(t) {
		for name, signer := range map[string]crypto.Signer{alg: key, alg + " opaque": opaque{key}} {
			t.Run(name, func(t *testing.T) {
				p, err := NewProver(signer)
				if err != nil {
					t.Fatal(err)
				}
				proof, err := p.Proof("POST", "https://as.example/token?a#b", ProofOptions{Now: testStart})
				if err != nil {
					t.Fatal(err)
				}
				k := newProofKit(t)
				got := k.accept(t, proof)
				if !got.Key.Equal(p.Key()) {
					t.Errorf("jkt %v, want %v", got.Key, p.Key())
				}
				verifyIndependently(t, proof, "POST", "", got)
				header := parsed(t, proof).Header
				if header["alg"] != alg || header["jwk"].(object)["d"] != nil || len(header) != 3 {
					t.Errorf("header %v", header)
				}
			})
		}
	}
}

// RFC 7518 section 3.5: the salt is as long as the digest. Verifiers that insist must accept it.
func TestProverSaltLength(t *testing.T) {
	p, err := NewProver(testRSA())
	if err != nil {
		t.Fatal(err)
	}
	proof, err := p.Proof("POST", "https://as.example/token", ProofOptions{Now: testStart})
	if err != nil {
		t.Fatal(err)
	}
	input, sig := cutSignature(t, proof)
	h := crypto.SHA256.New()
	h.Write([]byte(input))
	if err := rsa.VerifyPSS(&testRSA().PublicKey, crypto.SHA256, h.Sum(nil), sig, &rsa.PSSOptions{SaltLength: 32}); err != nil {
		t.Error(err)
	}
}

func TestNewProverRefuses(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"none": nil, "P-224": p224, "unknown": strangeSigner{}} {
		if _, err := NewProver(key); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

type strangeSigner struct{ crypto.Signer }

func (strangeSigner) Public() crypto.PublicKey { return "of another kind" }

func TestG01_FreshAndRandom(t *testing.T) {
	p, err := NewProver(ecKeyFor(t))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 100 {
		proof, err := p.Proof("GET", "https://rs.example/", ProofOptions{Now: testStart})
		if err != nil {
			t.Fatal(err)
		}
		jti := parsed(t, proof).Claims["jti"].(string)
		if len(jti) < 26 { // base32: 130 bits, above the 96 that RFC 9449 section 4.2 asks
			t.Errorf("jti %q", jti)
		}
		seen[jti] = true
	}
	if len(seen) != 100 {
		t.Errorf("%d different of 100", len(seen))
	}
}

func TestG05_TokenHash(t *testing.T) {
	p, err := NewProver(ecKeyFor(t))
	if err != nil {
		t.Fatal(err)
	}
	proof, err := p.Proof("GET", "https://rs.example/a?b", ProofOptions{AccessToken: "tok", Nonce: "n", Now: testStart})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(parsed(t, proof).Claims)
	if err != nil {
		t.Fatal(err)
	}
	want := object{
		"ath": thumbprint.OfToken("tok").String(), "htm": "GET", "htu": "https://rs.example/a",
		"iat": testStart.Unix(), "jti": parsed(t, proof).Claims["jti"], "nonce": "n",
	}
	if string(got) != string(jsonText(t, want)) {
		t.Errorf("got %s, want %s", got, jsonText(t, want))
	}
}

func TestProofRefuses(t *testing.T) {
	p, err := NewProver(ecKeyFor(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][2]string{{"", "https://a/"}, {"GET", ""}, {"GET", "/a"}, {"GET", "https://u:p@a/"}, {"GET", "ftp://a/"}} {
		if proof, err := p.Proof(bad[0], bad[1], ProofOptions{}); err == nil {
			t.Errorf("%q: %s", bad, proof)
		}
	}
}

func TestProofURL(t *testing.T) {
	for raw, want := range map[string]string{
		"https://a": "https://a/", "https://a?b": "https://a/", "https://a:443/b?c": "https://a:443/b", "https://A/%7e#f": "https://A/%7e",
	} {
		if got, err := proofURL(raw); err != nil || got != want {
			t.Errorf("%s becomes %s, %v; want %s", raw, got, err, want)
		}
	}
}

func TestProofNowByDefault(t *testing.T) {
	p, err := NewProver(ecKeyFor(t))
	if err != nil {
		t.Fatal(err)
	}
	proof, err := p.Proof("GET", "https://a/", ProofOptions{})
	if err != nil {
		t.Fatal(err)
	}
	iat, ok := jws.NumericDate(parsed(t, proof).Claims["iat"])
	if age := time.Since(iat); !ok || age < 0 || age > time.Minute {
		t.Errorf("made %v ago", age)
	}
}
