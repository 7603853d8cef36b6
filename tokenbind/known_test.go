package tokenbind

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
)

// switchable is a KeySource that tests switch.
type switchable struct {
	keys atomic.Pointer[StaticKeys]
	err  atomic.Pointer[error]
}

func (s *switchable) Keys(ctx context.Context, kid string) ([]VerificationKey, error) {
	if err := s.err.Load(); err != nil {
		return nil, *err
	}
	return s.keys.Load().Keys(ctx, kid)
}

func (s *switchable) set(keys ...VerificationKey) { s.keys.Store((*StaticKeys)(&keys)) }

func tokenOf(r *http.Request) string {
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return token
}

func (v *Verifier) knows(r *http.Request) bool {
	_, found := v.tokens.Get(thumbprint.OfToken(tokenOf(r)))
	return found
}

// A token that is known is refused for everything that may change, and Explain says the same.
func TestKnownTokenIsRefused(t *testing.T) {
	k := newResourceKit(t)
	keys, list := new(switchable), new(revoked)
	mine := VerificationKey{ID: "k1", Key: k.issuer.Public()}
	k.conf.Keys, k.conf.Revocation = keys, list
	gone := errors.New("revoked, or the keys are away")
	other := newCertificate(t, "client", testStart.Add(-time.Hour), testStart.Add(24*time.Hour)).Leaf
	none := func() {}
	type refusal struct {
		change func()
		edit   func(*http.Request)
		check  string
		code   string
		stays  bool // the token goes on to be known
	}
	asIs := func(*http.Request) {}
	common := map[string]refusal{
		"expired":         {func() { k.clock.Add(time.Hour + 10*time.Second) }, asIs, "token lifetime", CodeInvalidToken, false},
		"clock went back": {func() { k.clock.Add(-11 * time.Second) }, asIs, "token lifetime", CodeInvalidToken, true},
		"no keys":         {func() { keys.set() }, asIs, "token signature", CodeInvalidToken, false},
		"key withdrawn":   {func() { keys.set(VerificationKey{ID: "k2", Key: mine.Key}) }, asIs, "token signature", CodeInvalidToken, false},
		"key replaced":    {func() { keys.set(VerificationKey{ID: "k1", Key: ecKeyFor(t).Public()}) }, asIs, "token signature", CodeInvalidToken, false},
		"key for another algorithm": {
			func() { keys.set(VerificationKey{ID: "k1", Key: mine.Key, Algorithm: "EdDSA"}) }, asIs, "token signature", CodeInvalidToken, false,
		},
		"key for encryption": {func() { keys.set(VerificationKey{ID: "k1", Key: mine.Key, Use: "enc"}) }, asIs, "token signature", CodeInvalidToken, false},
		"keys away":          {func() { keys.err.Store(&gone) }, asIs, "token signature", codeUnavailable, true},
		"other signature":    {none, func(r *http.Request) { spoil(r.Header, "Authorization") }, "token signature", CodeInvalidToken, true},
		"also in the query":  {none, func(r *http.Request) { r.URL.RawQuery = "access_token=x" }, "no token in the query", CodeInvalidRequest, true},
		"a forwarded certificate": {
			none, func(r *http.Request) { r.Header.Set("Client-Cert", "x") }, "forwarded certificate", CodeInvalidRequest, true,
		},
	}
	mtls := map[string]refusal{
		"no certificate":      {none, func(r *http.Request) { r.TLS.PeerCertificates = nil }, "certificate", CodeInvalidToken, true},
		"another certificate": {none, func(r *http.Request) { r.TLS.PeerCertificates[0] = other }, "certificate", CodeInvalidToken, true},
		"DPoP scheme":         {none, scheme(schemeDPoP), "binding", CodeInvalidToken, true},
		"revoked":             {func() { list.err.Store(&gone) }, asIs, "certificate revocation", CodeInvalidToken, false},
	}
	dpop := map[string]refusal{
		"Bearer scheme":  {none, scheme(schemeBearer), "binding", CodeInvalidToken, true},
		"no proof":       {none, func(r *http.Request) { r.Header.Del("DPoP") }, "one proof", CodeInvalidProof, true},
		"another method": {none, func(r *http.Request) { r.Method = http.MethodPost }, "htm", CodeInvalidProof, true},
		"another URL":    {none, func(r *http.Request) { r.RequestURI = "/things/2" }, "htu", CodeInvalidProof, true},
		"forged proof":   {none, func(r *http.Request) { spoil(r.Header, "DPoP") }, "signature", CodeInvalidProof, true},
		"another's key": {none, func(r *http.Request) {
			p, err := NewProver(ecKeyFor(t))
			if err != nil {
				t.Fatal(err)
			}
			proof, err := p.Proof(r.Method, "https://rs.example/things/1", ProofOptions{AccessToken: tokenOf(r), Now: k.clock.Now()})
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("DPoP", proof)
		}, "key", CodeInvalidToken, true},
	}
	requests := map[string]func(token string) *http.Request{
		"mTLS": func(token string) *http.Request { return k.request("Bearer "+token, k.cert.Leaf) },
		"DPoP": func(token string) *http.Request { return k.dpopRequest(t, token, ProofOptions{}) },
	}
	for kind, refusals := range map[string][]map[string]refusal{"mTLS": {common, mtls}, "DPoP": {common, dpop}} {
		all := maps.Clone(refusals[0])
		maps.Copy(all, refusals[1])
		for name, what := range all {
			t.Run(kind+" "+name, func(t *testing.T) {
				k.clock = newClock(testStart)
				k.conf.Now = k.clock.Now
				k.conf.Replay = keeping{NewMemoryReplay(1000, k.clock.Now)}
				keys.set(mine)
				keys.err.Store(nil)
				list.err.Store(nil)
				token := k.certToken(t)
				if kind == "DPoP" {
					token = k.dpopToken(t)
				}
				v, request := k.verifier(t), requests[kind]
				for range 2 {
					accepts(t, v, request(token))
					if !v.knows(request(token)) {
						t.Fatal("the token is not known")
					}
				}
				what.change()
				r := request(token)
				what.edit(r)
				refuses(t, v, r, statuses[what.code], what.code, what.check)
				if got := v.knows(request(token)); got != what.stays {
					t.Errorf("known afterwards: %v", got)
				}
			})
		}
	}
}

