package tokenbind

import (
	"context"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// each runs a subtest per edit of an otherwise good proof, all of which are refused at one check.
func each(t *testing.T, check string, edits map[string]func(header, claims object)) {
	t.Helper()
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			k := newProofKit(t)
			k.refuse(t, check, k.proof(t, edit))
		})
	}
}

func TestProofGood(t *testing.T) {
	k := newProofKit(t)
	got := k.accept(t, k.proof(t, func(_, c object) { c["jti"] = "j" }))
	if !got.Key.Equal(k.jkt) || got.ID != "j" || !got.IssuedAt.Equal(testStart) || !k.key.PublicKey.Equal(got.PublicKey) {
		t.Errorf("got %+v", got)
	}
}

func TestD01_OneHeader(t *testing.T) {
	k := newProofKit(t)
	k.refuse(t, "one proof")
	k.refuse(t, "one proof", k.proof(t), k.proof(t))
	k.refuse(t, "one proof", k.proof(t)+", "+k.proof(t))
	k.refuse(t, "one proof", k.proof(t)+",")
}

func TestD02_WellFormed(t *testing.T) {
	k := newProofKit(t)
	good := k.proof(t)
	header, rest, _ := strings.Cut(good, ".")
	for name, bad := range map[string]string{
		"empty":             "",
		"two parts":         header + "." + strings.Split(rest, ".")[0],
		"four parts":        good + ".e30",
		"no signature":      header + "." + strings.Split(rest, ".")[0] + ".",
		"padded":            good + "=",
		"stray bits":        good[:len(good)-1] + string(good[len(good)-1]+1), // another spelling of the same octets
		"line break":        header + "\n." + rest,
		"space":             " " + good,
		"standard alphabet": "+" + good[1:],
		"JSON form":         `{"protected":"` + header + `"}`,
		"header no object":  compact(t, k.key, `["dpop+jwt"]`, object{}),
		"header twice":      compact(t, k.key, `{"typ":"dpop+jwt","typ":"dpop+jwt"}`, object{}),
		"payload no object": compact(t, k.key, object{"typ": "dpop+jwt"}, `"htm"`),
		"payload trailing":  compact(t, k.key, object{"typ": "dpop+jwt"}, `{} {}`),
		"payload null":      compact(t, k.key, object{"typ": "dpop+jwt"}, `null`),
		"claim twice":       compact(t, k.key, object{"typ": "dpop+jwt"}, `{"htm":"GET","htm":"POST"}`),
		"deep":              compact(t, k.key, object{}, `{"a":`+strings.Repeat("[", 4000)+strings.Repeat("]", 4000)+"}")[:maxProof],
	} {
		t.Run(name, func(t *testing.T) { k.refuse(t, "form", bad) })
	}
}

func TestD03_RequiredClaims(t *testing.T) {
	edits := map[string]func(h, c object){
		"iat is text":     func(_, c object) { c["iat"] = "1767323045" },
		"iat is negative": func(_, c object) { c["iat"] = -1 },
		"iat is huge":     func(_, c object) { c["iat"] = 1e300 },
		"jti is a number": func(_, c object) { c["jti"] = 7 },
		"jti is empty":    func(_, c object) { c["jti"] = "" },
		"htu is a list":   func(_, c object) { c["htu"] = []string{"https://as.example/token"} },
	}
	for _, claim := range []string{"jti", "htm", "htu", "iat"} {
		edits["no "+claim] = func(_, c object) { delete(c, claim) }
		edits["other case "+claim] = func(_, c object) { c[strings.ToUpper(claim)] = c[claim]; delete(c, claim) }
	}
	each(t, "claims", edits)
}

func TestD04_Type(t *testing.T) {
	edits := map[string]func(h, c object){"none": func(h, _ object) { delete(h, "typ") }}
	for _, typ := range []any{"JWT", "DPOP+JWT", "dpop", "at+jwt", "", 7, true, nil, []string{"dpop+jwt"}, object{"dpop+jwt": 1}} {
		edits[fmt.Sprintf("%T %v", typ, typ)] = func(h, _ object) { h["typ"] = typ }
	}
	each(t, "typ", edits)
}

