package client

import (
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

// A server is believed only with a certificate of the CA for the name that it was asked by (RFC 9525).
func TestH05_ServerCertificateIsChecked(t *testing.T) {
	f, stranger := newFakeAS(t), newFakeAS(t)
	id := f.identity()
	byName := strings.Replace(f.srv.URL, "127.0.0.1", "localhost", 1) // its certificate has the address alone
	for what, issuer := range map[string]string{"another CA": stranger.srv.URL, "another name": byName} {
		_, err := f.source(id, TokenConfig{Issuer: issuer}).Token(t.Context())
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(f.grants)+len(stranger.grants) != 0 {
		t.Error("credentials were sent")
	}
}

func TestH07_SuitesOfTheClient(t *testing.T) {
	f := newFakeAS(t)
	s := f.source(f.identity(), TokenConfig{})
	for suite, ok := range map[uint16]bool{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: true,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:    false,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:    false,
	} {
		srv := f.serve(http.HandlerFunc(f.resource))
		conf := srv.TLS.Clone()
		conf.MaxVersion, conf.CipherSuites = tls.VersionTLS12, []uint16{suite}
		srv.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return conf, nil }
		req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, http.NoBody))
		resp, err := s.Client().Do(req)
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.CipherSuiteName(suite), err)
		}
	}
}

// Both ways to bind tokens, and each token in the Authorization header and nowhere else.
func TestH60H61H62_BoundTokensInTheHeader(t *testing.T) {
	for _, dpop := range []bool{false, true} {
		f := newFakeAS(t)
		c, scheme := TokenConfig{}, "Bearer"
		if dpop {
			f.kind, c.DPoPKey, scheme = "DPoP", must(NewKey("")), "DPoP"
		}
		id := f.identity()
		if status := f.get(f.source(id, c)); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
		shown := thumbprint.OfCertificate(id.Certificate().Leaf)
		if g := f.grants[0]; g.cert != shown || g.form.Has("client_secret") || (g.proof.raw != "") != dpop {
			t.Errorf("the token endpoint got %+v", g)
		}
		if u := f.uses[0]; u.authorization != scheme+" token-1" || u.cert != shown || u.body != "" || (u.proof.Ath != "") != dpop {
			t.Errorf("the resource server got %+v", u)
		}
	}
}

// A server that is never content with a nonce is asked twice and no more; one that is content costs one request once.
func TestG07H67_AtMostOneRequestMore(t *testing.T) {
	f, s := withDPoP(t)
	f.asNonce, f.expires = "as-1", 1
	now := time.Now()
	s.c.Now = func() time.Time { return now }
	for n, grants := range []int{2, 3, 4} { // the nonce is learnt with the first token
		if _, err := s.Token(t.Context()); err != nil || len(f.grants) != grants {
			t.Fatalf("token %d: %v, after %d requests, want %d", n, err, len(f.grants), grants)
		}
		now = now.Add(time.Minute)
	}
	f.grants, f.asNonce = nil, ""
	fickle := f.serve(nil)
	fickle.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			reply(w, 200, map[string]any{"issuer": fickle.URL, "token_endpoint": fickle.URL})
			return
		}
		f.grants = append(f.grants, grant{})
		w.Header().Set("DPoP-Nonce", strings.Repeat("n", len(f.grants)))
		reply(w, 400, TokenError{Code: useNonce})
	})
	_, err := f.source(f.identity(), TokenConfig{Issuer: fickle.URL, DPoPKey: must(NewKey(""))}).Token(t.Context())
	if e, ok := errors.AsType[*TokenError](err); !ok || e.Code != useNonce || len(f.grants) != 2 {
		t.Errorf("%v, after %d requests", err, len(f.grants))
	}
}

// Where to ask is in the metadata, and nowhere else.
func TestH68_EndpointFromTheMetadataAlone(t *testing.T) {
	f := newFakeAS(t)
	elsewhere := f.serve(nil)
	elsewhere.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/oauth-authorization-server":
			reply(w, 200, map[string]any{"issuer": elsewhere.URL, "token_endpoint": elsewhere.URL + "/somewhere/else"})
		case "/somewhere/else":
			f.token(w, r)
		default:
			t.Errorf("asked at %s", r.URL.Path)
		}
	})
	if _, err := f.source(f.identity(), TokenConfig{Issuer: elsewhere.URL}).Token(t.Context()); err != nil || f.grants[0].path != "/somewhere/else" {
		t.Errorf("%v, %+v", err, f.grants)
	}
}

// The issuer is the one that the enrolment token named, whose root has the fingerprint in it.
func TestH69_IssuerFromTheEnrolmentToken(t *testing.T) {
	f, imposter := newFakeAS(t), newFakeAS(t)
	s := f.source(f.identity(), TokenConfig{})
	if s.c.Issuer != f.srv.URL {
		t.Errorf("the issuer is %s", s.c.Issuer)
	}
	token := f.fakeCA.token()
	token.URL = imposter.srv.URL
	if _, err := Enroll(t.Context(), token, EnrollOptions{Dir: t.TempDir()}); !errors.Is(err, ErrFingerprint) {
		t.Errorf("enrolled at an imposter: %v", err)
	}
	for _, issuer := range []string{"http://as.example", "as.example", ""} {
		if _, err := NewTokenSource(TokenConfig{Issuer: issuer, ClientID: "a", Secret: "s"}); err == nil {
			t.Errorf("%q is taken for an issuer", issuer)
		}
	}
}

// A source asks for what it was told to need, and not for all that its client may have.
func TestH72_LeastPrivilege(t *testing.T) {
	f := newFakeAS(t)
	if _, err := f.source(f.identity(), TokenConfig{Scopes: []string{"read"}, Resource: f.rs.URL}).Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	if form := f.grants[0].form; form.Get("scope") != "read" || form.Get("resource") != f.rs.URL {
		t.Errorf("asked for %v", form)
	}
}