// A connection may outlive its certificate: the end of that is looked at although the token and the certificate are
// known, and the token would hold for longer.
func TestKnownTokenEndsWithItsCertificate(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	cert := newCertificate(t, "client", testStart.Add(-time.Hour), testStart.Add(time.Minute)).Leaf
	token := k.token(t, object{"x5t#S256": thumbprint.OfCertificate(cert).String()})
	accepts(t, v, k.request("Bearer "+token, cert))
	k.clock.Add(time.Minute + time.Second)
	r := k.request("Bearer "+token, cert)
	if !v.knows(r) {
		t.Fatal("the token is not known")
	}
	refuses(t, v, r, invalid, CodeInvalidToken, "certificate validity")
}

func scheme(name string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", name+" "+tokenOf(r)) }
}

// spoil changes the signature of the JWS in a header.
func spoil(h http.Header, name string) {
	s := []byte(h.Get(name))
	at := len(s) - 20
	if s[at]++; s[at] == '[' || s[at] == '{' || s[at] == ':' || s[at] == '.' || s[at] == '`' {
		s[at] = 'A'
	}
	h.Set(name, string(s))
}

func TestKnownTokenProofIsUsedOnce(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	token := k.dpopToken(t)
	accepts(t, v, k.dpopRequest(t, token, ProofOptions{}))
	r := k.dpopRequest(t, token, ProofOptions{})
	accepts(t, v, r)
	refuses(t, v, r, invalid, CodeInvalidProof, "replay")
}

