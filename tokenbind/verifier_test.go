package tokenbind

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// invalid is the status of most refusals.
const invalid = http.StatusUnauthorized

func TestVerifyBothKinds(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	claims := accepts(t, v, k.request("Bearer "+k.certToken(t), k.cert.Leaf))
	if claims.Subject != "alice" || claims.ClientID != "app" || claims.ID != "t-1" || claims.Issuer != testIssuer ||
		!slices.Equal(claims.Audience, []string{testAudience}) || !slices.Equal(claims.Scope, []string{"read", "write"}) ||
		!claims.ExpiresAt.Equal(testStart.Add(time.Hour)) || !claims.IssuedAt.Equal(testStart) || claims.Raw["sub"] != "alice" ||
		claims.Confirmation != (Confirmation{Cert: k.x5t}) {
		t.Errorf("got %+v", claims)
	}
	claims = accepts(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}))
	if claims.Confirmation != (Confirmation{Key: k.proofs.Key()}) {
		t.Errorf("got %+v", claims)
	}
}

func TestB02_CertificateMatchesConfirmation(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	accepts(t, v, k.request("Bearer "+k.certToken(t), k.cert.Leaf))
	other := newCertificate(t, "client", testStart.Add(-time.Hour), testStart.Add(time.Hour)) // of the same name
	refuses(t, v, k.request("Bearer "+k.certToken(t), other.Leaf), invalid, CodeInvalidToken, "certificate")
	refuses(t, v, k.request("Bearer "+k.certToken(t), other.Leaf, k.cert.Leaf), invalid, CodeInvalidToken, "certificate") // the leaf alone counts
}

func TestB03_MismatchIsInvalidToken(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	other := newCertificate(t, "other", testStart.Add(-time.Hour), testStart.Add(time.Hour))
	resp := serve(v, k.request("Bearer "+k.certToken(t), other.Leaf))
	challenge := challenges(resp)["Bearer"]
	if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(challenge, `error="invalid_token"`) {
		t.Errorf("%d, %s", resp.StatusCode, challenge)
	}
	for _, side := range []string{k.x5t.String(), thumbprint.OfCertificate(other.Leaf).String()} {
		if !strings.Contains(challenge, side) {
			t.Errorf("%s lacks %s", challenge, side)
		}
	}
}

func TestB06_BoundTokenNeedsItsCertificate(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	refuses(t, v, k.request("Bearer "+k.certToken(t)), invalid, CodeInvalidToken, "certificate")
	plain := k.request("Bearer " + k.certToken(t))
	plain.TLS = nil
	refuses(t, v, plain, invalid, CodeInvalidToken, "certificate")
	sameClient := newCertificate(t, "client", testStart.Add(-time.Hour), testStart.Add(time.Hour))
	refuses(t, v, k.request("Bearer "+k.certToken(t), sameClient.Leaf), invalid, CodeInvalidToken, "certificate")
	refuses(t, v, k.request("Bearer "+k.token(t, nil), k.cert.Leaf), invalid, CodeInvalidToken, "binding")
	bearer := k.verifier(t, func(c *Config) { c.AllowBearer = true })
	accepts(t, bearer, k.request("Bearer "+k.token(t, nil)))
	refuses(t, bearer, k.request("Bearer "+k.certToken(t)), invalid, CodeInvalidToken, "certificate")
}

func TestB07_UnknownConfirmation(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.AllowBearer = true })
	for name, cnf := range map[string]any{
		"unknown":        object{"x5t#S512": "abc"},
		"jwk":            object{"jwk": object{"kty": "EC"}},
		"other case":     object{"JKT": k.proofs.Key().String(), "X5T#S256": k.x5t.String()},
		"empty":          object{},
		"text":           k.x5t.String(),
		"list":           []string{k.x5t.String()},
		"true":           true,
		"zero cert":      object{"x5t#S256": thumbprint.Cert{}.String()},
		"zero key aside": object{"x5t#S256": k.x5t.String(), "jkt": thumbprint.Key{}.String()},
	} {
		t.Run(name, func(t *testing.T) {
			refuses(t, v, k.request("Bearer "+k.token(t, cnf), k.cert.Leaf), invalid, CodeInvalidToken, "cnf")
		})
	}
	t.Run("null", func(t *testing.T) {
		token := k.token(t, nil, func(_, c object) { c["cnf"] = nil })
		refuses(t, v, k.request("Bearer "+token), invalid, CodeInvalidToken, "cnf")
	})
	t.Run("unknown beside known", func(t *testing.T) {
		accepts(t, v, k.request("Bearer "+k.token(t, object{"x5t#S256": k.x5t.String(), "new": 1}), k.cert.Leaf))
	})
}

