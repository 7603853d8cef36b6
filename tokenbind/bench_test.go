package tokenbind

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"testing"
)

// The first sight of a certificate-bound token: one signature.
func BenchmarkVerifyCertificateBound(b *testing.B) {
	k := newResourceKit(b)
	v := k.verifier(b)
	r := k.request("Bearer "+k.certToken(b), k.cert.Leaf)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(r); err != nil {
			b.Fatal(err)
		}
	}
}

// The first sight of a DPoP-bound token with its proof: two signatures and the replay memory.
func BenchmarkVerifyDPoPBound(b *testing.B) {
	k := newResourceKit(b)
	k.conf.Replay = keeping{NewMemoryReplay(10_000_000, k.clock.Now)}
	v := k.verifier(b)
	token := k.dpopToken(b)
	requests := make([]*http.Request, 5000) // signing is not what is measured
	for i := range requests {
		requests[i] = k.dpopRequest(b, token, ProofOptions{})
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n == len(requests) {
			n = 0
			b.StopTimer()
			v = k.verifier(b, func(c *Config) { c.Replay = keeping{NewMemoryReplay(10_000_000, k.clock.Now)} })
			b.StartTimer()
		}
		if _, err := v.Verify(requests[n]); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// The floor under both: one ES256 signature.
func BenchmarkES256Verify(b *testing.B) {
	key := ecKeyFor(b)
	digest := sha256.Sum256([]byte("token"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
			b.Fatal("does not hold")
		}
	}
}

func BenchmarkProver(b *testing.B) {
	p, err := NewProver(ecKeyFor(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Proof(http.MethodGet, "https://rs.example/things/1", ProofOptions{AccessToken: "token", Now: testStart}); err != nil {
			b.Fatal(err)
		}
	}
}
