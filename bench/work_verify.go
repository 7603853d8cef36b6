package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkid/pkid/bench/model"
	"github.com/pkid/pkid/tokenbind"
)

// verification measures, in this process and on one thread, what a resource server does for each request.
func (b *bench) verification(ctx context.Context) error {
	m, err := newMaterial(b.ca, b.sizes.verified)
	if err != nil {
		return err
	}
	if err := b.verifyBound(ctx, m); err != nil {
		return err
	}
	return b.verifyDPoP(ctx, m)
}

// loop times n calls on this thread and counts their allocations.
func loop(n int, f func(i int) error) (sample, error) {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for i := range n {
		if err := f(i); err != nil {
			return sample{}, err
		}
	}
	elapsed := time.Since(start)
	runtime.ReadMemStats(&after)
	return sample{
		rate: float64(n) / elapsed.Seconds(), requests: n,
		allocs: float64(after.Mallocs-before.Mallocs) / float64(n),
	}, nil
}

func (m *material) verifier() (*tokenbind.Verifier, error) {
	return tokenbind.NewVerifier(tokenbind.Config{
		Issuer: verifyIssuer, Audience: verifyAudience,
		Keys:   tokenbind.StaticKeys{{ID: "bench", Algorithm: "ES256", Use: "sig", Key: &m.key.PublicKey}},
		Replay: keeping{tokenbind.NewMemoryReplay(10_000_000, nil)},
	})
}

// verify runs pkid's verifier over requests. warm is how many of the first are not measured.
func (m *material) verify(requests []*http.Request, warm int) (sample, error) {
	check, err := m.warmVerifier(requests[:warm])
	if err != nil {
		return sample{}, err
	}
	rest := requests[warm:]
	return loop(len(rest), func(i int) error { return check(rest[i]) })
}

// verifyOnAll is verify on all cores.
func (m *material) verifyOnAll(requests []*http.Request, warm int) (sample, error) {
	check, err := m.warmVerifier(requests[:warm])
	if err != nil {
		return sample{}, err
	}
	rest := requests[warm:]
	runtime.GC()
	start := time.Now()
	if err := parallel(len(rest), func(i int) error { return check(rest[i]) }); err != nil {
		return sample{}, err
	}
	return sample{rate: float64(len(rest)) / time.Since(start).Seconds(), requests: len(rest)}, nil
}

// warmVerifier returns a verifier's check, after it was used on some requests.
func (m *material) warmVerifier(requests []*http.Request) (func(*http.Request) error, error) {
	v, err := m.verifier()
	if err != nil {
		return nil, err
	}
	check := func(r *http.Request) error {
		_, err := v.Verify(r)
		return err
	}
	for _, r := range requests {
		if err := check(r); err != nil {
			return nil, err
		}
	}
	return check, nil
}

// es256 verifies signatures and nothing else, k for each call.
func (m *material) es256(k int) (sample, error) {
	_, sig, message, err := m.signature()
	if err != nil {
		return sample{}, err
	}
	return loop(len(m.bound), func(int) error {
		for range k {
			digest := sha256.Sum256(message)
			if !ecdsa.VerifyASN1(&m.key.PublicKey, digest[:], sig) {
				return errors.New("bad signature")
			}
		}
		return nil
	})
}

// jose is npm's, run over the material; what is "bound" or "dpop".
func (b *bench) jose(m *material, what string) contender {
	return contender{npmJOSE, func(ctx context.Context) (sample, error) {
		rate, err := b.node(ctx, m, what)
		return sample{rate: rate}, err
	}}
}

func (b *bench) node(ctx context.Context, m *material, what string) (float64, error) {
	point, err := m.key.PublicKey.Bytes()
	if err != nil {
		return 0, err
	}
	text, err := json.Marshal(map[string]any{
		"jwk":    map[string]string{"kty": "EC", "crv": "P-256", "x": base64url.EncodeToString(point[1:33]), "y": base64url.EncodeToString(point[33:])},
		"cert":   base64.StdEncoding.EncodeToString(m.cert.Raw),
		"issuer": verifyIssuer, "audience": verifyAudience, "url": verifyURL,
		"bound": m.bound, "dpop": m.dpop, "proofs": m.proofs,
	})
	if err != nil {
		return 0, err
	}
	dir, err := b.nodeModules(ctx)
	if err != nil {
		return 0, err
	}
	file := filepath.Join(b.dir, "material.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return 0, err
	}
	out, err := output(ctx, dir, []string{"NODE_ENV=production"}, "node", "verify.js", file, what)
	if err != nil {
		return 0, err
	}
	rate, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	return rate, nil
}