func TestB08_BothMustHold(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	token := k.token(t, object{"x5t#S256": k.x5t.String(), "jkt": k.proofs.Key().String()})
	with := func(certs ...*x509.Certificate) *http.Request {
		r := k.dpopRequest(t, token, ProofOptions{})
		r.TLS.PeerCertificates = certs
		return r
	}
	accepts(t, v, with(k.cert.Leaf))
	refuses(t, v, with(), invalid, CodeInvalidToken, "certificate")
	noProof := with(k.cert.Leaf)
	noProof.Header.Del("DPoP")
	refuses(t, v, noProof, invalid, CodeInvalidProof, "one proof")
	refuses(t, v, k.request("Bearer "+token, k.cert.Leaf), invalid, CodeInvalidToken, "binding")
}

func TestB09_OtherSpellingsRefused(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	for name, text := range map[string]any{
		"padded":   k.x5t.String() + "=",
		"standard": base64.StdEncoding.EncodeToString(k.x5t[:]),
		"hex":      fmt.Sprintf("%x", k.x5t[:]),
		"short":    k.x5t.String()[1:],
		"break":    k.x5t.String() + "\n",
		"number":   7,
		"null":     nil,
		"list":     []string{k.x5t.String()},
	} {
		t.Run(name, func(t *testing.T) {
			refuses(t, v, k.request("Bearer "+k.token(t, object{"x5t#S256": text}), k.cert.Leaf), invalid, CodeInvalidToken, "cnf")
			refuses(t, v, k.dpopRequest(t, k.token(t, object{"jkt": text}), ProofOptions{}), invalid, CodeInvalidToken, "cnf")
		})
	}
}

func TestCertificateValidity(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	old := newCertificate(t, "client", testStart.Add(-2*time.Hour), testStart.Add(-time.Second))
	early := newCertificate(t, "client", testStart.Add(time.Minute), testStart.Add(time.Hour))
	for _, c := range []*x509.Certificate{old.Leaf, early.Leaf} {
		token := k.token(t, object{"x5t#S256": thumbprint.OfCertificate(c).String()})
		refuses(t, v, k.request("Bearer "+token, c), invalid, CodeInvalidToken, "certificate validity")
	}
}

// revoked is a Revocation that tests switch.
type revoked struct{ err atomic.Pointer[error] }

func (r *revoked) Check(context.Context, *x509.Certificate) error {
	if err := r.err.Load(); err != nil {
		return *err
	}
	return nil
}

func TestH92_RevocationStatus(t *testing.T) {
	k := newResourceKit(t)
	var list revoked
	v := k.verifier(t, func(c *Config) { c.Revocation = &list })
	accepts(t, v, k.request("Bearer "+k.certToken(t), k.cert.Leaf))
	gone := errors.New("revoked: keyCompromise")
	list.err.Store(&gone)
	refused := refuses(t, v, k.request("Bearer "+k.certToken(t), k.cert.Leaf), invalid, CodeInvalidToken, "certificate revocation")
	if !errors.Is(refused, gone) {
		t.Errorf("got %v", refused)
	}
	accepts(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{})) // no certificate, nothing to check
}

func TestA30_ForwardedCertificateRefused(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	for _, name := range []string{
		"Client-Cert", "client-cert-chain", "X-Forwarded-Client-Cert", "X-SSL-Client-Cert", "X-Client-Cert", "Ssl-Client-Cert",
		"X-Forwarded-Tls-Client-Cert", "X-ARR-ClientCert",
	} {
		r := k.request("Bearer "+k.certToken(t), k.cert.Leaf)
		r.Header.Set(name, "") // absent is not empty
		refuses(t, v, r, http.StatusBadRequest, CodeInvalidRequest, "forwarded certificate")
		if seen, found := ForwardedCertificate(r.Header); !found || !strings.EqualFold(seen, name) {
			t.Errorf("ForwardedCertificate: %q, %v", seen, found)
		}
	}
	if name, found := ForwardedCertificate(http.Header{"Accept": {"x"}}); found {
		t.Errorf("ForwardedCertificate: %q", name)
	}
}

