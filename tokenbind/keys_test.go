package tokenbind

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/jws"
)

func TestParseJWKS(t *testing.T) {
	good := jwkOf(t, ecKeyFor(t).Public())
	with := func(edit object) object {
		out := maps.Clone(good)
		maps.Copy(out, edit)
		return out
	}
	set := object{"keys": []any{
		with(object{"kid": "a", "alg": "ES256", "use": "sig"}),
		with(object{"kid": "enc", "use": "enc"}),
		with(object{"kid": "private", "d": "AAAA"}),
		with(object{"kid": 7}),
		with(object{"kid": "off the curve", "x": b64(make([]byte, 32))}),
		object{"kty": "oct", "k": "AAAA"},
		object{"kty": "new"},
		"text", nil,
		jwkOf(t, testRSA().Public()),
	}}
	keys, err := ParseJWKS(jsonText(t, set))
	if err != nil || len(keys) != 2 || keys[0].ID != "a" || keys[0].Algorithm != "ES256" || keys[0].Use != "sig" || keys[1].ID != "" {
		t.Errorf("got %+v, %v", keys, err)
	}
	many := make([]object, maxKeys+1)
	for i := range many {
		many[i] = good
	}
	for name, bad := range map[string]string{
		"empty":     ``,
		"list":      `[]`,
		"no keys":   `{}`,
		"none left": `{"keys":[{"kty":"oct","k":"AAAA"}]}`,
		"twice":     `{"keys":[],"keys":[]}`,
		"too many":  string(jsonText(t, object{"keys": many})),
	} {
		if keys, err := ParseJWKS([]byte(bad)); err == nil {
			t.Errorf("%s: %v", name, keys)
		}
	}
}

