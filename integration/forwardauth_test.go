package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/forwardauth"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

const ordersAPI = "https://orders.example.com"

// checkpoint is where a proxy asks: the daemon, or a process of its own.
type checkpoint struct {
	url    string // with the path
	client *http.Client
}

// ask sends a sub-request for GET /orders/17, with the certificate of id if there is one, and headers in pairs.
func (c checkpoint) ask(t *testing.T, query string, id *client.Identity, headers ...string) *http.Response {
	t.Helper()
	resp, err := c.try(t.Context(), query, id, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func (c checkpoint) try(ctx context.Context, query string, id *client.Identity, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+query, nil)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/orders/17?x=1", "X-Forwarded-Proto": "https",
		"X-Forwarded-Host": "orders.example.com", "X-Forwarded-For": "192.0.2.7",
	} {
		req.Header.Set(name, value)
	}
	if id != nil {
		req.Header.Set("Client-Cert", ":"+base64.StdEncoding.EncodeToString(id.Certificate().Certificate[0])+":")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16))
	return resp, err
}

// guests are clients and their tokens.
type guests struct {
	server                  *pkitest.Server
	gateway, alice, mallory *client.Identity
	mtls, dpop              string
	prover                  *tokenbind.Prover
}

func newGuests(t *testing.T) *guests {
	t.Helper()
	g := &guests{server: pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) {
		c.Proxies = config.Proxies{Clients: []string{"gateway"}, Form: "rfc9440"}
		c.Verify = []config.ResourceServer{{Name: "orders", Audience: ordersAPI}}
	}})}
	enrol := func(id string) *client.Identity {
		return g.server.Enrol(t, client.InvitationRequest{ClientID: id, Scopes: []string{"read"}, Resources: []string{ordersAPI}})
	}
	g.gateway, g.alice, g.mallory = enrol("gateway"), enrol("alice"), enrol("mallory")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if g.prover, err = tokenbind.NewProver(key); err != nil {
		t.Fatal(err)
	}
	app, err := g.server.Operator(t).AddClient(t.Context(), client.ClientRecord{
		ID: "app", Auth: "client_secret_basic", DPoP: true, Scopes: []string{"read"}, Resources: []string{ordersAPI},
	})
	if err != nil {
		t.Fatal(err)
	}
	g.mtls = g.token(t, client.TokenConfig{Identity: g.alice, Resource: ordersAPI})
	g.dpop = g.token(t, client.TokenConfig{
		Issuer: g.server.URLs.Public, ClientID: "app", Secret: app.Secret, DPoPKey: key, Resource: ordersAPI, Roots: g.alice.Roots(),
	})
	return g
}

func (g *guests) token(t *testing.T, c client.TokenConfig) string {
	t.Helper()
	source, err := client.NewTokenSource(c)
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return token.AccessToken
}