func TestD14_HeaderNameCase(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	r := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	proof := r.Header.Get("DPoP")
	r.Header.Del("DPoP")
	r.Header.Set("dpop", strings.ToUpper(proof)) // the value has a case
	refuses(t, v, r, invalid, CodeInvalidProof, "form")
	r.Header.Set("dPOP", proof)
	accepts(t, v, r)
}

func TestE27_AtTheResourceServer(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	r := k.dpopRequest(t, k.dpopToken(t), ProofOptions{})
	var ok, replayed atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			switch resp := serve(v, r.Clone(t.Context())); {
			case resp.StatusCode == http.StatusOK:
				ok.Add(1)
			case strings.Contains(challenges(resp)["DPoP"], `error="invalid_dpop_proof"`):
				replayed.Add(1)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 1 || replayed.Load() != 49 {
		t.Errorf("%d accepted, %d refused as replayed", ok.Load(), replayed.Load())
	}
	otherNode := k.verifier(t) // shares the Replay
	refuses(t, otherNode, r, invalid, CodeInvalidProof, "replay")
	for n := range 120_000 {
		if err := k.conf.Replay.Use(t.Context(), replayKey(n), testStart.Add(90*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	refuses(t, v, r, invalid, CodeInvalidProof, "replay")
}

// Without a shared Replay nothing is known of what an earlier process accepted, by a fast client's clock too.
func TestE27_AcrossARestart(t *testing.T) {
	for _, ahead := range []time.Duration{0, 5 * time.Second, 10 * time.Second} {
		k := newResourceKit(t)
		alone := func(c *Config) { c.Replay = nil }
		v := k.verifier(t, alone)
		k.clock.Add(time.Hour)
		r := k.dpopRequest(t, k.dpopToken(t), ProofOptions{Now: k.clock.Now().Add(ahead)})
		accepts(t, v, r)

		k.clock.Add(time.Second)
		v = k.verifier(t, alone)
		for range 30 {
			refused := refuses(t, v, r, invalid, CodeUseNonce, "restart")
			if refused.Nonce == "" {
				t.Fatal("no nonce")
			}
			accepts(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: refused.Nonce})) // one more try is enough
			k.clock.Add(time.Second)
		}
		accepts(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}))
	}
}

func TestRestartAndNonce(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.Replay, c.RequireNonce = nil, true })
	slow := func(nonce string) *http.Request { // by a client whose clock is a minute behind
		return k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: nonce, Now: k.clock.Now().Add(-time.Minute)})
	}
	for range 40 { // during the start and after it: the nonce that is handed out always lets in
		refused := refuses(t, v, slow(""), invalid, CodeUseNonce, "nonce")
		accepts(t, v, slow(refused.Nonce))
		k.clock.Add(5 * time.Second)
	}
}

// In a server that demands nonces, those of its start end like all others.
func TestStartNonceEndsLikeOthers(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.Replay, c.RequireNonce = nil, true })
	nonce := serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{})).Header.Get("DPoP-Nonce")
	k.clock.Add(2 * nonceLifetime)
	refused := refuses(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: nonce}), invalid, CodeUseNonce, "nonce")
	accepts(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: refused.Nonce}))
}

// Where none is demanded, a client that kept one from the start is not bothered for it every other minute.
func TestStartNonceThatNobodyAskedFor(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.Replay = nil })
	nonce := serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{})).Header.Get("DPoP-Nonce")
	k.clock.Add(startNonceLifetime - time.Second)
	accepts(t, v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{Nonce: nonce}))
}

func TestMaxProofs(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.Replay, c.MaxProofs = nil, 2 })
	k.clock.Add(time.Minute)
	for _, want := range []int{http.StatusOK, http.StatusOK, http.StatusServiceUnavailable} {
		if resp := serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{})); resp.StatusCode != want {
			t.Errorf("%d, want %d", resp.StatusCode, want)
		}
	}
}

func TestReplayUnavailable(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.Replay = keeping{NewMemoryReplay(0, k.clock.Now)} })
	resp := serve(v, k.dpopRequest(t, k.dpopToken(t), ProofOptions{}))
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("WWW-Authenticate") != "" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d, %v", resp.StatusCode, resp.Header)
	}
}

