package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// samples are what the sample programs of this test have in common.
type samples struct {
	t    *testing.T
	s    *pkitest.Server
	node string
	bin  string            // with the Go programs
	root string            // file with the CA's root
	urls map[string]string // of the resource servers: "go", "node", and "... bearer" for those that take bearer tokens

	shop   *client.Identity
	secret map[string]string // of the clients "kiosk" (DPoP) and "legacy" (bearer)
}

// Each sample client gets each kind of token and calls each sample server; a thief who has the token, and not the key, is
// refused. The table is the answer of each cell.
func TestSamplePrograms(t *testing.T) {
	t.Parallel()
	p := startSamples(t)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nflow\tserver\tGo client\tNode client\tstolen")
	wrong := 0
	cell := func(got, want string) string {
		if got != want {
			wrong++
			return fmt.Sprintf("%s, WANTED %s", got, want)
		}
		return got
	}
	for _, flow := range []string{"bearer", "mtls", "dpop"} {
		for _, server := range []string{"go", "node"} {
			url := p.urls[server]
			if flow == "bearer" {
				url = p.urls[server+" bearer"]
			}
			want := "200 the orders of " + map[string]string{"bearer": "legacy", "mtls": "shop", "dpop": "kiosk"}[flow]
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", flow, server,
				cell(p.call("go", flow, url), want), cell(p.call("node", flow, url), want),
				cell(p.steal(flow, p.urls[server]), "401 invalid_token"))
		}
	}
	w.Flush()
	t.Log(table.String())
	if wrong > 0 {
		t.Errorf("%d wrong cells", wrong)
	}
	for _, server := range []string{"go", "node"} {
		t.Run(server+"/renewal", func(t *testing.T) { p.renew(t, p.urls[server]) })
	}
	t.Run("renewal under load", p.renewUnderLoad)
	t.Run("revocation", p.revoke)
}

// renewUnderLoad has the Node client send requests all the time while its certificate is renewed, and its key: none fails.
func (p *samples) renewUnderLoad(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.node, "node/load.mjs", p.shop.Dir(), p.urls["go"], p.urls["node"])
	stop, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	counts := json.NewDecoder(out)
	var n struct {
		OK       int      `json:"ok"`
		Failures []string `json:"failures"`
	}
	for range 4 { // it prints when it has sent a hundred more
		if err := counts.Decode(&n); err != nil {
			t.Fatal(err)
		}
		if err := p.shop.Renew(t.Context(), client.RenewOptions{Rekey: true}); err != nil {
			t.Fatal(err)
		}
	}
	stop.Close()
	for counts.Decode(&n) == nil {
	}
	if err := cmd.Wait(); err != nil || len(n.Failures) > 0 || n.OK < 400 {
		t.Errorf("%v: %d requests went well, these did not: %v", err, n.OK, n.Failures)
	}
}

// renew has a client whose certificate is renewed, and a server that knows its sessions: the new certificate comes with a
// new token, and the old one's token does not go with the new certificate.
func (p *samples) renew(t *testing.T, url string) {
	source, err := client.NewTokenSource(client.TokenConfig{Identity: p.shop, Resource: url})
	if err != nil {
		t.Fatal(err)
	}
	before, err := source.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{"Authorization": {"Bearer " + before.AccessToken}}
	sessions := p.shop.TLSConfig()
	sessions.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	old := p.shop.Certificate()
	sessions.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return old, nil }
	resuming := &http.Client{Transport: &http.Transport{TLSClientConfig: sessions, DisableKeepAlives: true}, Timeout: time.Minute}
	for range 2 { // the second resumes the first's TLS session, which proved the certificate (A35)
		if got := p.present(resuming, url, header); got != "200 " {
			t.Errorf("the token with its certificate: %s", got)
		}
	}
	if err := p.shop.Renew(t.Context(), client.RenewOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := p.present(p.shop.HTTPClient(), url, header); got != "401 invalid_token" {
		t.Errorf("the old token with the new certificate: %s", got)
	}
	for _, lang := range []string{"go", "node"} {
		if got := p.call(lang, "mtls", url); got != "200 the orders of shop" {
			t.Errorf("a new token with the new certificate, from %s: %s", lang, got)
		}
	}
}