func TestH109_DuplicateKID(t *testing.T) {
	k := newResourceKit(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := func(pub crypto.PublicKey, alg, use string) VerificationKey {
		return VerificationKey{ID: "k1", Algorithm: alg, Use: use, Key: pub}
	}
	right := key(k.issuer.Public(), "", "")
	for name, keys := range map[string]StaticKeys{
		"by type":       {key(testRSA().Public(), "", ""), key(p384.Public(), "", ""), right},
		"by algorithm":  {key(ecKeyFor(t).Public(), "ES384", ""), right},
		"by use":        {key(ecKeyFor(t).Public(), "", "enc"), right},
		"by signature":  {key(ecKeyFor(t).Public(), "ES256", "sig"), right},
		"one of no kid": {{Key: k.issuer.Public()}},
	} {
		t.Run(name, func(t *testing.T) {
			v := k.verifier(t, func(c *Config) { c.Keys = keys })
			accepts(t, v, k.request("Bearer "+k.certToken(t), k.cert.Leaf))
		})
	}
	for name, keys := range map[string]StaticKeys{
		"for encryption":    {key(k.issuer.Public(), "", "enc")},
		"another algorithm": {key(k.issuer.Public(), "ES384", "")},
		"another kid":       {{ID: "k2", Key: k.issuer.Public()}},
	} {
		t.Run(name, func(t *testing.T) {
			v := k.verifier(t, func(c *Config) { c.Keys = keys })
			refuses(t, v, k.request("Bearer "+k.certToken(t), k.cert.Leaf), invalid, CodeInvalidToken, "token signature")
		})
	}
}

func TestH103_SmallRSAKey(t *testing.T) {
	if err := jws.KeyFits("PS256", &testRSA().PublicKey); err != nil {
		t.Error(err)
	}
	n := make([]byte, 255) // 2040 bits
	n[0], n[254] = 255, 1
	key, err := jws.PublicKey(object{"kty": "RSA", "n": b64(n), "e": "AQAB"})
	if err != nil {
		t.Fatal(err)
	}
	if err := jws.KeyFits("PS256", key); err == nil {
		t.Error("2040 bits are taken")
	}
}

// issuerServer publishes metadata and keys, and can be made to fail.
type issuerServer struct {
	*httptest.Server
	fetches atomic.Int32 // of the keys

	mu       sync.Mutex // guards all below
	keys     []object
	metadata object // merged over what is right
	header   http.Header
	fail     bool
	hang     chan struct{} // nothing is answered until it is closed
}

func newIssuerServer(t *testing.T, path string, keys ...object) *issuerServer {
	t.Helper()
	s := &issuerServer{keys: keys, header: http.Header{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/oauth-authorization-server"+path, func(w http.ResponseWriter, _ *http.Request) {
		doc := object{"issuer": s.URL + path, "jwks_uri": s.URL + "/keys"}
		s.mu.Lock()
		defer s.mu.Unlock()
		maps.Copy(doc, s.metadata)
		_ = json.NewEncoder(w).Encode(doc)
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		if hang := s.hang; hang != nil {
			s.mu.Unlock()
			<-hang
			s.mu.Lock()
		}
		if s.fail {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		maps.Copy(w.Header(), s.header)
		_ = json.NewEncoder(w).Encode(object{"keys": s.keys})
	})
	mux.HandleFunc("GET /moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusFound) })
	mux.HandleFunc("GET /huge", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxDocument+1)) })
	s.Server = httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *issuerServer) set(change func(*issuerServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func kidJWK(t *testing.T, kid string, pub crypto.PublicKey) object {
	jwk := jwkOf(t, pub)
	jwk["kid"], jwk["use"], jwk["alg"] = kid, "sig", "ES256"
	return jwk
}

// remoteKit is a verifier that fetches its keys.
func remoteKit(t *testing.T, path string) (*resourceKit, *issuerServer, *Verifier, func() *http.Request) {
	t.Helper()
	k := newResourceKit(t)
	s := newIssuerServer(t, path, kidJWK(t, "k1", k.issuer.Public()))
	v := k.verifier(t, func(c *Config) { c.Keys, c.Issuer, c.HTTPClient = nil, s.URL+path, s.Client() })
	request := func() *http.Request {
		token := k.token(t, object{"x5t#S256": k.x5t.String()}, func(_, c object) { c["iss"] = s.URL + path })
		return k.request("Bearer "+token, k.cert.Leaf)
	}
	return k, s, v, request
}

func TestRemoteKeys(t *testing.T) {
	for _, path := range []string{"", "/tenant/1"} { // RFC 8414 section 3.1
		_, s, v, request := remoteKit(t, path)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := v.Verify(request()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := s.fetches.Load(); n != 1 {
			t.Errorf("%d fetches for 20 requests at once", n)
		}
	}
}

func TestRemoteKeysRotate(t *testing.T) {
	k, s, v, request := remoteKit(t, "")
	accepts(t, v, request())
	k.issuer = ecKeyFor(t)
	s.set(func(s *issuerServer) { s.keys = []object{kidJWK(t, "k2", k.issuer.Public())} })
	rotated := func() *http.Request {
		token := k.token(t, object{"x5t#S256": k.x5t.String()}, func(h, c object) { h["kid"], c["iss"] = "k2", s.URL })
		return k.request("Bearer "+token, k.cert.Leaf)
	}
	k.clock.Add(minRefetch)
	accepts(t, v, rotated()) // at once, because its kid was not known
	if n := s.fetches.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
	for i := range 50 { // invented kids do not make us fetch
		token := k.token(t, nil, func(h, c object) { h["kid"], c["iss"] = fmt.Sprint(i), s.URL })
		if _, err := v.Verify(k.request("Bearer " + token)); err == nil {
			t.Fatal("taken")
		}
	}
	if n := s.fetches.Load(); n != 2 {
		t.Errorf("%d fetches after invented kids", n)
	}
	k.clock.Add(minRefetch)
	refuses(t, v, request(), invalid, CodeInvalidToken, "token signature") // k1 is gone
}

func TestRemoteKeysRefreshInTheBackground(t *testing.T) {
	k, s, v, request := remoteKit(t, "")
	s.set(func(s *issuerServer) { s.header.Set("Cache-Control", "public, max-age=120") })
	accepts(t, v, request())
	k.clock.Add(119 * time.Second)
	accepts(t, v, request())
	if n := s.fetches.Load(); n != 1 {
		t.Errorf("%d fetches of fresh keys", n)
	}
	k.clock.Add(2 * time.Second)
	accepts(t, v, request())
	waitFor(t, func() bool { return s.fetches.Load() == 2 })
}

func TestRemoteKeysIssuerAway(t *testing.T) {
	k, s, v, request := remoteKit(t, "")
	s.set(func(s *issuerServer) { s.fail = true })
	refused := refuses(t, v, request(), http.StatusServiceUnavailable, codeUnavailable, "token signature")
	if refused.Unwrap() == nil || strings.Contains(refused.Description, "502") {
		t.Errorf("got %v, %v", refused, refused.Unwrap())
	}
	k.clock.Add(minRefetch)
	s.set(func(s *issuerServer) { s.fail = false })
	accepts(t, v, request())
	s.set(func(s *issuerServer) { s.fail = true })
	for range 5 {
		k.clock.Add(5 * time.Minute)
		accepts(t, v, request()) // with what was fetched before
	}
}

// hangs makes the issuer take requests and never answer, until the test ends or what it returns is called.
func (s *issuerServer) hangs(t *testing.T) (answer func()) {
	t.Helper()
	hang := make(chan struct{})
	s.set(func(s *issuerServer) { s.hang = hang })
	answer = sync.OnceFunc(func() {
		s.set(func(s *issuerServer) { s.hang = nil })
		close(hang)
	})
	t.Cleanup(answer)
	return answer
}

// An issuer that takes connections and never answers is the worst of outages: what is known must work on.
func TestRemoteKeysIssuerHangs(t *testing.T) {
	k, s, v, request := remoteKit(t, "")
	accepts(t, v, request())
	answer := s.hangs(t)
	took := func(f func()) time.Duration {
		start := time.Now()
		f()
		return time.Since(start)
	}
	k.clock.Add(defaultMaxAge + time.Minute)
	if d := took(func() { accepts(t, v, request()) }); d > patience/2 {
		t.Errorf("a request with stale keys waited %v", d)
	}
	k.clock.Add(defaultMaxAge)
	if d := took(func() { accepts(t, v, request()) }); d < patience/2 || d > 2*patience {
		t.Errorf("the first request with keys that may have been withdrawn waited %v, want %v", d, patience)
	}
	for range 3 {
		k.clock.Add(time.Minute)
		if d := took(func() { accepts(t, v, request()) }); d > patience/2 {
			t.Errorf("another one in the same outage waited %v", d)
		}
	}
	unknown := k.token(t, object{"x5t#S256": k.x5t.String()}, func(h, c object) { h["kid"], c["iss"] = "k9", s.URL })
	d := took(func() {
		_, err := v.Verify(k.request("Bearer "+unknown, k.cert.Leaf))
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusServiceUnavailable {
			t.Errorf("a key that may be a new one: %v, want 503", err)
		}
	})
	if d > 2*patience {
		t.Errorf("a request with an unknown key waited %v", d)
	}
	if n := s.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want the first and one that hangs", n)
	}
	answer()
	waitFor(t, func() bool { // now it is certain
		_, err := v.Verify(k.request("Bearer "+unknown, k.cert.Leaf))
		e, ok := errors.AsType[*Error](err)
		return ok && e.Status == http.StatusUnauthorized
	})
}

// Keys that were withdrawn while nobody asked are not taken for one request more.
func TestRemoteKeysWithdrawnInTheMeantime(t *testing.T) {
	k, s, v, request := remoteKit(t, "")
	accepts(t, v, request())
	s.set(func(s *issuerServer) { s.keys = []object{kidJWK(t, "k2", ecKeyFor(t).Public())} })
	k.clock.Add(2*defaultMaxAge + time.Second)
	_, err := v.Verify(request())
	if e, ok := errors.AsType[*Error](err); !ok || e.Check != "token signature" || e.Status != http.StatusUnauthorized {
		t.Errorf("got %v", err)
	}
}

// Whoever forgot that pkid's root is a private one finds it in the log, also without a Logger.
func TestRemoteKeysUnknownAuthority(t *testing.T) {
	k := newResourceKit(t)
	s := newIssuerServer(t, "", kidJWK(t, "k1", k.issuer.Public()))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	var log lockedBuffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	defer slog.SetDefault(before)
	v := k.verifier(t, func(c *Config) { c.Keys, c.Issuer, c.Logger = nil, s.URL, nil })
	token := k.token(t, object{"x5t#S256": k.x5t.String()}, func(_, c object) { c["iss"] = s.URL })
	if _, err := v.Verify(k.request("Bearer "+token, k.cert.Leaf)); err == nil {
		t.Fatal("taken")
	}
	for _, text := range []string{"fetching " + s.URL, "unknown authority", "Config.HTTPClient", "client.Identity.HTTPClient"} {
		if !strings.Contains(log.String(), text) {
			t.Errorf("the log lacks %q: %s", text, log.String())
		}
	}
}

// lockedBuffer is a log that goroutines write to.
type lockedBuffer struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestRemoteKeysRefused(t *testing.T) {
	for name, change := range map[string]func(*issuerServer){
		"another issuer":    func(s *issuerServer) { s.metadata = object{"issuer": "https://evil.example"} },
		"issuer by a slash": func(s *issuerServer) { s.metadata = object{"issuer": s.URL + "/"} },
		"no jwks_uri":       func(s *issuerServer) { s.metadata = object{"jwks_uri": nil} },
		"jwks_uri moved":    func(s *issuerServer) { s.metadata = object{"jwks_uri": s.URL + "/moved"} },
		"huge":              func(s *issuerServer) { s.metadata = object{"jwks_uri": s.URL + "/huge"} },
		"no keys":           func(s *issuerServer) { s.keys = nil },
		"not found":         func(s *issuerServer) { s.metadata = object{"jwks_uri": s.URL + "/nowhere"} },
	} {
		t.Run(name, func(t *testing.T) {
			_, s, v, request := remoteKit(t, "")
			s.set(change)
			refuses(t, v, request(), http.StatusServiceUnavailable, codeUnavailable, "token signature")
		})
	}
}

func TestH106_KeysOverTLSOnly(t *testing.T) {
	k, s, v, request := remoteKit(t, "")
	s.set(func(s *issuerServer) {
		s.metadata = object{"jwks_uri": strings.Replace(s.URL, "https", "http", 1) + "/keys"}
	})
	refuses(t, v, request(), http.StatusServiceUnavailable, codeUnavailable, "token signature")
	if n := s.fetches.Load(); n != 0 {
		t.Errorf("%d fetches", n)
	}
	plain := func(c *Config) { c.Keys, c.Issuer = nil, "http://as.example" }
	k.verifier(t, plain, func(c *Config) { c.InsecureIssuerHTTP = true }) // by its name only
	c := k.conf
	plain(&c)
	if _, err := NewVerifier(c); err == nil {
		t.Error("taken")
	}
}

func TestFreshFor(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"":                        defaultMaxAge,
		"no-store":                defaultMaxAge,
		"public, max-age=300":     5 * time.Minute,
		`Max-Age="300"`:           5 * time.Minute,
		"max-age=0":               minMaxAge,
		"max-age=99999999":        maxMaxAge,
		"max-age=99999999999999":  defaultMaxAge,
		"max-age=-1":              defaultMaxAge,
		"s-maxage=1, max-age=600": 10 * time.Minute,
	} {
		if got := freshFor(http.Header{"Cache-Control": {header}}); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 500 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not happen within 5 s")
}
