package chaos

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mrand "math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind"
)

// worker is one of the clients that make the load. It acts on things of its own, one act at a time, so that it knows
// in what state they are; what it does not know for sure it leaves alone from then on.
type worker struct {
	name   string
	nodes  []*Node
	ledger *Ledger
	random *mrand.Rand
	key    *ecdsa.PrivateKey // of its certificates and its proofs
	prover *tokenbind.Prover
	nonce  string
	made   int // clients so far

	certs   []*holding
	clients []*oauthClient
	tokens  []*Token
}

// holding is a certificate of the worker's.
type holding struct {
	Certificate
	pair  *tls.Certificate
	state State
}

type oauthClient struct {
	id, secret string
	state      State
}

func newWorker(name string, nodes []*Node, l *Ledger, random *mrand.Rand) (*worker, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	prover, err := tokenbind.NewProver(key)
	return &worker{name: name, nodes: nodes, ledger: l, random: random, key: key, prover: prover}, err
}

// maxHeld bounds what a worker keeps acting on; what it lets go of stays in the ledger.
const maxHeld = 24

// run acts until stop is closed.
func (w *worker) run(ctx context.Context, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		default:
		}
		if !w.act(ctx, w.nodes[w.random.IntN(len(w.nodes))]) {
			time.Sleep(5 * time.Millisecond) // the node is down: nothing is gained by asking it at once again
		}
		w.certs, w.clients, w.tokens = newest(w.certs), newest(w.clients), newest(w.tokens)
	}
}

func newest[T any](s []T) []T { return s[max(0, len(s)-maxHeld):] }

// act does something that the worker can do, and reports whether it was answered.
func (w *worker) act(ctx context.Context, n *Node) bool {
	switch d := w.random.IntN(100); {
	case len(w.certs) == 0 || d < 20:
		return w.enrol(ctx, n)
	case d < 35:
		return w.renew(ctx, n)
	case d < 55:
		return w.revoke(ctx, n)
	case len(w.clients) == 0 || d < 62:
		return w.addClient(ctx, n)
	case d < 70:
		return w.switchClient(ctx, n)
	case len(w.tokens) == 0 || d < 92:
		return w.token(ctx, n)
	default:
		return w.revokeToken(ctx, n)
	}
}

// record notes an act, complains if what had to be granted was refused, and returns the outcome.
func (w *worker) record(a Act, err error) Outcome {
	o := outcomeOf(err)
	w.ledger.Record(a, o)
	if o == Refused && !notSent(err) {
		w.ledger.Complain(Violation{Rule: RefusedWrongly, Subject: a.Key, Detail: fmt.Sprintf("%s: %v", a.Action, err)})
	}
	return o
}

// enrol makes an invitation and redeems it.
func (w *worker) enrol(ctx context.Context, n *Node) bool {
	id := w.newID("machine")
	var inv client.Invitation
	err := n.ask(ctx, http.MethodPost, "/v1/invitations", client.InvitationRequest{ClientID: id}, &inv)
	o := w.record(Act{audit.Invite, id, ""}, err)
	w.ledger.Record(Act{audit.ClientAdd, id, Enabled}, o)
	if o != Acknowledged {
		return false
	}
	csr, err := newCSR(w.key, id)
	if err != nil {
		panic("chaos: a P-256 key signs: " + err.Error())
	}
	i := &Invitation{ID: inv.ID, ClientID: id, Token: inv.Token, CSR: csr}
	w.ledger.Invited(i)
	if w.random.IntN(20) == 0 {
		return true // redeemed after the fault, by the check
	}
	cert, err := redeem(ctx, w.nodes[w.random.IntN(len(w.nodes))], i, csr)
	if w.record(Act{audit.Issue, i.ID, ""}, err) != Acknowledged {
		return false
	}
	w.ledger.Redeemed(i, cert.Serial)
	w.got(cert)
	return true
}

// newCSR is a request in PEM.
func newCSR(key crypto.Signer, name string) (string, error) {
	template := &x509.CertificateRequest{DNSNames: []string{name}} // which is not what the certificate will say
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), err
}