// revoke has both servers refuse a token whose certificate is revoked, although its lifetime is not over.
func (p *samples) revoke(t *testing.T) {
	headers := map[string]http.Header{}
	for _, server := range []string{"go", "node"} {
		source, err := client.NewTokenSource(client.TokenConfig{Identity: p.shop, Resource: p.urls[server]})
		if err != nil {
			t.Fatal(err)
		}
		token, err := source.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		headers[server] = http.Header{"Authorization": {"Bearer " + token.AccessToken}}
		if got := p.present(p.shop.HTTPClient(), p.urls[server], headers[server]); got != "200 " {
			t.Errorf("%s before the revocation: %s", server, got)
		}
	}
	serial := fmt.Sprintf("%032x", p.shop.Certificate().Leaf.SerialNumber)
	if _, err := p.s.Operator(t).Revoke(t.Context(), serial, client.Revocation{Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}
	for server, header := range headers {
		pkitest.Eventually(t, 10*time.Second, func() error {
			if got := p.present(p.shop.HTTPClient(), p.urls[server], header); got != "401 invalid_token" {
				return fmt.Errorf("%s: %s", server, got)
			}
			return nil
		})
	}
}

func startSamples(t *testing.T) *samples {
	t.Helper()
	node := needNode(t, "../examples/node")
	p := &samples{t: t, s: pkitest.Start(t, pkitest.Options{}), node: node, bin: t.TempDir(), urls: map[string]string{}, secret: map[string]string{}}
	for _, program := range []string{"orders", "shop"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", p.bin, "../examples/go/"+program)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	orders := p.s.Enrol(t, client.InvitationRequest{ClientID: "orders", Profile: "server", SANs: []string{"localhost"}})
	p.root = filepath.Join(orders.Dir(), "root.crt")
	var resources []string
	for _, name := range []string{"go", "node", "go bearer", "node bearer"} {
		addr := pkitest.FreeAddress(t)
		p.urls[name] = "https://localhost:" + addr[strings.LastIndex(addr, ":")+1:]
		resources = append(resources, p.urls[name])
		env := []string{"ORDERS_IDENTITY=" + orders.Dir(), "ORDERS_ADDR=" + addr, "ORDERS_URL=" + p.urls[name]}
		lang, bearer := strings.CutSuffix(name, " bearer")
		if bearer {
			env = append(env, "ORDERS_ALLOW_BEARER=1")
		}
		cmd := exec.CommandContext(t.Context(), filepath.Join(p.bin, "orders"))
		if lang == "node" {
			cmd = exec.CommandContext(t.Context(), node, "orders.js")
			cmd.Dir = "../examples/node"
		}
		serveProgram(t, cmd, addr, env...)
	}
	p.shop = p.s.Enrol(t, client.InvitationRequest{ClientID: "shop", Resources: resources})
	for id, record := range map[string]client.ClientRecord{"kiosk": {DPoP: true}, "legacy": {Bearer: true}} {
		record.ID, record.Auth, record.Resources = id, "client_secret_basic", resources
		added, err := p.s.Operator(t).AddClient(t.Context(), record)
		if err != nil {
			t.Fatal(err)
		}
		p.secret[id] = added.Secret
	}
	for name, url := range p.urls { // until it has heard what was revoked, a server takes nothing
		flow := "mtls"
		if strings.HasSuffix(name, " bearer") {
			flow = "bearer"
		}
		pkitest.Eventually(t, 20*time.Second, func() error {
			if got := p.call("go", flow, url); !strings.HasPrefix(got, "200 ") {
				return fmt.Errorf("%s: %s", name, got)
			}
			return nil
		})
	}
	return p
}

// serveProgram runs a server, a command of the test's context, until the test ends, and returns when it answers at addr.
func serveProgram(t *testing.T, cmd *exec.Cmd, addr string, env ...string) {
	t.Helper()
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	// The context ends before the cleanups. What does not stop then is killed, and its children's output is let go.
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, 10*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Wait() })
	pkitest.Eventually(t, 20*time.Second, func() error {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// call runs a sample client and returns what it printed, after the status.
func (p *samples) call(lang, flow, url string) string {
	args := []string{"-flow", flow}
	if flow == "mtls" {
		args = append(args, "-identity", p.shop.Dir())
	} else {
		args = append(args, "-client-id", p.clientOf(flow), "-issuer", p.s.URLs.Public, "-root", p.root)
	}
	args = append(args, url+"/")
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "shop"), args...)
	if lang == "node" {
		for i, a := range args {
			if strings.HasPrefix(a, "-") {
				args[i] = "-" + a
			}
		}
		cmd = exec.CommandContext(ctx, p.node, append([]string{"shop.js"}, args...)...)
		cmd.Dir = "../examples/node"
	}
	cmd.Env = append(os.Environ(), "SHOP_SECRET="+p.secret[p.clientOf(flow)])
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Sprintf("%v: %s%s", err, out.String(), errs.String())
	}
	return "200 " + strings.TrimSpace(out.String())
}

