package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

var updateMatrix = flag.Bool("update", false, "write the table of docs/resource-servers.md")

// apiURL is the resource that clients ask for, and the audience of their tokens: each proxy is dialled by its own
// address under this name.
const apiURL = "https://localhost:6443"

// arrangement is how a proxy and pkid work together.
type arrangement string

const (
	passes     arrangement = "passes on"
	asks       arrangement = "asks"
	asksDaemon arrangement = "asks the daemon"
)

var arrangements = []arrangement{passes, asks, asksDaemon}

// matrixCase is a row of the table: what a client does, and the answer that it has to get.
type matrixCase struct {
	name      string
	status    int    // 500 stands for all errors of a server, since each program has its own
	challenge string // what WWW-Authenticate says, beside
	body      string // what the answer is to contain
	only      arrangement
	run       func(*visit) reply
}

// They are run in this order: the proofs are about one another.
var matrixCases = []matrixCase{
	{name: "right certificate", status: 200, body: "client shop", run: func(v *visit) reply {
		return v.get(v.shop, "Bearer", v.bound(v.shop), nil)
	}},
	{name: "another certificate of this client", status: 401, challenge: `error="invalid_token"`, run: func(v *visit) reply {
		return v.get(v.shop2, "Bearer", v.bound(v.shop), nil)
	}},
	{name: "certificate of another client", status: 401, challenge: `error="invalid_token"`, run: func(v *visit) reply {
		return v.get(v.other, "Bearer", v.bound(v.shop), nil)
	}},
	{name: "no certificate", status: 401, challenge: `error="invalid_token"`, run: func(v *visit) reply {
		return v.get(nil, "Bearer", v.bound(v.shop), nil)
	}},
	{name: "no certificate, but the right one in a header", status: 401, challenge: `error="invalid_token"`, run: func(v *visit) reply {
		return v.get(nil, "Bearer", v.bound(v.shop), forgedCertificate(v.shop))
	}},
	{name: "another certificate, and the right one in a header", status: 401, challenge: `error="invalid_token"`, run: func(v *visit) reply {
		return v.get(v.other, "Bearer", v.bound(v.shop), forgedCertificate(v.shop))
	}},
	{name: "right certificate, and somebody else's name in a header", status: 200, body: "client shop", run: func(v *visit) reply {
		return v.get(v.shop, "Bearer", v.bound(v.shop), http.Header{"Pkid-Client-Id": {"admin"}, "Pkid-Client_Id": {"admin"}})
	}},
	{name: "right certificate, and a Connection header that would remove the proxy's", status: 200, body: "client shop", run: func(v *visit) reply {
		return v.get(v.shop, "Bearer", v.bound(v.shop), http.Header{"Connection": {"Pkid-Client-Id, X-Forwarded-Uri, X-Ssl-Client-Cert, Client-Cert"}})
	}},
	{name: "token without the scope", status: 403, challenge: `error="insufficient_scope"`, run: func(v *visit) reply {
		return v.get(v.shop, "Bearer", v.token(client.TokenConfig{Identity: v.shop, Scopes: []string{"extra"}}), nil)
	}},
	{name: "no token", status: 401, challenge: "Bearer realm=", run: func(v *visit) reply {
		return v.get(v.shop, "", "", nil)
	}},
	{name: "revoked certificate", status: 401, challenge: "revoked", run: (*visit).revoked},
	{name: "DPoP proof without a nonce", status: 401, challenge: `error="use_dpop_nonce"`, run: func(v *visit) reply {
		a := v.prove("/orders", "/orders", nil)
		v.nonce = a.header.Get("DPoP-Nonce")
		return a
	}},
	{name: "DPoP proof with the nonce that came back", status: 200, body: "client app", run: func(v *visit) reply {
		return v.prove("/orders", "/orders", nil)
	}},
	{name: "the same DPoP proof again", status: 401, challenge: `error="invalid_dpop_proof"`, run: func(v *visit) reply {
		return v.get(nil, "DPoP", v.dpopToken, http.Header{"Dpop": {v.proof}})
	}},
	{name: "DPoP proof for another path", status: 401, challenge: `error="invalid_dpop_proof"`, run: func(v *visit) reply {
		return v.prove("/orders", "/basket", nil)
	}},
	{name: "DPoP proof for another path, which headers claim", status: 401, challenge: `error="invalid_dpop_proof"`, run: func(v *visit) reply {
		return v.prove("/orders", "/basket", http.Header{"X-Forwarded-Uri": {"/basket"}, "X-Original-Uri": {"/basket"}, "X-Original-Url": {apiURL + "/basket"}})
	}},
	{name: "DPoP proof for another host, which headers claim", status: 401, challenge: `error="invalid_dpop_proof"`, run: func(v *visit) reply {
		return v.prove("/orders", "https://evil.example/orders", http.Header{
			"X-Forwarded-Host": {"evil.example"}, "Forwarded": {"host=evil.example"}, "X-Forwarded-Port": {"443"},
		})
	}},
	{name: "token bound to certificate and DPoP key, with both", status: 200, body: "client shop", run: func(v *visit) reply {
		return v.proveWith(v.shop, v.both(), "/orders", "/orders", nil)
	}},
	{name: "token bound to certificate and DPoP key, with the proof alone", status: 401, challenge: `error="invalid_token"`, run: func(v *visit) reply {
		return v.proveWith(nil, v.both(), "/orders", "/orders", nil)
	}},
	{name: "DPoP-bound token as Bearer", status: 401, challenge: `error="invalid_token"`, run: func(v *visit) reply {
		return v.get(nil, "Bearer", v.dpopToken, nil)
	}},
	{name: "token endpoint, with a certificate", status: 200, only: passes, run: (*visit).askToken},
	{name: "token endpoint, without", status: 401, body: `"invalid_client"`, only: passes, run: func(v *visit) reply {
		return v.post(nil, nil)
	}},
	{name: "token endpoint, with one in a header", status: 401, body: `"invalid_client"`, only: passes, run: func(v *visit) reply {
		return v.post(nil, forgedCertificate(v.shop))
	}},
	{name: "right certificate, while nobody answers the proxy", status: 500, only: asks, run: func(v *visit) reply {
		v.stopVerifyProxy()
		return v.get(v.shop, "Bearer", v.bound(v.shop), nil)
	}},
}

