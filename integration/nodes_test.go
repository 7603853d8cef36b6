package integration

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// node is one of several nodes, reached where the load balancer would reach it.
type node struct {
	t      *testing.T
	name   string
	urls   config.URLs // of all nodes
	listen config.Listen
}

func nodeOf(t *testing.T, name string, c *config.Config) *node {
	return &node{t, name, c.URLs, c.Listen}
}

// answer is what a node said.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

// do sends a request to one of the node's listeners, with an identity's certificate if there is one.
func (n *node) do(id *client.Identity, method, target string, header http.Header, body string) (answer, error) {
	addr := map[string]string{n.urls.Public: n.listen.Public, n.urls.MTLS: n.listen.MTLS, n.urls.Status: n.listen.Status}[origin(target)]
	if addr == "" {
		addr = n.listen.Ops
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	if id != nil {
		transport.TLSClientConfig = id.TLSConfig()
	}
	req, err := http.NewRequestWithContext(n.t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	maps.Copy(req.Header, header)
	resp, err := (&http.Client{Transport: transport, Timeout: 15 * time.Second}).Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return answer{resp.StatusCode, resp.Header, string(text)}, err
}

func origin(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// must is do for a request that is answered.
func (n *node) must(id *client.Identity, method, target string, header http.Header, body string) answer {
	n.t.Helper()
	a, err := n.do(id, method, target, header, body)
	if err != nil {
		n.t.Fatalf("node %s: %v", n.name, err)
	}
	return a
}

var isForm = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}

// token asks the node for a token, with a proof if there is one.
func (n *node) token(id *client.Identity, proof string) answer {
	n.t.Helper()
	header := isForm.Clone()
	if proof != "" {
		header.Set("DPoP", proof)
	}
	return n.must(id, http.MethodPost, n.urls.MTLS+"/oauth/token", header,
		url.Values{"grant_type": {"client_credentials"}, "client_id": {id.Info().ClientID}}.Encode())
}

func (n *node) introspect(rs *client.Identity, token string) answer {
	n.t.Helper()
	return n.must(rs, http.MethodPost, n.urls.MTLS+"/oauth/introspect", isForm,
		url.Values{"token": {token}, "client_id": {rs.Info().ClientID}}.Encode())
}

// rest calls the REST API as somebody.
func (n *node) rest(id *client.Identity, method, path string, in any) answer {
	n.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.must(id, method, n.urls.MTLS+path, http.Header{"Content-Type": {"application/json"}}, string(body))
}

// crl fetches the CRL that a certificate names, and says whether the certificate is on it.
func (n *node) crl(id *client.Identity) (number uint64, listed bool, err error) {
	leaf := id.Certificate().Leaf
	issuer, err := x509.ParseCertificate(id.Certificate().Certificate[1])
	if err != nil {
		return 0, false, err
	}
	a, err := n.do(nil, http.MethodGet, leaf.CRLDistributionPoints[0], nil, "")
	if err != nil {
		return 0, false, err
	}
	list, err := crl.ParseAndVerify([]byte(a.body), issuer, leaf.CRLDistributionPoints[0], time.Now())
	if err != nil {
		return 0, false, fmt.Errorf("%d: %w", a.status, err)
	}
	_, listed = list.Lookup(leaf.SerialNumber)
	return list.Number, listed, nil
}

func (n *node) ops(path string) answer {
	n.t.Helper()
	return n.must(nil, http.MethodGet, "http://"+n.listen.Ops+path, nil, "")
}

func serialOf(id *client.Identity) string {
	return fmt.Sprintf("%032x", id.Certificate().Leaf.SerialNumber)
}

// accessToken reads a token from its answer.
func accessToken(t *testing.T, a answer) string {
	t.Helper()
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(a.body), &token); err != nil || a.status != http.StatusOK {
		t.Fatalf("no token: %s", a)
	}
	return token.AccessToken
}

// cluster is a CA on several nodes, an operator, a client and a resource server that may introspect.
type cluster struct {
	first        *pkitest.Server
	nodes        []*node
	operator     *client.Identity
	robot, asker *client.Identity
}

// newCluster serves a CA whose store is in a database from so many nodes.
func newCluster(t *testing.T, database string, nodes int) *cluster {
	t.Helper()
	sharded := pkitest.Options{Database: database, Edit: func(c *config.Config) { c.CRL.Deltas = true }}
	c := &cluster{first: pkitest.Start(t, sharded)}
	c.nodes = []*node{nodeOf(t, "A", c.first.Config)}
	for i := range nodes - 1 {
		s := pkitest.Serve(t, c.first.NewNode(t), sharded)
		c.nodes = append(c.nodes, nodeOf(t, string(rune('B'+i)), s.Config))
	}
	var err error
	if c.operator, err = client.Load(c.first.Home); err != nil {
		t.Fatal(err)
	}
	c.robot = c.first.Enrol(t, client.InvitationRequest{ClientID: "robot"})
	c.asker = c.first.Enrol(t, client.InvitationRequest{ClientID: "asker"})
	yes := true
	if _, err := c.first.Operator(t).PatchClient(t.Context(), "asker", client.ClientPatch{Introspect: &yes}); err != nil {
		t.Fatal(err)
	}
	return c
}

// What is revoked, disabled or used up on one node does not work on any other.
func TestNodesAgree(t *testing.T) {
	t.Parallel()
	c := newCluster(t, pgtest.Database(t), 3)
	a, b := c.nodes[0], c.nodes[1]
	tokens := map[*node]string{}
	for _, n := range c.nodes {
		tokens[n] = accessToken(t, n.token(c.robot, ""))
		for _, m := range c.nodes {
			if got := m.introspect(c.asker, tokens[n]); !strings.Contains(got.body, `"active":true`) {
				t.Fatalf("a token of node %s at node %s: %s", n.name, m.name, got)
			}
		}
	}

	// A proof counts once, wherever.
	optional := "optional"
	if _, err := c.first.Operator(t).PatchClient(t.Context(), "robot", client.ClientPatch{Nonce: &optional}); err != nil {
		t.Fatal(err)
	}
	prover, err := tokenbind.NewProver(c.robot.Certificate().PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	proof, err := prover.Proof(http.MethodPost, a.urls.MTLS+"/oauth/token", tokenbind.ProofOptions{})
	if err != nil {
		t.Fatal(err)
	}
	accessToken(t, a.token(c.robot, proof))
	if got := b.token(c.robot, proof); got.status != http.StatusBadRequest || !strings.Contains(got.body, "invalid_dpop_proof") {
		t.Errorf("a proof that node A took, at node B: %s", got)
	}

	// A token that is revoked on one node is inactive on the others.
	if got := b.must(c.robot, http.MethodPost, b.urls.MTLS+"/oauth/revoke", isForm, url.Values{"token": {tokens[b]}, "client_id": {"robot"}}.Encode()); got.status != http.StatusOK {
		t.Fatalf("revoking a token: %s", got)
	}
	for _, n := range c.nodes {
		if got := n.introspect(c.asker, tokens[b]); got.body != `{"active":false}` {
			t.Errorf("a token that node B revoked, at node %s: %s", n.name, got)
		}
	}

	// A client that is disabled on one node gets nothing from the others.
	for _, disabled := range []bool{true, false} {
		if got := b.rest(c.operator, http.MethodPatch, "/v1/clients/robot", client.ClientPatch{Disabled: &disabled}); got.status != http.StatusOK {
			t.Fatalf("disabling a client: %s", got)
		}
		want := map[bool]int{true: http.StatusUnauthorized, false: http.StatusOK}[disabled]
		for _, n := range c.nodes {
			if got := n.token(c.robot, ""); got.status != want {
				t.Errorf("disabled %v, a token of node %s: %s", disabled, n.name, got)
			}
		}
	}
	c.revoke(t, a)
}

// revoke revokes the robot's certificate on a node, and waits until all refuse it. How long that takes is logged.
func (c *cluster) revoke(t *testing.T, on *node) {
	t.Helper()
	token := accessToken(t, on.token(c.robot, ""))
	if got := on.rest(c.operator, http.MethodPost, "/v1/certificates/"+serialOf(c.robot)+"/revoke", client.Revocation{Reason: "keyCompromise"}); got.status != http.StatusOK {
		t.Fatalf("revoking: %s", got)
	}
	began := time.Now()
	for _, n := range c.nodes {
		pkitest.Eventually(t, 20*time.Second, func() error {
			if got := n.token(c.robot, ""); got.status != http.StatusUnauthorized {
				return fmt.Errorf("token endpoint: %s", got)
			}
			if got := n.introspect(c.asker, token); got.body != `{"active":false}` {
				return fmt.Errorf("introspection: %s", got)
			}
			return nil
		})
		t.Logf("refused at node %s after %s", n.name, time.Since(began))
	}
	for _, n := range c.nodes {
		pkitest.Eventually(t, 20*time.Second, func() error {
			number, listed, err := n.crl(c.robot)
			if err == nil && !listed {
				err = fmt.Errorf("CRL %d of node %s does not list it", number, n.name)
			}
			return err
		})
		t.Logf("in the CRL of node %s after %s", n.name, time.Since(began))
	}
}

// While the database is away, nodes say what they know, refuse what they cannot know, and come back by themselves.
func TestNodesWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	database := pgtest.Start(t)
	c := newCluster(t, database.Database(t), 2)
	token := accessToken(t, c.nodes[0].token(c.robot, ""))
	if err := database.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		var ready answer
		pkitest.Eventually(t, 20*time.Second, func() error {
			if ready = n.ops("/readyz"); ready.status != http.StatusServiceUnavailable {
				return fmt.Errorf("ready: %s", ready)
			}
			return nil
		})
		if !strings.Contains(ready.body, "the database is not available") {
			t.Errorf("node %s does not say why: %s", n.name, ready)
		}
		if got := n.ops("/metrics"); !strings.Contains(got.body, `pkid_check_ok{check="store"} 0`) || !strings.Contains(got.body, `pkid_check_ok{check="crl"} 1`) {
			t.Errorf("metrics of node %s: %s", n.name, got)
		}
		if _, _, err := n.crl(c.robot); err != nil {
			t.Errorf("the CRL of node %s: %v", n.name, err)
		}
		for _, target := range []string{
			c.robot.Certificate().Leaf.IssuingCertificateURL[0], n.urls.MTLS + "/oauth/jwks", n.urls.MTLS + "/v1/ca",
			n.urls.Public + "/.well-known/oauth-authorization-server", "http://" + n.listen.Ops + "/healthz",
		} {
			if got := n.must(c.robot, http.MethodGet, target, nil, ""); got.status != http.StatusOK {
				t.Errorf("%s of node %s: %s", target, n.name, got)
			}
		}
		for what, got := range map[string]answer{
			"temporarily_unavailable":               n.token(c.robot, ""),
			`"error":"temporarily_unavailable"`:     n.introspect(c.asker, token),
			"urn:pkid:problem:unavailable":          n.rest(c.operator, http.MethodPost, "/v1/invitations", client.InvitationRequest{ClientID: "x"}),
			`"type":"urn:pkid:problem:unavailable"`: n.rest(c.operator, http.MethodPost, "/v1/certificates/"+serialOf(c.robot)+"/revoke", client.Revocation{}),
			`"status":503`:                          n.rest(c.operator, http.MethodGet, "/v1/certificates", nil),
		} {
			if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || !strings.Contains(got.body, what) {
				t.Errorf("node %s: %s, %v; want 503 with %s", n.name, got, got.header, what)
			}
		}
	}

	if err := database.Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, n := range c.nodes {
		pkitest.Eventually(t, 30*time.Second, func() error {
			if got := n.ops("/readyz"); got.status != http.StatusOK {
				return fmt.Errorf("ready: %s", got)
			}
			return nil
		})
		t.Logf("node %s is back after %s", n.name, time.Since(began))
	}
	c.revoke(t, c.nodes[1])
}

