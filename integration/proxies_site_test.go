package integration

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/forwardauth"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// site is a pkid, what it protects, and one program as the proxy before both in both arrangements.
type site struct {
	program *proxyProgram
	server  *pkitest.Server
	proxies map[arrangement]string // their addresses

	shop, shop2, other *client.Identity // shop and shop2 are one client with two certificates
	app                *client.ClientRecord

	stopVerifyProxy func()
}

func newSite(t *testing.T, p *proxyProgram, path, pkid string) *site {
	t.Helper()
	s := &site{program: p, proxies: map[arrangement]string{}}
	s.server = pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) {
		c.Proxies = config.Proxies{Clients: []string{"proxy"}, Form: string(p.form)}
		c.Verify = []config.ResourceServer{{Audience: apiURL, Scopes: []string{"orders"}, RequireNonce: true}}
	}})
	proxy := s.server.Enrol(t, client.InvitationRequest{ClientID: "proxy", Profile: "server", SANs: []string{"localhost"}})
	shop := client.InvitationRequest{ClientID: "shop", Scopes: []string{"orders", "extra"}, Resources: []string{apiURL}}
	s.shop, s.shop2 = s.server.Enrol(t, shop), s.server.Enrol(t, shop)
	s.other = s.server.Enrol(t, client.InvitationRequest{ClientID: "other", Scopes: []string{"orders"}, Resources: []string{apiURL}})
	app, err := s.server.Operator(t).AddClient(t.Context(), client.ClientRecord{
		ID: "app", Auth: "client_secret_basic", DPoP: true, Scopes: []string{"orders"}, Resources: []string{apiURL},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.app = app

	mtls, err := url.Parse(s.server.URLs.MTLS)
	if err != nil {
		t.Fatal(err)
	}
	at := addresses{pkid: mtls.Host, verify: s.verifyProxy(t, pkid)}
	for _, a := range p.arrangements() {
		at.proxy, at.api = pkitest.FreeAddress(t), serveHandler(t, http.HandlerFunc(trusting))
		if a == passes {
			at.api = serveHandler(t, s.verified(t, proxy))
		}
		s.proxies[a] = at.proxy
		p.start(t, path, p.files[a], proxy, at)
	}
	return s
}

// verified is an API that verifies tokens itself.
func (s *site) verified(t *testing.T, id *client.Identity) http.Handler {
	t.Helper()
	proxies, err := tokenbind.NewProxies(tokenbind.ProxiesConfig{Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Form: s.program.form})
	if err != nil {
		t.Fatal(err)
	}
	issuers, err := id.API().Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checker, err := crl.NewChecker(crl.CheckerConfig{Issuers: issuers, Logger: pkitest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = checker.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	v, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer: s.server.URLs.Public, Audience: apiURL, HTTPClient: id.HTTPClient(), RequiredScopes: []string{"orders"},
		RequireNonce: true, Revocation: checker, Proxies: proxies, Logger: pkitest.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return v.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := tokenbind.ClaimsFrom(r.Context())
		fmt.Fprintf(w, "client %s\n", claims.ClientID)
	}))
}

// trusting is an API that knows nothing of tokens, and takes underscores for hyphens as CGI and WSGI do.
func trusting(w http.ResponseWriter, r *http.Request) {
	for name, values := range r.Header {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), forwardauth.HeaderClientID) {
			fmt.Fprintf(w, "client %s\n", strings.Join(values, " and "))
		}
	}
}

// verifyProxy runs `pkid verify-proxy` until the test ends or stops it, and returns its address.
func (s *site) verifyProxy(t *testing.T, pkid string) string {
	t.Helper()
	listen, ops := pkitest.FreeAddress(t), pkitest.FreeAddress(t)
	cmd := exec.CommandContext(t.Context(), pkid, "verify-proxy", "--issuer", s.server.URLs.Public, "--root", filepath.Join(s.shop.Dir(), "root.crt"),
		"--audience", apiURL, "--name", "orders", "--scope", "orders", "--require-nonce", "--proxy-form", string(s.program.form), "--listen", listen, "--ops", ops)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.stopVerifyProxy = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // that it was killed
	}
	t.Cleanup(s.stopVerifyProxy)
	pkitest.Eventually(t, 15*time.Second, func() error {
		res, err := http.Get("http://" + ops + "/readyz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", res.Status, pkitest.ReadAll(t, res.Body))
		}
		return nil
	})
	return listen
}

// serveHandler serves without TLS until the test ends, and returns the address.
func serveHandler(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		_ = srv.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

// dialer connects to one address, whatever is asked for.
func dialer(address string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
}

type boundClaims struct {
	Confirmation struct {
		X5T string `json:"x5t#S256"`
	} `json:"cnf"`
}

// tokenClaims reads the token in a token endpoint's answer, without checking it.
func tokenClaims(t *testing.T, body string) (c boundClaims) {
	t.Helper()
	var token client.Token
	if err := json.Unmarshal([]byte(body), &token); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token.AccessToken, ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// matrix is the table: the statuses that were seen.
type matrix struct {
	mu   sync.Mutex // guards seen
	seen map[string]int
}

func newMatrix() *matrix { return &matrix{seen: map[string]int{}} }

func column(program string, a arrangement) string { return program + " " + string(a) }

func (m *matrix) set(row, program string, a arrangement, status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[row+"|"+column(program, a)] = status
}

// complete reports whether each program that Debian has was run.
func (m *matrix) complete() bool {
	return !slices.ContainsFunc(proxyPrograms, func(p proxyProgram) bool { return !p.unpackaged && !m.has(p) })
}

// has reports whether all cells of a program are filled.
func (m *matrix) has(p proxyProgram) bool {
	for _, c := range matrixCases {
		for _, a := range p.arrangements() {
			if _, ran := m.seen[c.name+"|"+column(p.name, a)]; !ran && (c.only == "" || c.only == a) {
				return false
			}
		}
	}
	return true
}

// table is what was seen of some programs, in Markdown.
func (m *matrix) table(programs []proxyProgram) string {
	var b strings.Builder
	b.WriteString("| what the client does |")
	rule := "| --- |"
	for _, p := range programs {
		for _, a := range p.arrangements() {
			b.WriteString(" " + column(p.name, a) + " |")
			rule += " --- |"
		}
	}
	b.WriteString("\n" + rule + "\n")
	for _, c := range matrixCases {
		b.WriteString("| " + c.name + " |")
		for _, p := range programs {
			for _, a := range p.arrangements() {
				if status, ran := m.seen[c.name+"|"+column(p.name, a)]; ran {
					fmt.Fprintf(&b, " %d |", status)
				} else {
					b.WriteString(" |")
				}
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