func TestD05_Algorithm(t *testing.T) {
	edits := map[string]func(h, c object){"none at all": func(h, _ object) { delete(h, "alg") }}
	for _, alg := range []any{"none", "None", "HS256", "RS256", "ES256K", "es256", "", 5, []string{"ES256"}} {
		edits[fmt.Sprint(alg)] = func(h, _ object) { h["alg"] = alg }
	}
	each(t, "alg", edits)

	t.Run("policy", func(t *testing.T) {
		k := newProofKit(t)
		k.checker.Algorithms = []string{"EdDSA"}
		k.refuse(t, "alg", k.proof(t))
	})
	t.Run("never a MAC, whatever the configuration", func(t *testing.T) {
		k := newProofKit(t)
		k.checker.Algorithms = []string{"HS256", "none"}
		k.refuse(t, "alg", k.proof(t, func(h, _ object) { h["alg"] = "HS256" }))
		k.refuse(t, "alg", k.proof(t, func(h, _ object) { h["alg"] = "none" }))
	})
}

func TestD06_Signature(t *testing.T) {
	k := newProofKit(t)
	other := newProofKit(t)
	good := k.proof(t)
	at := strings.LastIndex(good, ".")
	k.refuse(t, "signature", k.proof(t, func(h, _ object) { h["jwk"] = jwkOf(t, other.key.Public()) }))
	k.refuse(t, "signature", good[:at]+k.proof(t)[at:])
	k.refuse(t, "signature", good[:at+1]+b64(make([]byte, 64)))
	k.refuse(t, "signature", good[:at+1]+b64(make([]byte, 63)))
	k.refuse(t, "signature", good[:at+1]+b64(make([]byte, 4000)))
	k.accept(t, good) // and none of that used it up
}

func TestD07_NoPrivateMembers(t *testing.T) {
	edits := map[string]func(h, c object){}
	for _, m := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		for _, value := range []any{"AQAB", "", nil, 1, []any{}} {
			edits[fmt.Sprintf("%s %v", m, value)] = func(h, _ object) { h["jwk"].(object)[m] = value }
		}
	}
	each(t, "jwk is public", edits)
}

func TestD08_Method(t *testing.T) {
	edits := map[string]func(h, c object){}
	for _, m := range []string{"GET", "post", "POST ", "Post"} {
		edits[m] = func(_, c object) { c["htm"] = m }
	}
	each(t, "htm", edits)
}

func TestD09_HTUIgnoresQueryAndFragment(t *testing.T) {
	k := newProofKit(t)
	k.request.URLs = []string{"https://as.example/token?a=b"}
	for _, htu := range []string{"https://as.example/token", "https://as.example/token?x=y", "https://as.example/token#f", "https://as.example/token?#"} {
		k.accept(t, k.proof(t, func(_, c object) { c["htu"] = htu }))
	}
	for _, htu := range []string{
		"https://as.example/Token", "https://as.example/token/", "https://as.example/", "http://as.example/token",
		"https://as.example:8443/token", "https://rs.example/token", "/token", "token", "as.example/token",
		"https://u@as.example/token", "https://u:p@as.example/token", "https://as.example/%74oken%2F", "https://as.example/token%",
		"https://as.example.evil/token", "https:as.example/token", "https:///token", "ftp://as.example/token",
		"https://as.example/token" + strings.Repeat("/", maxURL),
	} {
		refused := k.refuse(t, "htu", k.proof(t, func(_, c object) { c["htu"] = htu }))
		if len(refused.Seen) > 250 || !strings.Contains(refused.Wanted, "https://as.example/token") && refused.Hint == "" {
			t.Errorf("%s is not explained: %+v", htu, refused)
		}
	}
}

func TestHTU_AnyOfSeveralURLs(t *testing.T) {
	k := newProofKit(t)
	k.request.URLs = []string{"https://mtls.example:9443/token", "https://as.example/token"}
	k.accept(t, k.proof(t))
	k.request.URLs = nil
	k.refuse(t, "htu", k.proof(t))
}

func TestD10_Nonce(t *testing.T) {
	k := newProofKit(t)
	var err error
	if k.checker.Nonces, err = NewNonces(make([]byte, 32), "test", time.Minute, k.clock.Now); err != nil {
		t.Fatal(err)
	}
	k.request.RequireNonce = true
	refused := k.refuse(t, "nonce", k.proof(t))
	if refused.Code != CodeUseNonce || refused.Nonce != k.checker.Nonces.Current() {
		t.Errorf("got %+v", refused)
	}
	with := func(nonce any) string { return k.proof(t, func(_, c object) { c["nonce"] = nonce }) }
	k.accept(t, with(refused.Nonce))
	for _, bad := range []any{"", "x", refused.Nonce + "x", refused.Nonce[1:], 7, nil, []string{refused.Nonce}} {
		if e := k.refuse(t, "nonce", with(bad)); e.Code != CodeUseNonce {
			t.Errorf("nonce %v: code %s", bad, e.Code)
		}
	}
	k.request.RequireNonce = false
	k.refuse(t, "nonce", with("made up")) // one that is sent must be right, required or not
}