// A revocation that was acknowledged just before the database went away is in every node's CRL once it is back.
func TestNodesPublishAfterTheDatabaseWasAway(t *testing.T) {
	t.Parallel()
	database := pgtest.Start(t)
	c := newCluster(t, database.Database(t), 2)
	if got := c.nodes[0].rest(c.operator, http.MethodPost, "/v1/certificates/"+serialOf(c.robot)+"/revoke", client.Revocation{Reason: "keyCompromise"}); got.status != http.StatusOK {
		t.Fatalf("revoking: %s", got)
	}
	if err := database.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := database.Start(); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		pkitest.Eventually(t, 30*time.Second, func() error {
			number, listed, err := n.crl(c.robot)
			if err == nil && !listed {
				err = fmt.Errorf("CRL %d of node %s does not list it", number, n.name)
			}
			return err
		})
	}
}

// A node that is killed takes nothing with it that it acknowledged: neither certificates nor a revocation that it had no
// time to publish.
func TestNodeIsKilled(t *testing.T) {
	t.Parallel()
	c := newCluster(t, pgtest.Database(t), 2)
	dir := c.first.NewNode(t)
	cmd := exec.Command(pkitest.Build(t, "pkid"), "serve", "--data", dir)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	cfg, err := config.Load(filepath.Join(dir, config.File))
	if err != nil {
		t.Fatal(err)
	}
	killed := nodeOf(t, "killed", cfg)
	pkitest.Eventually(t, 20*time.Second, func() error {
		a, err := killed.do(nil, http.MethodGet, "http://"+killed.listen.Ops+"/readyz", nil, "")
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("%s", a)
		}
		return err
	})
	var invited []string
	for i := range 20 {
		got := killed.rest(c.operator, http.MethodPost, "/v1/invitations", client.InvitationRequest{ClientID: fmt.Sprintf("client-%d", i)})
		var inv client.Invitation
		if err := json.Unmarshal([]byte(got.body), &inv); err != nil || got.status != http.StatusCreated {
			t.Fatalf("inviting: %s", got)
		}
		invited = append(invited, inv.Token)
	}
	if got := killed.rest(c.operator, http.MethodPost, "/v1/certificates/"+serialOf(c.robot)+"/revoke", client.Revocation{Reason: "keyCompromise"}); got.status != http.StatusOK {
		t.Fatalf("revoking: %s", got)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for i, text := range invited {
		token, err := client.ParseEnrolmentToken(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Enroll(t.Context(), token, client.EnrollOptions{Dir: filepath.Join(t.TempDir(), "x")}); err != nil {
			t.Errorf("the invitation of client %d: %v", i, err)
		}
	}
	for _, n := range c.nodes {
		if got := n.token(c.robot, ""); got.status != http.StatusUnauthorized {
			t.Errorf("node %s: %s", n.name, got)
		}
		pkitest.Eventually(t, 20*time.Second, func() error {
			_, listed, err := n.crl(c.robot)
			if err == nil && !listed {
				err = fmt.Errorf("the CRL of node %s does not list it", n.name)
			}
			return err
		})
	}
}