func TestRefuseUnknownError(t *testing.T) {
	k := newResourceKit(t)
	w := httptest.NewRecorder()
	k.verifier(t).Refuse(w, k.request(""), errors.New("database password is hunter2"))
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("%d, %s", w.Code, w.Body)
	}
}

func TestDescriptionIsSafe(t *testing.T) {
	k := newResourceKit(t)
	token := k.token(t, nil, func(_, c object) { c["iss"] = "\", evil=\"\r\nSet-Cookie: a=b \\ é" + strings.Repeat("x", 5000) })
	refused := refuses(t, k.verifier(t), k.request("Bearer "+token), invalid, CodeInvalidToken, "token iss")
	for _, c := range refused.Description {
		if c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			t.Errorf("%q in %s", c, refused.Description)
		}
	}
	if len(refused.Description) > 600 || strings.Contains(refused.Description, token) {
		t.Errorf("%d octets", len(refused.Description))
	}
}

func TestExplainReportsAll(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	names := func(checks []Check) (out []string) {
		for _, c := range checks {
			if c.Section == "" || c.Result == "" {
				t.Errorf("incomplete: %+v", c)
			}
			out = append(out, c.Name)
		}
		return out
	}
	for what, r := range map[string]*http.Request{
		"good":          k.dpopRequest(t, k.dpopToken(t), ProofOptions{}),
		"without proof": k.request("DPoP " + k.dpopToken(t)),
	} {
		all := names(v.Explain(r))
		if want := len(requestRules) + len(proofRules) + len(scopeRules); len(all) != want {
			t.Errorf("%s: %d checks of %d: %v", what, len(all), want, all)
		}
	}
	// Several things wrong at once: each is told.
	token := k.token(t, object{"x5t#S256": k.x5t.String()}, func(h, c object) {
		h["typ"], c["aud"], c["exp"] = "JWT", "elsewhere", testStart.Add(-time.Hour).Unix()
	})
	failed := map[string]Check{}
	for _, c := range v.Explain(k.request("Bearer " + token)) {
		if c.Result == Fail {
			failed[c.Name] = c
		}
	}
	for _, name := range []string{"token typ", "token aud", "token lifetime", "certificate"} {
		if c := failed[name]; c.Wanted == "" {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if len(failed) != 4 {
		t.Errorf("failed: %v", failed)
	}
	if first := firstFailure(v.Explain(k.request(""))); first.Name != "authorization" {
		t.Errorf("got %+v", first)
	}
}

func TestClaimsFrom(t *testing.T) {
	k := newResourceKit(t)
	var got *Claims
	h := k.verifier(t).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got, _ = ClaimsFrom(r.Context()) }))
	h.ServeHTTP(httptest.NewRecorder(), k.request("Bearer "+k.certToken(t), k.cert.Leaf))
	if got == nil || got.Subject != "alice" {
		t.Errorf("got %+v", got)
	}
	if c, ok := ClaimsFrom(t.Context()); ok || c != nil {
		t.Errorf("got %+v from an empty context", c)
	}
}

// What was accepted is refused once it ends, without another proof.
func TestStands(t *testing.T) {
	k := newResourceKit(t)
	status := &revoked{}
	v := k.verifier(t, func(c *Config) { c.Revocation = status })
	for name, r := range map[string]*http.Request{
		"certificate": k.request("Bearer "+k.certToken(t), k.cert.Leaf),
		"DPoP":        k.dpopRequest(t, k.dpopToken(t), ProofOptions{}),
	} {
		claims := accepts(t, v, r)
		for range 2 {
			if err := v.Stands(r, claims); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		other := k.request("", newCertificate(t, "other", testStart, testStart.Add(time.Hour)).Leaf)
		if err := v.Stands(other, claims); name == "certificate" && err == nil {
			t.Error("another certificate stands")
		}
		k.clock.Add(2 * time.Hour)
		e, ok := errors.AsType[*Error](v.Stands(r, claims))
		if !ok || e.Check != "token lifetime" || e.Status != http.StatusUnauthorized {
			t.Errorf("%s: %+v", name, e)
		}
		k.clock.Add(-2 * time.Hour)
	}
	r := k.request("Bearer "+k.certToken(t), k.cert.Leaf)
	claims := accepts(t, v, r)
	gone := errors.New("revoked a moment ago")
	status.err.Store(&gone)
	if e, ok := errors.AsType[*Error](v.Stands(r, claims)); !ok || e.Check != "certificate revocation" {
		t.Errorf("%+v", e)
	}
}