func TestD11_Window(t *testing.T) {
	for offset, ok := range map[time.Duration]bool{
		0:                 true,
		10 * time.Second:  true, // ahead, by Tolerance
		11 * time.Second:  false,
		61 * time.Second:  false,
		-60 * time.Second: true,
		-70 * time.Second: true, // old, by MaxAge and Tolerance
		-71 * time.Second: false,
		-24 * time.Hour:   false,
	} {
		t.Run(offset.String(), func(t *testing.T) {
			k := newProofKit(t)
			proof := k.proof(t, func(_, c object) { c["iat"] = testStart.Add(offset).Unix() })
			if ok {
				k.accept(t, proof)
				return
			}
			if refused := k.refuse(t, "iat", proof); !strings.Contains(refused.Error(), offset.Abs().String()) {
				t.Errorf("does not say how far the clock is off: %v", refused)
			}
		})
	}
}

func TestD12_TokenHashAndKey(t *testing.T) {
	k := newProofKit(t)
	k.request.AccessToken = "the.access.token"
	ath := thumbprint.OfToken("the.access.token").String()
	with := func(v any) string { return k.proof(t, func(_, c object) { c["ath"] = v }) }
	k.accept(t, with(ath))
	k.refuse(t, "ath", k.proof(t))
	for _, bad := range []any{"", ath + "=", ath[1:], thumbprint.OfToken("another").String(), 7, nil} {
		k.refuse(t, "ath", with(bad))
	}
	k.request.Key = k.jkt
	k.accept(t, with(ath))
	k.request.Key = newProofKit(t).jkt
	k.refuse(t, "key", with(ath))
}

func TestD13_Normalisation(t *testing.T) {
	k := newProofKit(t)
	k.request.URLs = []string{"https://as.example/a%2Fb/~x/"}
	for _, htu := range []string{
		"HTTPS://AS.EXAMPLE/a%2fb/%7ex/", "https://as.example:443/a%2Fb/~x/", "https://as.example:/a%2Fb/~x/",
		"https://as.example/c/../a%2Fb/./~x/", "https://as.example/a%2Fb/~x/y/..", "https://as.example/%61%2Fb/~x/.",
	} {
		k.accept(t, k.proof(t, func(_, c object) { c["htu"] = htu }))
	}
	k.refuse(t, "htu", k.proof(t, func(_, c object) { c["htu"] = "https://as.example/a/b/~x/" }))
	k.request.URLs = []string{"HTTPS://As.Example:443"}
	k.accept(t, k.proof(t, func(_, c object) { c["htu"] = "https://as.example/" }))
}

func TestD15_UnknownMembersAllowed(t *testing.T) {
	k := newProofKit(t)
	k.accept(t, k.proof(t, func(h, c object) {
		h["x-new"], h["kid"] = object{"a": 1}, "7"
		h["jwk"].(object)["use"], h["jwk"].(object)["x-new"] = "sig", true
		c["x-new"], c["exp"] = []int{1}, "never"
	}))
}