// Only a token whose holder has shown the key gets in.
func TestRefusedTokensAreNotKept(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.RequiredScopes = []string{"read"} })
	other := newCertificate(t, "other", testStart.Add(-time.Hour), testStart.Add(time.Hour)).Leaf
	edited := func(edit func(h, c object)) *http.Request {
		return k.request("Bearer "+k.token(t, object{"x5t#S256": k.x5t.String()}, edit), k.cert.Leaf)
	}
	forged := k.request("Bearer "+k.certToken(t), k.cert.Leaf)
	spoil(forged.Header, "Authorization")
	unproven := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	spoil(unproven.Header, "DPoP")
	for name, r := range map[string]*http.Request{
		"forged":    forged,
		"stolen":    k.request("Bearer "+k.certToken(t), other),
		"unproven":  unproven,
		"unbound":   k.request("Bearer "+k.token(t, nil), k.cert.Leaf),
		"elsewhere": edited(func(_, c object) { c["aud"] = "https://elsewhere.example" }),
		"expired":   edited(func(_, c object) { c["exp"] = testStart.Add(-time.Hour).Unix() }),
		"scope":     edited(func(_, c object) { c["scope"] = "write" }),
	} {
		if _, err := v.Verify(r); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if v.tokens.Len() != 0 {
			t.Fatalf("%s: kept", name)
		}
	}
	r := k.request("Bearer "+k.certToken(t), k.cert.Leaf)
	if v.Explain(r); v.knows(r) {
		t.Error("kept by Explain")
	}
	long := edited(func(_, c object) { c["pad"] = strings.Repeat("x", maxKnownToken) })
	if accepts(t, v, long); v.knows(long) {
		t.Error("a long one is kept")
	}
	never := k.verifier(t, func(c *Config) { c.MaxTokens = -1 })
	for range 2 {
		if accepts(t, never, r); never.knows(r) {
			t.Error("kept against the configuration")
		}
	}
}

// A token that is known is explained in full, as one that is not.
func TestKnownTokenIsExplained(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	r := k.request("Bearer "+k.certToken(t), k.cert.Leaf)
	before := v.Explain(r)
	accepts(t, v, r)
	if after := v.Explain(r); fmt.Sprint(after) != fmt.Sprint(before) || firstFailure(after) != (Check{}) {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
}

func TestKnownTokenClaims(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	r := k.request("Bearer "+k.certToken(t), k.cert.Leaf)
	first := accepts(t, v, r)
	want := fmt.Sprint(*first)
	first.Subject, first.Scope, first.Raw, first.ExpiresAt = "mallory", nil, nil, time.Time{} // the struct is the caller's
	if got := accepts(t, v, r); fmt.Sprint(*got) != want {
		t.Errorf("got %+v, want %s", got, want)
	}
}

func TestKnownTokenCostsLittle(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	r := k.request("Bearer "+k.certToken(t), k.cert.Leaf)
	accepts(t, v, r)
	if n := testing.AllocsPerRun(100, func() { accepts(t, v, r) }); n > 2 {
		t.Errorf("%v allocations", n)
	}
}

// A connection of the same client that is not the one before has another copy of the certificate.
func TestKnownTokenOnAnotherConnection(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	r := k.request("Bearer "+k.certToken(t), k.cert.Leaf)
	accepts(t, v, r)
	again := *k.cert.Leaf
	r.TLS.PeerCertificates[0] = &again
	accepts(t, v, r)
}

func TestRemoteKeysEndKnownTokens(t *testing.T) {
	k, s, v, request := remoteKit(t, "")
	r := request()
	for range 30 { // a known token refreshes the keys like any other, and outlives a refresh
		accepts(t, v, r)
		k.clock.Add(time.Minute)
	}
	waitFor(t, func() bool { return s.fetches.Load() >= 3 })
	remote := v.keys.(*remoteKeys)
	before := remote.set.Load()
	k.clock.Add(defaultMaxAge + time.Second)
	accepts(t, v, r)
	waitFor(t, func() bool { return remote.set.Load() != before })
	if remote.set.Load().keys[0].Key != before.keys[0].Key {
		t.Error("a key that did not change is another pointer")
	}
	s.set(func(s *issuerServer) { s.keys = []object{kidJWK(t, "k1", ecKeyFor(t).Public())} }) // of the same name
	k.clock.Add(2*defaultMaxAge + time.Second)
	_, err := v.Verify(r)
	if e, ok := errors.AsType[*Error](err); !ok || e.Check != "token signature" || e.Status != invalid {
		t.Errorf("got %v", err)
	}
}

func TestSameKey(t *testing.T) {
	a, b := ecKeyFor(t), ecKeyFor(t)
	copied := a.PublicKey
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		a, b crypto.PublicKey
		want bool
	}{
		{&a.PublicKey, &a.PublicKey, true},
		{&a.PublicKey, &copied, true},
		{&a.PublicKey, &b.PublicKey, false},
		{&a.PublicKey, ed, false},
		{ed, &a.PublicKey, false},
		{ed, ed, true},
		{testRSA().Public(), testRSA().Public(), true},
		{testRSA().Public(), &a.PublicKey, false},
		{nil, nil, false},
		{nil, ed, false},
	} {
		if got := sameKey(x.a, x.b); got != x.want {
			t.Errorf("%T and %T: %v", x.a, x.b, got)
		}
	}
}