func (g *guests) proof(t *testing.T, nonce string) string {
	t.Helper()
	proof, err := g.prover.Proof("GET", ordersAPI+"/orders/17", tokenbind.ProofOptions{AccessToken: g.dpop, Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// proven asks with the DPoP token, a second time if a nonce is wanted, and returns the answer and the proof that was used.
func (g *guests) proven(t *testing.T, c checkpoint, query string) (*http.Response, string) {
	t.Helper()
	for nonce := ""; ; {
		proof := g.proof(t, nonce)
		resp := c.ask(t, query, nil, "Authorization", "DPoP "+g.dpop, "DPoP", proof)
		if again := resp.Header.Get("DPoP-Nonce"); resp.StatusCode == 401 && again != "" && nonce == "" {
			if !strings.Contains(challengeOf(resp), `error="use_dpop_nonce"`) {
				t.Errorf("a nonce without its challenge: %s", challengeOf(resp))
			}
			nonce = again
			continue
		}
		return resp, proof
	}
}

func challengeOf(resp *http.Response) string {
	return strings.Join(resp.Header.Values("WWW-Authenticate"), ", ")
}

// judge walks the cases, but for the revoked certificate.
func (g *guests) judge(t *testing.T, c checkpoint) {
	t.Helper()
	bearer := []string{"Authorization", "Bearer " + g.mtls}
	want := func(name string, resp *http.Response, status int, binding string) {
		t.Helper()
		if resp.StatusCode != status || resp.Header.Get(forwardauth.HeaderBinding) != binding {
			t.Errorf("%s: status %d, binding %q, challenge %q; want %d", name, resp.StatusCode, resp.Header.Get(forwardauth.HeaderBinding), challengeOf(resp), status)
		}
		if status == 401 && !strings.Contains(challengeOf(resp), "DPoP algs=") {
			t.Errorf("%s: challenge %q", name, challengeOf(resp))
		}
	}
	ok := c.ask(t, "", g.alice, bearer...)
	want("right certificate", ok, 200, "mtls")
	if ok.Header.Get(forwardauth.HeaderClientID) != "alice" || ok.Header.Get(forwardauth.HeaderThumbprint) != pkitest.Thumbprint(g.alice).String() {
		t.Errorf("right certificate: %v", ok.Header)
	}
	want("other certificate", c.ask(t, "", g.mallory, bearer...), 401, "")
	want("no certificate", c.ask(t, "", nil, bearer...), 401, "")
	want("more scope", c.ask(t, "?scope=write", g.alice, bearer...), 403, "")
	resp, proof := g.proven(t, c, "")
	want("DPoP", resp, 200, "dpop")
	want("replay", c.ask(t, "", nil, "Authorization", "DPoP "+g.dpop, "DPoP", proof), 401, "")
	want("replay for another scope", c.ask(t, "?scope=read", nil, "Authorization", "DPoP "+g.dpop, "DPoP", proof), 401, "")
	want("as Bearer", c.ask(t, "", nil, "Authorization", "Bearer "+g.dpop), 401, "")
	want("client's own header", c.ask(t, "?bad_request=401", g.alice, append(bearer, "X-Ssl-Client-Cert", "x")...), 401, "")
}

func (g *guests) revoke(t *testing.T) {
	t.Helper()
	serial := fmt.Sprintf("%032x", g.alice.Certificate().Leaf.SerialNumber)
	if _, err := g.server.Operator(t).Revoke(t.Context(), serial, client.Revocation{Reason: "superseded"}); err != nil {
		t.Fatal(err)
	}
}

// TestF14_VerifyOnTheDaemon: what is revoked is refused from the return of the call on.
func TestF14_VerifyOnTheDaemon(t *testing.T) {
	t.Parallel()
	g := newGuests(t)
	c := checkpoint{g.server.URLs.MTLS + "/v1/verify", g.gateway.HTTPClient()}
	g.judge(t, c)

	stranger := checkpoint{c.url, g.mallory.HTTPClient()}
	if resp := stranger.ask(t, "", g.alice, "Authorization", "Bearer "+g.mtls); resp.StatusCode != 400 {
		t.Errorf("a client that plays the proxy: status %d", resp.StatusCode)
	}
	if resp := c.ask(t, "/nobody", g.alice, "Authorization", "Bearer "+g.mtls); resp.StatusCode != 404 {
		t.Errorf("a resource server that is not configured: status %d", resp.StatusCode)
	}
	// Envoy sends the client's request itself, under a prefix.
	inPlace := c.ask(t, "/orders/orders/17?x=1", nil, "Authorization", "DPoP "+g.dpop, "DPoP", g.proof(t, ""))
	if nonce := inPlace.Header.Get("DPoP-Nonce"); nonce != "" {
		inPlace = c.ask(t, "/orders/orders/17?x=1", nil, "Authorization", "DPoP "+g.dpop, "DPoP", g.proof(t, nonce))
	}
	if inPlace.StatusCode != 200 {
		t.Errorf("under a prefix: status %d, %s", inPlace.StatusCode, challengeOf(inPlace))
	}

	g.revoke(t)
	if resp := c.ask(t, "", g.alice, "Authorization", "Bearer "+g.mtls); resp.StatusCode != 401 {
		t.Errorf("revoked: status %d", resp.StatusCode)
	}
	disabled := true
	if _, err := g.server.Operator(t).PatchClient(t.Context(), "app", client.ClientPatch{Disabled: &disabled}); err != nil {
		t.Fatal(err)
	}
	if resp, _ := g.proven(t, c, ""); resp.StatusCode != 401 {
		t.Errorf("client disabled: status %d", resp.StatusCode)
	}
}

// TestF14_VerifyProxy: the same from a process of its own.
func TestF14_VerifyProxy(t *testing.T) {
	t.Parallel()
	bin := pkitest.Build(t, "pkid")
	t.Run("seven cases", func(t *testing.T) {
		t.Parallel()
		verifyProxyJudges(t, bin)
	})
	t.Run("before the issuer", func(t *testing.T) {
		t.Parallel()
		verifyProxyWaits(t, bin)
	})
}

// verifyProxyJudges: it has the root and the issuer's URL, and nothing else.
func verifyProxyJudges(t *testing.T, bin string) {
	t.Helper()
	g := newGuests(t)
	listen, ops := pkitest.FreeAddress(t), pkitest.FreeAddress(t)
	stop := startVerifyProxy(t, bin, "--issuer", g.server.URLs.Public, "--root", g.alice.Dir()+"/root.crt", "--audience", ordersAPI, "--name", "orders",
		"--proxy-form", "rfc9440", "--listen", listen, "--ops", ops)
	ready := func() error { return seek("http://"+ops+"/readyz", "ready") }
	pkitest.Eventually(t, 20*time.Second, ready)
	c := checkpoint{"http://" + listen + "/v1/verify", http.DefaultClient}
	g.judge(t, c)

	g.revoke(t)
	pkitest.Eventually(t, 10*time.Second, func() error {
		resp, err := c.try(t.Context(), "", g.alice, "Authorization", "Bearer "+g.mtls)
		if err == nil && resp.StatusCode != 401 {
			err = fmt.Errorf("revoked: status %d", resp.StatusCode)
		}
		return err
	})
	for _, line := range []string{
		`pkid_verify_requests_total{server="orders",result="allowed",reason=""}`,
		`pkid_verify_requests_total{server="orders",result="refused",reason="replay"} 2`,
		"pkid_verify_proofs 1", "pkid_verify_ready 1", "pkid_verify_duration_seconds_count", "pkid_follower_stale_seconds",
	} {
		if err := seek("http://"+ops+"/metrics", line); err != nil {
			t.Error(err)
		}
	}
	text := stop(t)
	for _, secret := range []string{g.mtls, g.dpop, strings.Split(g.dpop, ".")[2]} {
		if strings.Contains(text, secret) {
			t.Error("the log has a token")
		}
	}
	for _, want := range []string{`msg="request allowed" server=orders method=GET path=/orders/17 client=alice`, "check=replay", "remote=192.0.2.7"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
}

// verifyProxyWaits: it starts without the issuer, refuses with 503, and is of use once the issuer is there.
func verifyProxyWaits(t *testing.T, bin string) {
	t.Helper()
	g := newGuests(t)
	root := filepath.Join(t.TempDir(), "root.crt")
	text, err := os.ReadFile(g.server.Path("root.crt"))
	if err == nil {
		err = os.WriteFile(root, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	g.server.Stop(t)
	listen, ops := pkitest.FreeAddress(t), pkitest.FreeAddress(t)
	startVerifyProxy(t, bin, "--issuer", g.server.URLs.Public, "--root", root, "--audience", ordersAPI, "--proxy-form", "rfc9440", "--listen", listen, "--ops", ops)
	c := checkpoint{"http://" + listen + "/v1/verify", http.DefaultClient}
	pkitest.Eventually(t, 20*time.Second, func() error { return seek("http://"+ops+"/healthz", "ok") })
	if resp := c.ask(t, "", g.alice, "Authorization", "Bearer "+g.mtls); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("without the issuer: status %d, %v", resp.StatusCode, resp.Header)
	}
	if err := seek("http://"+ops+"/readyz", "ready"); err == nil {
		t.Error("it says that it is ready")
	}
	pkitest.Serve(t, g.server.Dir, pkitest.Options{})
	pkitest.Eventually(t, 40*time.Second, func() error { return seek("http://"+ops+"/readyz", "ready") })
	if resp := c.ask(t, "", g.alice, "Authorization", "Bearer "+g.mtls); resp.StatusCode != 200 {
		t.Errorf("with the issuer: status %d, %s", resp.StatusCode, challengeOf(resp))
	}
}

// seek wants a 200 whose body has some text.
func seek(url, want string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
		return fmt.Errorf("%s: %s, without %q: %s", url, resp.Status, want, body)
	}
	return nil
}

// startVerifyProxy runs the real command. The function that it returns stops it, wants a clean end, and returns the log.
func startVerifyProxy(t *testing.T, bin string, args ...string) func(*testing.T) string {
	t.Helper()
	var log strings.Builder
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), bin, append([]string{"verify-proxy"}, args...)...)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func(t *testing.T) string {
		t.Helper()
		if stopped {
			return log.String()
		}
		stopped = true
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("verify-proxy: %v\n%s", err, log.String())
		}
		return log.String()
	}
	t.Cleanup(func() {
		if text := stop(t); t.Failed() {
			t.Log(text)
		}
	})
	return stop
}