// redeem sends an invitation's token with a request.
func redeem(ctx context.Context, n *Node, i *Invitation, csr string) (*client.Certificate, error) {
	cert := new(client.Certificate)
	header := http.Header{"Authorization": {"Bearer " + i.Token}}
	return cert, call(ctx, n.anyone, http.MethodPost, n.urls.Public+"/v1/certificates", header, client.CSR{CSR: csr}, cert)
}

// got keeps a certificate that came.
func (w *worker) got(c *client.Certificate) {
	held := &holding{Certificate: Certificate{c.Serial, c.Certificate, c.ClientID, time.Now()}, state: Active}
	w.ledger.Got(held.Certificate)
	leaf, err := parse(c.Certificate)
	if err != nil {
		w.ledger.Complain(Violation{Rule: CannotBeVerified, Subject: c.Serial, Detail: err.Error()})
		return
	}
	held.pair = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: w.key, Leaf: leaf}
	for _, text := range c.Chain {
		if between, err := parse(text); err == nil {
			held.pair.Certificate = append(held.pair.Certificate, between.Raw)
		}
	}
	w.certs = append(w.certs, held)
}

// renew renews a certificate, for the same key, over a connection of its own.
func (w *worker) renew(ctx context.Context, n *Node) bool {
	held := w.pick(func(h *holding) bool { return h.state == Active })
	if held == nil {
		return true
	}
	hc := n.showing(n.cfg.Listen.MTLS, held.pair)
	defer hc.CloseIdleConnections()
	cert := new(client.Certificate)
	err := call(ctx, hc, http.MethodPost, n.urls.MTLS+"/v1/certificates/renew", nil, client.CSR{}, cert)
	if w.record(Act{audit.Renew, held.Serial, ""}, err) != Acknowledged {
		return false
	}
	w.got(cert)
	return true
}

func (w *worker) pick(fits func(*holding) bool) *holding {
	for _, i := range w.random.Perm(len(w.certs)) {
		if fits(w.certs[i]) {
			return w.certs[i]
		}
	}
	return nil
}

// revoke revokes or holds a certificate, or releases one that is held.
func (w *worker) revoke(ctx context.Context, n *Node) bool {
	held := w.pick(func(h *holding) bool { return h.state != Revoked })
	if held == nil {
		return true
	}
	act, reason := Act{audit.Revoke, held.Serial, Revoked}, "superseded"
	switch toss := w.random.IntN(2) == 0; {
	case toss && held.state == Active:
		act, reason = Act{audit.Hold, held.Serial, Held}, "certificateHold"
	case toss:
		act, reason = Act{audit.Release, held.Serial, Active}, "removeFromCRL"
	}
	err := n.ask(ctx, http.MethodPost, "/v1/certificates/"+held.Serial+"/revoke", client.Revocation{Reason: reason}, nil)
	switch w.record(act, err) {
	case Acknowledged:
		held.state = act.After
		return true
	case Unknown:
		w.certs = slices.DeleteFunc(w.certs, func(h *holding) bool { return h == held })
	}
	return false
}

func (w *worker) addClient(ctx context.Context, n *Node) bool {
	id := w.newID("app")
	out := new(client.ClientRecord)
	err := n.ask(ctx, http.MethodPost, "/v1/clients", client.ClientRecord{ID: id, Auth: "client_secret_basic", DPoP: true, Nonce: "optional"}, out)
	if w.record(Act{audit.ClientAdd, id, Enabled}, err) != Acknowledged {
		return false
	}
	w.clients = append(w.clients, &oauthClient{id, out.Secret, Enabled})
	return true
}

func (w *worker) newID(kind string) string {
	w.made++
	return fmt.Sprintf("%s-%s-%d", kind, w.name, w.made)
}