// TestF14_ProxyMatrix shows that real proxies, with the configurations that are shipped, let through what they should and
// nothing else (RFC 8705 section 6.5, RFC 9449 section 7).
func TestF14_ProxyMatrix(t *testing.T) {
	t.Parallel()
	table, pkid := newMatrix(), pkitest.Build(t, "pkid")
	t.Run("proxies", func(t *testing.T) {
		for _, p := range proxyPrograms {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				path := p.need(t)
				s := newSite(t, &p, path, pkid)
				for _, a := range p.arrangements() {
					s.walk(t, a, table)
				}
			})
		}
	})
	t.Log("\n" + table.table(proxyPrograms))
	if table.complete() {
		debian := slices.DeleteFunc(slices.Clone(proxyPrograms), func(p proxyProgram) bool { return p.unpackaged })
		checkTable(t, "../docs/resource-servers.md", table.table(debian))
	}
}

// visit is a client before one proxy in one arrangement.
type visit struct {
	*site
	t  *testing.T
	at string // the proxy's address

	clients map[*client.Identity]*http.Client

	signer                  crypto.Signer
	dpopToken, nonce, proof string
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (s *site) walk(t *testing.T, a arrangement, table *matrix) {
	v := &visit{site: s, t: t, at: s.proxies[a], clients: map[*client.Identity]*http.Client{}}
	for _, c := range matrixCases {
		if c.only != "" && c.only != a {
			continue
		}
		got := c.run(v)
		table.set(c.name, s.program.name, a, got.status)
		challenge := strings.Join(got.header.Values("WWW-Authenticate"), ", ")
		serverErrors := c.status == 500 && got.status >= 500
		if got.status != c.status && !serverErrors || !strings.Contains(challenge, c.challenge) || !strings.Contains(got.body, c.body) || strings.Contains(got.body, "admin") {
			t.Errorf("%s %s, %s: got %d, want %d\nchallenge %q, to contain %q\nbody %q, to contain %q",
				s.program.name, a, c.name, got.status, c.status, challenge, c.challenge, got.body, c.body)
		}
	}
}

// client speaks to the proxy with an identity's certificate, or none.
func (v *visit) client(id *client.Identity) *http.Client {
	if c := v.clients[id]; c != nil {
		return c
	}
	conf := &tls.Config{RootCAs: v.shop.Roots(), MinVersion: tls.VersionTLS12}
	if id != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.Certificate(), nil }
	}
	tr := &http.Transport{TLSClientConfig: conf, DialContext: dialer(v.at)}
	v.t.Cleanup(tr.CloseIdleConnections)
	v.clients[id] = &http.Client{Transport: tr, Timeout: 15 * time.Second}
	return v.clients[id]
}

func (v *visit) get(id *client.Identity, scheme, token string, more http.Header) reply {
	h := more.Clone()
	if h == nil {
		h = http.Header{}
	}
	if scheme != "" {
		h.Set("Authorization", scheme+" "+token)
	}
	return v.do(id, http.MethodGet, "/orders", "", h)
}

