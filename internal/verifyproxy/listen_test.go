package verifyproxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/admission"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/revocation"
	"github.com/pkid/pkid/tokenbind"
)

// TestInvariant10_ConnectionsAreBounded: at each address of HTTP, as the daemon's are; one address may have a share of them,
// unless it is a proxy's.
func TestInvariant10_ConnectionsAreBounded(t *testing.T) {
	p := &Proxy{log: slog.New(slog.DiscardHandler)}
	p.c.complete()
	var err error
	if p.proxies, err = newProxies(p.c.Proxies, nil); err != nil {
		t.Fatal(err)
	}
	l, err := p.bind(t.Context(), "listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bounded, ok := l.(*admission.Listener)
	if !ok {
		t.Fatalf("%T", l)
	}
	if !bounded.Proxy(netip.MustParseAddr("127.0.0.9")) || bounded.Proxy(netip.MustParseAddr("192.0.2.1")) {
		t.Error("not the proxies that are trusted")
	}
	// What ends a wait for room is that a connection was heard to have a request.
	there, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := bounded.Counts(); n.Open != 1 || n.New != 1 {
		t.Errorf("%+v", n)
	}
	p.server(http.NotFoundHandler()).ConnState(c, http.StateActive)
	if n := bounded.Counts(); n.Open != 1 || n.New != 0 {
		t.Errorf("%+v", n)
	}
}

// revoked is the status of all certificates.
type revoked struct{ err error }

func (r revoked) Check(context.Context, *x509.Certificate) error { return r.err }

// TestInvariant9_NotRevoked: who has the name is a proxy while the certificate is known to be good, and nobody can tell while
// that is not known. The certificates of others are not asked for.
func TestInvariant9_NotRevoked(t *testing.T) {
	away := fmt.Errorf("%w: the CA was not reached yet", tokenbind.ErrUnavailable)
	for name, tt := range map[string]struct {
		named    bool
		of       error
		status   error
		want     bool
		wantsErr error
	}{
		"good":          {true, nil, nil, true, nil},
		"another name":  {false, nil, away, false, nil},
		"revoked":       {true, nil, errors.New("certificate is revoked"), false, nil},
		"not known yet": {true, nil, away, false, tokenbind.ErrUnavailable},
		"no telling":    {true, away, nil, false, tokenbind.ErrUnavailable},
	} {
		is := func(context.Context, []*x509.Certificate) (bool, error) { return tt.named, tt.of }
		got, err := notRevoked(is, revoked{tt.status})(t.Context(), []*x509.Certificate{{}})
		if got != tt.want || !errors.Is(err, tt.wantsErr) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// authority makes the certificate of a CA.
func authority(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), BasicConstraintsValid: true, IsCA: true, SubjectKeyId: []byte{1}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestInvariant8_NothingIsKnownAtFirst: without the CA's issuers, and then without the stream, nobody is known to be good, and
// the process says that it is not ready.
func TestInvariant8_NothingIsKnownAtFirst(t *testing.T) {
	s := &status{issuer: "https://pki.example"}
	if err := s.ready(); !errors.Is(err, errNoIssuers) {
		t.Error(err)
	}
	unknown := func() {
		t.Helper()
		if err := s.CheckToken(t.Context(), &tokenbind.Claims{ID: "a"}); !errors.Is(err, tokenbind.ErrUnavailable) {
			t.Error(err)
		}
	}
	unknown()
	if err := s.Check(t.Context(), authority(t)); !errors.Is(err, tokenbind.ErrUnavailable) {
		t.Error(err)
	}
	checker, err := crl.NewChecker(crl.CheckerConfig{Issuers: []*x509.Certificate{authority(t)}})
	if err != nil {
		t.Fatal(err)
	}
	follower, err := revocation.New(revocation.Config{Issuer: s.issuer, Checker: checker})
	if err != nil {
		t.Fatal(err)
	}
	s.known.Store(&knowledge{checker, follower})
	if err := s.ready(); !errors.Is(err, revocation.ErrNotReady) {
		t.Error(err)
	}
	unknown()
}

// TestH101_Profile: under FAPI 2.0 the algorithms are its own, for each resource server.
func TestH101_Profile(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority(t).Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for profile, want := range map[string]bool{"": true, config.ProfileFAPI2: false} {
		p, err := New(Config{
			Issuer: "https://pki.example", Root: root, Profile: profile,
			Servers: []config.ResourceServer{{Name: "a", Audience: "https://a.example"}, {Name: "b", Audience: "https://b.example"}},
		}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/verify/"+name, nil)
			r.RemoteAddr = "127.0.0.1:4000"
			r.Header = http.Header{"X-Forwarded-Method": {"GET"}, "X-Forwarded-Uri": {"/"}}
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			if c := w.Header().Get("WWW-Authenticate"); w.Code != http.StatusUnauthorized || strings.Contains(c, "ES512") != want {
				t.Errorf("profile %q: %d %s", profile, w.Code, c)
			}
		}
	}
}