// Tokens come, go and are used while keys rotate and certificates are revoked: nothing is taken that ended
// before its request began.
func TestKnownTokensAtOnce(t *testing.T) {
	k := newResourceKit(t)
	keys, list := new(switchable), new(revoked)
	mine := VerificationKey{ID: "k1", Key: k.issuer.Public()}
	keys.set(mine)
	v := k.verifier(t, func(c *Config) { c.Keys, c.Revocation, c.MaxTokens = keys, list, 4 })
	var tokens [8]string // more than are kept
	for i := range tokens {
		tokens[i] = k.certToken(t)
	}
	var stop atomic.Bool
	var epoch, taken atomic.Int32 // in odd epochs the tokens have ended
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				r := k.request("Bearer "+tokens[(n*g)%len(tokens)], k.cert.Leaf) // some the same all the time
				before := epoch.Load()
				if _, err := v.Verify(r); err != nil {
					continue
				}
				if taken.Add(1); before%2 == 1 && before == epoch.Load() {
					t.Error("a token that had ended was taken")
					return
				}
			}
		})
	}
	gone := errors.New("revoked")
	for n := range 20 {
		for before := taken.Load(); taken.Load() < before+20 && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		if n%2 == 0 {
			list.err.Store(&gone)
		} else {
			keys.set(VerificationKey{ID: "k1", Key: ecKeyFor(t).Public()})
		}
		epoch.Add(1)
		time.Sleep(2 * time.Millisecond)
		epoch.Add(1)
		list.err.Store(nil)
		keys.set(mine)
	}
	stop.Store(true)
	wg.Wait()
	if v.tokens.Len() > 4 {
		t.Errorf("%d are kept", v.tokens.Len())
	}
}

func (k *proofKit) knowsHeader(proof string) bool {
	header, _, _ := strings.Cut(proof, ".")
	if k.checker.headers == nil {
		return false
	}
	_, found := k.checker.headers.Get(jws.Sum256(header))
	return found
}

// The header of a proof is known by its signature, and its rules alone are then taken as passed.
func TestKnownHeader(t *testing.T) {
	k := newProofKit(t)
	forged := http.Header{"Dpop": {k.proof(t)}}
	spoil(forged, "Dpop")
	k.refuse(t, "signature", forged.Get("DPoP"))
	if k.knowsHeader(forged.Get("DPoP")) {
		t.Error("the header of a forged proof is known")
	}
	first := k.accept(t, k.proof(t))
	if !k.knowsHeader(forged.Get("DPoP")) {
		t.Fatal("the header is not known")
	}
	again := k.proof(t)
	if p := k.accept(t, again); p.Key != first.Key || !sameKey(p.PublicKey, first.PublicKey) || p.ID == first.ID {
		t.Errorf("got %+v, first %+v", p, first)
	}
	k.refuse(t, "signature", forged.Get("DPoP"))
	k.refuse(t, "replay", again)
	k.refuse(t, "htm", k.proof(t, func(_, c object) { c["htm"] = "GET" }))
	k.refuse(t, "claims", k.proof(t, func(_, c object) { delete(c, "jti") }))
	k.refuse(t, "typ", k.proof(t, func(h, _ object) { h["typ"] = "jwt" }))
	k.refuse(t, "crit", k.proof(t, func(h, _ object) { h["crit"] = []string{"b64"} }))
	k.request.Key = thumbprint.Key{1}
	k.refuse(t, "key", k.proof(t))
	k.request.Key = k.jkt
	k.accept(t, k.proof(t))

	long := k.proof(t, func(h, _ object) { h["pad"] = strings.Repeat("x", maxKnownHeader) })
	if k.accept(t, long); k.knowsHeader(long) {
		t.Error("a long header is known")
	}
}