func (v *visit) do(id *client.Identity, method, path, body string, h http.Header) reply {
	v.t.Helper()
	req, err := http.NewRequestWithContext(v.t.Context(), method, apiURL+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	req.Header = h
	res, err := v.client(id).Do(req)
	if err != nil {
		v.t.Fatalf("%s: %v", v.program.name, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil {
		v.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(text)}
}

// token asks pkid itself.
func (v *visit) token(c client.TokenConfig) string {
	v.t.Helper()
	c.Resource = apiURL
	source, err := client.NewTokenSource(c)
	if err != nil {
		v.t.Fatal(err)
	}
	token, err := source.Token(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	return token.AccessToken
}

func (v *visit) bound(id *client.Identity) string {
	return v.token(client.TokenConfig{Identity: id, Scopes: []string{"orders"}})
}

// prove sends a request for path with a token that is bound to a DPoP key alone, and a proof for path or another URL.
func (v *visit) prove(path, proved string, more http.Header) reply {
	v.t.Helper()
	if v.dpopToken == "" {
		v.dpopToken = v.token(client.TokenConfig{
			Issuer: v.server.URLs.Public, ClientID: v.app.ID, Secret: v.app.Secret, Roots: v.shop.Roots(),
			DPoPKey: v.key(), Scopes: []string{"orders"},
		})
	}
	return v.proveWith(nil, v.dpopToken, path, proved, more)
}

// both is a token that is bound to shop's certificate and to the DPoP key.
func (v *visit) both() string {
	v.t.Helper()
	return v.token(client.TokenConfig{Identity: v.shop, DPoPKey: v.key(), Scopes: []string{"orders"}})
}

func (v *visit) proveWith(id *client.Identity, token, path, proved string, more http.Header) reply {
	v.t.Helper()
	if strings.HasPrefix(proved, "/") {
		proved = apiURL + proved
	}
	prover, err := tokenbind.NewProver(v.key())
	if err != nil {
		v.t.Fatal(err)
	}
	if v.proof, err = prover.Proof(http.MethodGet, proved, tokenbind.ProofOptions{AccessToken: token, Nonce: v.nonce}); err != nil {
		v.t.Fatal(err)
	}
	h := http.Header{"Dpop": {v.proof}, "Authorization": {"DPoP " + token}}
	maps.Copy(h, more)
	return v.do(id, http.MethodGet, path, "", h)
}

func (v *visit) key() crypto.Signer {
	v.t.Helper()
	if v.signer == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			v.t.Fatal(err)
		}
		v.signer = key
	}
	return v.signer
}

// revoked is a client whose certificate was good a moment ago. It waits for the first refusal.
func (v *visit) revoked() (last reply) {
	id := v.server.Enrol(v.t, client.InvitationRequest{ClientID: "leaver", Scopes: []string{"orders"}, Resources: []string{apiURL}})
	token := v.bound(id)
	if before := v.get(id, "Bearer", token, nil); before.status != http.StatusOK {
		v.t.Errorf("before the revocation: %d %s", before.status, before.body)
	}
	serial := fmt.Sprintf("%032x", id.Certificate().Leaf.SerialNumber)
	if _, err := v.server.Operator(v.t).Revoke(v.t.Context(), serial, client.Revocation{}); err != nil {
		v.t.Fatal(err)
	}
	pkitest.Eventually(v.t, 10*time.Second, func() error {
		if last = v.get(id, "Bearer", token, nil); last.status == http.StatusOK {
			return fmt.Errorf("%s: a revoked certificate is taken", v.program.name)
		}
		return nil
	})
	return last
}

func (v *visit) post(id *client.Identity, more http.Header) reply {
	h := more.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set("Content-Type", "application/x-www-form-urlencoded")
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"shop"}, "resource": {apiURL}, "scope": {"orders"}}
	return v.do(id, http.MethodPost, "/oauth/token", form.Encode(), h)
}

// askToken gets a token through the proxy and uses it there.
func (v *visit) askToken() reply {
	v.t.Helper()
	a := v.post(v.shop, nil)
	if a.status != http.StatusOK {
		return a
	}
	claims := tokenClaims(v.t, a.body)
	if want := pkitest.Thumbprint(v.shop).String(); claims.Confirmation.X5T != want {
		v.t.Errorf("%s: the token is bound to %q, want %q", v.program.name, claims.Confirmation.X5T, want)
	}
	return a
}

// forgedCertificate is what a client may send to pass for another: its certificate, in all ways in which a proxy tells one.
func forgedCertificate(id *client.Identity) http.Header {
	der := id.Certificate().Leaf.Raw
	b64 := base64.StdEncoding.EncodeToString(der)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return http.Header{
		"Client-Cert":                 {":" + b64 + ":"},
		"Client-Cert-Chain":           {":" + b64 + ":"},
		"X-Forwarded-Client-Cert":     {`Cert="` + url.QueryEscape(text) + `"`},
		"X-Forwarded-Tls-Client-Cert": {b64},
		"X-Ssl-Client-Cert":           {url.PathEscape(text)},
		"X-Client-Cert":               {strings.ReplaceAll(text, "\n", " ")},
		"Ssl-Client-Cert":             {url.PathEscape(text)},
	}
}

// checkTable compares the table in a document with this one, or writes it there.
func checkTable(t *testing.T, path, table string) {
	t.Helper()
	const begin, end = "<!-- the table of TestF14_ProxyMatrix -->\n", "<!-- end of the table -->\n"
	text := readFile(t, path)
	head, rest, ok := strings.Cut(text, begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	if old == table {
		return
	}
	if !*updateMatrix {
		t.Errorf("%s has another table: run `go test ./integration -run ProxyMatrix -update`", path)
		return
	}
	if err := os.WriteFile(path, []byte(head+begin+table+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