func TestD16_KeyAgreesWithAlgorithm(t *testing.T) {
	rsaJWK := jwkOf(t, testRSA().Public())
	small := jwkOf(t, &rsa.PublicKey{N: new(big.Int).Rsh(testRSA().N, 1), E: 65537})
	large := jwkOf(t, &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 4096), E: 65537})
	set := func(alg string, jwk object, edit ...func(object)) func(h, c object) {
		return func(h, _ object) {
			h["alg"] = alg
			copied := maps.Clone(jwk)
			for _, e := range edit {
				e(copied)
			}
			h["jwk"] = copied
		}
	}
	ecJWK := jwkOf(t, ecKeyFor(t).Public())
	p384 := object{"kty": "EC", "crv": "P-384", "x": b64(elliptic.P384().Params().Gx.Bytes()), "y": b64(elliptic.P384().Params().Gy.Bytes())}
	each(t, "jwk", map[string]func(h, c object){
		"RSA key, ES256":      set("ES256", rsaJWK),
		"EC key, PS256":       set("PS256", ecJWK),
		"P-256 key, ES384":    set("ES384", ecJWK),
		"P-384 key, ES256":    set("ES256", p384),
		"EC key, EdDSA":       set("EdDSA", ecJWK),
		"RSA 2047":            set("PS256", small),
		"RSA 4097":            set("PS256", large),
		"exponent 1":          set("PS256", rsaJWK, func(j object) { j["e"] = "AQ" }),
		"exponent 2":          set("PS256", rsaJWK, func(j object) { j["e"] = "Ag" }),
		"exponent 4":          set("PS256", rsaJWK, func(j object) { j["e"] = "BA" }),
		"exponent 65536":      set("PS256", rsaJWK, func(j object) { j["e"] = b64([]byte{1, 0, 0}) }),
		"exponent 40 bits":    set("PS256", rsaJWK, func(j object) { j["e"] = b64([]byte{1, 0, 0, 0, 1}) }),
		"exponent 32 bits":    set("PS256", rsaJWK, func(j object) { j["e"] = b64([]byte{255, 0, 0, 1}) }),
		"exponent zero led":   set("PS256", rsaJWK, func(j object) { j["e"] = b64([]byte{0, 1, 0, 1}) }),
		"no modulus":          set("PS256", rsaJWK, func(j object) { j["n"] = "" }),
		"point off the curve": set("ES256", ecJWK, func(j object) { j["x"] = b64(make([]byte, 32)) }),
		"coordinate short":    set("ES256", ecJWK, func(j object) { j["x"] = b64(make([]byte, 31)) }),
		"coordinate padded":   set("ES256", ecJWK, func(j object) { j["x"] = j["x"].(string) + "=" }),
		"no coordinate":       set("ES256", ecJWK, func(j object) { delete(j, "y") }),
		"coordinate a number": set("ES256", ecJWK, func(j object) { j["y"] = 1 }),
		"curve unknown":       set("ES256", ecJWK, func(j object) { j["crv"] = "secp256k1" }),
		"curve a number":      set("ES256", ecJWK, func(j object) { j["crv"] = 256 }),
		"kty oct":             set("ES256", object{"kty": "oct"}),
		"kty a list":          set("ES256", object{"kty": []string{"EC"}}),
		"Ed25519 short":       set("EdDSA", object{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
		"X25519":              set("EdDSA", object{"kty": "OKP", "crv": "X25519", "x": b64(make([]byte, 32))}),
		"empty":               set("ES256", object{}),
	})
	each(t, "jwk is public", map[string]func(h, c object){
		"none":   func(h, _ object) { delete(h, "jwk") },
		"text":   func(h, _ object) { h["jwk"] = "EC" },
		"a list": func(h, _ object) { h["jwk"] = []object{ecJWK} },
	})
}

func TestD16_Oversize(t *testing.T) {
	k := newProofKit(t)
	refused := k.refuse(t, "form", k.proof(t, func(h, _ object) { h["pad"] = strings.Repeat("x", maxProof) }))
	if !strings.Contains(refused.Error(), "at most 8192") {
		t.Errorf("got %v", refused)
	}
}

func TestD17_Critical(t *testing.T) {
	each(t, "crit", map[string]func(h, c object){
		"unknown": func(h, _ object) { h["crit"] = []string{"x"}; h["x"] = 1 },
		"b64":     func(h, _ object) { h["crit"] = []string{"b64"}; h["b64"] = true },
		"empty":   func(h, _ object) { h["crit"] = []string{} },
		"text":    func(h, _ object) { h["crit"] = "x" },
	})
}

// The times are written out, so that a changed constant shows: 60 s, and 10 s for clocks.
func TestE19_LimitedTime(t *testing.T) {
	k := newProofKit(t)
	first, second := k.proof(t), k.proof(t)
	k.clock.Add(70 * time.Second)
	k.accept(t, first)
	k.clock.Add(time.Second)
	k.refuse(t, "iat", second)
}

func TestE20_LargeID(t *testing.T) {
	k := newProofKit(t)
	k.accept(t, k.proof(t, func(_, c object) { c["jti"] = strings.Repeat("j", 256) }))
	k.refuse(t, "claims", k.proof(t, func(_, c object) { c["jti"] = strings.Repeat("j", 257) }))
}

func TestE21_SlightlyInTheFuture(t *testing.T) {
	k := newProofKit(t)
	k.accept(t, k.proof(t, func(_, c object) { c["iat"] = float64(testStart.Unix()) + 9.5 }))
}

func TestE24_AnotherKindOfJWT(t *testing.T) {
	k := newProofKit(t)
	k.refuse(t, "typ", k.proof(t, func(h, _ object) { h["typ"] = "at+jwt" }))
}

func TestE25_SymmetricAlgorithm(t *testing.T) {
	k := newProofKit(t)
	input := b64(jsonText(t, object{"typ": "dpop+jwt", "alg": "HS256", "jwk": jwkOf(t, k.key.Public())})) + "." + b64([]byte("{}"))
	mac := hmac.New(sha256.New, []byte(jwkOf(t, k.key.Public())["x"].(string)))
	mac.Write([]byte(input))
	k.refuse(t, "alg", input+"."+b64(mac.Sum(nil)))
}

func TestE27_ConcurrentReplay(t *testing.T) {
	k := newProofKit(t)
	proof := k.proof(t)
	var accepted atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := k.check(t, proof)
			switch {
			case err == nil:
				accepted.Add(1)
			case !errors.Is(err, ErrReplayed):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := accepted.Load(); n != 1 {
		t.Errorf("%d of 50 were accepted", n)
	}
}

func TestE27_WholeWindow(t *testing.T) {
	k := newProofKit(t)
	proof := k.proof(t, func(_, c object) { c["iat"] = testStart.Add(10 * time.Second).Unix() })
	k.accept(t, proof)
	for range 80 { // until it is as old as a proof may be
		k.clock.Add(time.Second)
		k.refuse(t, "replay", proof)
	}
	k.clock.Add(time.Second)
	k.refuse(t, "iat", proof)
}

// lastUntil hears until when it is asked to remember.
type lastUntil struct {
	Replay
	until time.Time
}

func (l *lastUntil) Use(ctx context.Context, key [32]byte, until time.Time) error {
	l.until = until
	return l.Replay.Use(ctx, key, until)
}

// Nodes that share a memory may differ by a tolerance, so the one whose clock is ahead does not forget what the other
// still takes.
func TestE27_RememberedForNodesWhoseClocksDiffer(t *testing.T) {
	k := newProofKit(t)
	replay := &lastUntil{Replay: k.checker.Replay}
	k.checker.Replay = replay
	k.accept(t, k.proof(t))
	if got, want := replay.until.Sub(testStart), 80*time.Second; got != want { // 60, and twice 10
		t.Errorf("remembered for %v, want %v", got, want)
	}
}

func TestE28_ReplayIsInvalidProof(t *testing.T) {
	k := newProofKit(t)
	proof := k.proof(t)
	k.accept(t, proof)
	if refused := k.refuse(t, "replay", proof); refused.Code != CodeInvalidProof || !errors.Is(refused, ErrReplayed) {
		t.Errorf("got %+v", refused)
	}
}

func TestE29_ReplayKeyHasTheThumbprint(t *testing.T) {
	k, other := newProofKit(t), newProofKit(t)
	other.checker = k.checker
	same := func(_, c object) { c["jti"] = "same" }
	k.accept(t, k.proof(t, same))
	other.accept(t, other.proof(t, same))
	k.refuse(t, "replay", k.proof(t, same, func(_, c object) { c["iat"] = testStart.Unix() - 1 }))
}

func TestProofCheckerUnavailable(t *testing.T) {
	k := newProofKit(t)
	k.checker.Replay = NewMemoryReplay(0, k.clock.Now)
	_, err := k.check(t, k.proof(t))
	if _, refused := errors.AsType[*ProofError](err); refused || !errors.Is(err, ErrReplayFull) {
		t.Errorf("want ErrReplayFull that is no ProofError, got %v", err)
	}
}

func TestProofCheckerSetUpWrongly(t *testing.T) {
	for name, edit := range map[string]func(*proofKit){
		"no replay":          func(k *proofKit) { k.checker.Replay = nil },
		"tolerance":          func(k *proofKit) { k.checker.Tolerance = 61 * time.Second },
		"negative tolerance": func(k *proofKit) { k.checker.Tolerance = -1 },
		"negative age":       func(k *proofKit) { k.checker.MaxAge = -1 },
		"nonce without any":  func(k *proofKit) { k.request.RequireNonce = true },
	} {
		t.Run(name, func(t *testing.T) {
			k := newProofKit(t)
			edit(k)
			_, err := k.check(t, k.proof(t))
			if _, refused := errors.AsType[*ProofError](err); err == nil || refused {
				t.Errorf("got %v", err)
			}
			if _, err := k.checker.Explain(t.Context(), k.request); err == nil {
				t.Error("Explain has no error")
			}
		})
	}
}

func TestExplainUsesUpOnlyWhatPasses(t *testing.T) {
	k := newProofKit(t)
	proof := k.proof(t)
	k.refuse(t, "htm", k.proof(t, func(_, c object) { c["htm"] = "GET" }))
	k.request.Headers = []string{proof}
	for i, want := range []Result{Pass, Fail} {
		checks, err := k.checker.Explain(t.Context(), k.request)
		if err != nil {
			t.Fatal(err)
		}
		if len(checks) != len(proofRules) {
			t.Errorf("%d checks of %d", len(checks), len(proofRules))
		}
		if last := checks[len(checks)-1]; last.Name != "replay" || last.Result != want {
			t.Errorf("time %d: %+v", i, last)
		}
	}
}