func (b *bench) verifyBound(ctx context.Context, m *material) error {
	requests := make([]*http.Request, len(m.bound))
	all := []contender{
		{oneVerify, func(context.Context) (sample, error) { return m.es256(1) }},
		{"pkid", func(ctx context.Context) (sample, error) {
			for i, t := range m.bound {
				requests[i] = m.request(ctx, "Bearer", t, "")
			}
			return m.verify(requests, len(requests)/10)
		}},
		{allCores, func(ctx context.Context) (sample, error) {
			for i, t := range m.bound {
				requests[i] = m.request(ctx, "Bearer", t, "")
			}
			return m.verifyOnAll(requests, len(requests)/10)
		}},
		{seenBefore, func(ctx context.Context) (sample, error) {
			for i := range requests {
				requests[i] = m.request(ctx, "Bearer", m.bound[0], "")
			}
			return m.verify(requests, 1)
		}},
	}
	for _, p := range m.peers() {
		all = append(all, contender{p.name, func(context.Context) (sample, error) {
			return loop(len(m.bound), func(i int) error { return p.bound(m.bound[i]) })
		}})
	}
	if b.peers {
		all = append(all, b.jose(m, "bound"))
	}
	got, err := alternate(ctx, "verify, mTLS", b.sizes.rounds, m.fresh(all))
	if err != nil {
		return err
	}
	r := &b.report
	r.record("verify/es256", got.over(oneVerify, "pkid"), "")
	r.record("verify/allocs", got.named("pkid").allocs(), "")
	r.recordLibraries("verify/", got)
	again := got.named(seenBefore)
	r.record("seen/time", again.each().Seconds(), "")
	r.record("seen/allocs", again.allocs(), "")
	r.data.Cost(model.CostVerify, got.named("pkid").each().Seconds())
	r.data.Cost(model.CostVerifySeen, again.each().Seconds())
	r.costs("Verifying an mTLS-bound JWT, in process", "One thread. Every contender verifies the same ES256 tokens against a known key, checks issuer, audience and times, "+
		"hashes the client certificate and compares. pkid's verifier takes the whole request and checks more. For npm jose the better of one at a time and 32 at once counts; in the latter its signatures are on all cores, so its line compares it with pkid there.", got)
	return nil
}

func (b *bench) verifyDPoP(ctx context.Context, m *material) error {
	requests := make([]*http.Request, len(m.dpop))
	all := []contender{
		{twoVerifies, func(context.Context) (sample, error) { return m.es256(2) }},
		{"pkid", func(ctx context.Context) (sample, error) {
			for i, t := range m.dpop {
				requests[i] = m.request(ctx, "DPoP", t, m.proofs[i])
			}
			return m.verify(requests, len(requests)/10)
		}},
		{allCores, func(ctx context.Context) (sample, error) {
			for i, t := range m.dpop {
				requests[i] = m.request(ctx, "DPoP", t, m.proofs[i])
			}
			return m.verifyOnAll(requests, len(requests)/10)
		}},
		{seenBefore, func(ctx context.Context) (sample, error) {
			for i, proof := range m.again {
				requests[i] = m.request(ctx, "DPoP", m.dpop[0], proof)
			}
			return m.verify(requests, 1)
		}},
	}
	for _, peer := range []func() verifier{m.goJOSE, m.golangJWT, m.jwx} {
		name := peer().name
		all = append(all, contender{name, func(context.Context) (sample, error) {
			p := peer() // with an empty memory of proofs
			return loop(len(m.dpop), func(i int) error { return p.dpop(m.dpop[i], m.proofs[i]) })
		}})
	}
	if b.peers {
		all = append(all, b.jose(m, "dpop"))
	}
	got, err := alternate(ctx, "verify, DPoP", b.sizes.rounds, m.fresh(all))
	if err != nil {
		return err
	}
	r := &b.report
	r.record("verifydpop/es256", got.over(twoVerifies, "pkid"), "")
	r.record("verifydpop/allocs", got.named("pkid").allocs(), "")
	r.recordLibraries("verifydpop/", got)
	r.record("proof/es256", 2*got.over(twoVerifies, seenBefore), "half of what two take")
	r.data.Cost(model.CostVerifyDPoP, got.named("pkid").each().Seconds())
	r.costs("Verifying a DPoP-bound JWT with its proof, in process", "As above, and the proof: its signature under the key in its header, that key against the token's jkt, "+
		"method, URL, age, the token's hash, and that it was not used before. The peers' users write most of these checks themselves; here they are as short as can be.", got)
	return nil
}

// The contenders beside the libraries.
const (
	oneVerify   = "one ES256 verify"
	twoVerifies = "two ES256 verifies"
	seenBefore  = "pkid, token seen before"
	allCores    = "pkid, on all cores"
)

// recordLibraries compares pkid with each library that took part.
func (r *report) recordLibraries(prefix string, got results) {
	for _, s := range got {
		switch {
		case s.name == npmJOSE: // its WebCrypto works in threads of its own
			r.record(prefix+s.name, got.over(allCores, s.name), fmt.Sprintf("both on all cores; pkid on one is %s of it", ratio(got.over("pkid", s.name))))
		case slices.Contains(libraries, s.name):
			r.record(prefix+s.name, got.over("pkid", s.name), "")
		}
	}
}

// keeping stands for a replay memory that outlives the process, so that the verifier asks for no nonces.
type keeping struct{ *tokenbind.MemoryReplay }