func (p *samples) clientOf(flow string) string {
	return map[string]string{"bearer": "legacy", "dpop": "kiosk"}[flow]
}

// steal presents a token of flow without what it is bound to. A bearer token is bound to nothing, so it is presented where
// bound tokens alone are taken.
func (p *samples) steal(flow, url string) string {
	conf := client.TokenConfig{Identity: p.shop, Resource: url}
	if flow != "mtls" {
		conf = client.TokenConfig{
			Issuer: p.s.URLs.Public, ClientID: p.clientOf(flow), Secret: p.secret[p.clientOf(flow)],
			Roots: p.shop.Roots(), Resource: url,
		}
	}
	if flow == "dpop" {
		conf.DPoPKey, _ = client.NewKey("")
	}
	source, err := client.NewTokenSource(conf)
	if err != nil {
		return err.Error()
	}
	token, err := source.Token(p.t.Context())
	if err != nil {
		return err.Error()
	}
	thief := p.s.Enrol(p.t, client.InvitationRequest{ClientID: "thief"})
	header := http.Header{"Authorization": {"Bearer " + token.AccessToken}}
	answer := p.present(thief.HTTPClient(), url, header)
	if flow == "dpop" && answer == "401 invalid_token" { // and with a proof by the thief's own key
		key, _ := client.NewKey("")
		prover, err := tokenbind.NewProver(key)
		if err != nil {
			return err.Error()
		}
		proof, err := prover.Proof(http.MethodGet, url+"/", tokenbind.ProofOptions{AccessToken: token.AccessToken})
		if err != nil {
			return err.Error()
		}
		header = http.Header{"Authorization": {"DPoP " + token.AccessToken}, "Dpop": {proof}}
		answer = p.present(thief.HTTPClient(), url, header)
	}
	return answer
}

// present sends a request, and returns the status and the error of the challenge.
func (p *samples) present(hc *http.Client, url string, header http.Header) string {
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, url+"/", nil)
	if err != nil {
		return err.Error()
	}
	req.Header = header
	resp, err := hc.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	code := ""
	for _, c := range resp.Header.Values("WWW-Authenticate") {
		if _, after, found := strings.Cut(c, ` error="`); found {
			code, _, _ = strings.Cut(after, `"`)
		}
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, code)
}

// needNode returns node, if the npm packages in dir are installed.
func needNode(t *testing.T, dir string) string {
	t.Helper()
	node := pkitest.Need(t, "node")
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		pkitest.Missing(t, "the npm packages are not installed: `make deps` installs them where npm is")
	}
	if exec.CommandContext(t.Context(), node, "-e", "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)").Run() != nil {
		pkitest.Missing(t, "node is older than the 18.17 that the npm packages need")
	}
	return node
}

// The Node package's own tests.
func TestNodePackage(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), needNode(t, "../examples/node"), "--test")
	cmd.Dir = "../examples/node"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
