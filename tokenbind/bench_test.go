package tokenbind

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"testing"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// A certificate-bound token at first sight, against the one signature that stands in it.
func BenchmarkVerifyMTLSFirstSight(b *testing.B) {
	k := newResourceKit(b)
	k.conf.MaxTokens = 2 // fewer than there are
	benchmarkRequests(b, k, 1, func(int) *http.Request { return k.request("Bearer "+k.certToken(b), k.cert.Leaf) })
}

func BenchmarkVerifyMTLSSeenBefore(b *testing.B) {
	k := newResourceKit(b)
	token := k.certToken(b)
	benchmarkRequests(b, k, 1, func(int) *http.Request { return k.request("Bearer "+token, k.cert.Leaf) })
}

// The token is new, the client's key is not; two signatures and the replay memory.
func BenchmarkVerifyDPoPFirstSight(b *testing.B) {
	k := newResourceKit(b)
	k.conf.MaxTokens = 2
	tokens := make([]string, 64)
	for i := range tokens {
		tokens[i] = k.dpopToken(b)
	}
	benchmarkRequests(b, k, 2, func(i int) *http.Request { return k.dpopRequest(b, tokens[i%len(tokens)], ProofOptions{}) })
}

// A fresh proof with a token that is known: one signature.
func BenchmarkVerifyDPoPSeenBefore(b *testing.B) {
	k := newResourceKit(b)
	token := k.dpopToken(b)
	benchmarkRequests(b, k, 1, func(int) *http.Request { return k.dpopRequest(b, token, ProofOptions{}) })
}

// benchmarkRequests runs requests through a verifier, and for comparison as many bare ES256 verifications as
// their signatures cost at the least.
func benchmarkRequests(b *testing.B, k *resourceKit, signatures int, request func(i int) *http.Request) {
	b.Run("floor", func(b *testing.B) {
		message := []byte(k.certToken(b))
		digest := sha256.Sum256(message)
		sig, err := ecdsa.SignASN1(rand.Reader, k.issuer, digest[:])
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			for range signatures {
				if digest := sha256.Sum256(message); !ecdsa.VerifyASN1(&k.issuer.PublicKey, digest[:], sig) {
					b.Fatal("does not hold")
				}
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		requests := make([]*http.Request, 2000) // signing is not what is measured
		for i := range requests {
			requests[i] = request(i)
		}
		v := k.verifier(b)
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			if n == len(requests) { // proofs are good for once
				n = 0
				b.StopTimer()
				v.proofs.Replay = keeping{NewMemoryReplay(200_000, k.clock.Now)}
				b.StartTimer()
			}
			if _, err := v.Verify(requests[n]); err != nil {
				b.Fatal(err)
			}
			n++
		}
	})
}

// Many connections with one token at once.
func BenchmarkVerifyMTLSSeenBeforeParallel(b *testing.B) {
	k := newResourceKit(b)
	k.conf.Now = nil // a clock without a mutex
	k.clock = newClock(time.Now())
	k.cert = newCertificate(b, "client", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	k.x5t = thumbprint.OfCertificate(k.cert.Leaf)
	v := k.verifier(b)
	token := k.certToken(b)
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		r := k.request("Bearer "+token, k.cert.Leaf)
		for pb.Next() {
			if _, err := v.Verify(r); err != nil {
				b.Fatal(err)
			}
		}
	})
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