// switchClient disables a client that is enabled, and the other way round.
func (w *worker) switchClient(ctx context.Context, n *Node) bool {
	c := w.clients[w.random.IntN(len(w.clients))]
	act := Act{audit.ClientDisable, c.id, Disabled}
	if c.state == Disabled {
		act = Act{audit.ClientEnable, c.id, Enabled}
	}
	disabled := act.After == Disabled
	err := n.ask(ctx, http.MethodPatch, "/v1/clients/"+c.id, client.ClientPatch{Disabled: &disabled}, nil)
	o := w.record(act, err)
	w.ledger.Ended(c.id, o)
	switch o {
	case Acknowledged:
		c.state = act.After
		w.tokens = slices.DeleteFunc(w.tokens, func(t *Token) bool { return t.ClientID == c.id })
		return true
	case Unknown:
		w.clients = slices.DeleteFunc(w.clients, func(other *oauthClient) bool { return other == c })
		w.tokens = slices.DeleteFunc(w.tokens, func(t *Token) bool { return t.ClientID == c.id })
	}
	return false
}

// useNonce is the refusal of a proof that lacks the server's nonce (RFC 9449 section 8).
const useNonce = "use_dpop_nonce"

// token asks for a token with a fresh proof. One proof in four is sent twice at the same time, to any two nodes.
func (w *worker) token(ctx context.Context, n *Node) bool {
	c := w.clients[w.random.IntN(len(w.clients))]
	if c.state != Enabled {
		return true
	}
	text, err := w.prover.Proof(http.MethodPost, n.urls.Public+"/oauth/token", tokenbind.ProofOptions{Nonce: w.nonce})
	if err != nil {
		panic("chaos: a P-256 key signs: " + err.Error())
	}
	p := &Proof{ClientID: c.id, Secret: c.secret, Text: text, At: time.Now()}
	var twin sync.WaitGroup
	if w.random.IntN(4) == 0 {
		other := w.nodes[w.random.IntN(len(w.nodes))]
		twin.Go(func() { _, _ = w.ledger.prove(ctx, other, p) })
	}
	t, err := w.ledger.prove(ctx, n, p)
	twin.Wait()
	if err == nil {
		w.tokens = append(w.tokens, t)
		return true
	}
	problem, answered := errors.AsType[*client.Problem](err)
	if answered && problem.Type == useNonce {
		w.nonce = problem.Detail
	}
	return answered
}

// prove asks for a token with this very proof, and notes what came of it.
func (l *Ledger) prove(ctx context.Context, n *Node, p *Proof) (*Token, error) {
	header := http.Header{"Dpop": {p.Text}, "Authorization": {basic(p.ClientID, p.Secret)}}
	var answer client.Token
	err := call(ctx, n.anyone, http.MethodPost, n.urls.Public+"/oauth/token", header, url.Values{"grant_type": {"client_credentials"}}, &answer)
	l.Proved(p, err == nil)
	if err != nil {
		return nil, err
	}
	t := Token{JTI: jti(answer.AccessToken), ClientID: p.ClientID, Secret: p.Secret, Text: answer.AccessToken, At: time.Now()}
	l.Tokened(t)
	return &t, nil
}

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
}

// jti reads a token's id; the tokens come from the server under test, over TLS.
func jti(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	text, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		ID string `json:"jti"`
	}
	_ = json.Unmarshal(text, &claims)
	return claims.ID
}

// revokeToken revokes one of the worker's tokens (RFC 7009).
func (w *worker) revokeToken(ctx context.Context, n *Node) bool {
	at := w.random.IntN(len(w.tokens))
	t := w.tokens[at]
	w.tokens = slices.Delete(w.tokens, at, at+1)
	if time.Since(t.At) > remembered {
		return true
	}
	header := http.Header{"Authorization": {basic(t.ClientID, t.Secret)}}
	err := call(ctx, n.anyone, http.MethodPost, n.urls.Public+"/oauth/revoke", header, url.Values{"token": {t.Text}}, nil)
	return w.record(Act{audit.TokenRevoke, t.JTI, Revoked}, err) == Acknowledged
}

// serialText is a serial as the REST API has it.
func serialText(n *big.Int) string { return fmt.Sprintf("%032x", n) }
