package integration

import (
	"crypto"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

// The same proof many times at once, over connections of their own, gives one token, and one answer of a resource server.
func TestE27_OneOfManyAtOnceOverTLS(t *testing.T) {
	t.Parallel()
	s := newFAPISite(t)
	p := s.party(variant{byKey, byDPoP}, "racer")
	token := p.mustToken(ask{})
	p.open("the token", token, ask{}) // and the nonces are known
	var clients [64]*http.Client
	for i := range clients {
		clients[i] = s.showing(nil)
	}
	for _, at := range []struct{ name, method, target, token string }{
		{"token endpoint", http.MethodPost, p.endpoint(), ""},
		{"resource server", http.MethodGet, s.resource + "?a=b", token},
	} {
		for range 5 {
			proof := p.makeProof(at.method, at.target, at.token, ask{})
			var good, replays atomic.Int32
			atOnce(len(clients), func(i int) {
				got := p.sendOnce(at.method, at.target, at.token, ask{http: clients[i], proofs: func(string) []string { return []string{proof} }})
				switch {
				case got.status == http.StatusOK:
					good.Add(1)
				case strings.Contains(got.body+got.header.Get("WWW-Authenticate"), "invalid_dpop_proof"):
					replays.Add(1)
				default:
					t.Errorf("%s: %s", at.name, got)
				}
			})
			if good.Load() != 1 || replays.Load() != 63 {
				t.Errorf("%s: %d of 64 were let in, and %d told that it was a replay", at.name, good.Load(), replays.Load())
			}
		}
	}
}

// atOnce calls f in so many goroutines, none of which begins before all are there.
func atOnce(n int, f func(i int)) {
	var ready, done sync.WaitGroup
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			f(i)
		})
	}
	done.Wait()
}

// Three nodes that share a database, each asked twice with the same proof at the same time, and with many proofs at once:
// each proof gives one token.
func TestE27_OneTokenAcrossThreeNodes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, pgtest.Database(t), 3)
	prover := proverOf(t, c.first, c.robot)
	const proofs = 25
	target := c.first.URLs.MTLS + "/oauth/token"
	var won [proofs]atomic.Int32
	var all sync.WaitGroup
	for i := range proofs {
		proof, err := prover.Proof(http.MethodPost, target, tokenbind.ProofOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range append(c.nodes, c.nodes...) {
			all.Go(func() {
				header := isForm.Clone()
				header.Set("DPoP", proof)
				got, err := n.do(c.robot, http.MethodPost, target, header, "grant_type=client_credentials&client_id=robot")
				switch {
				case err != nil:
					t.Error(err)
				case got.status == http.StatusOK:
					won[i].Add(1)
				case got.status != http.StatusBadRequest || !strings.Contains(got.body, "invalid_dpop_proof"):
					t.Errorf("node %s: %s", n.name, got)
				}
			})
		}
		if i%5 == 4 {
			all.Wait() // thirty requests at once are no overload
		}
	}
	all.Wait()
	for i := range won {
		if n := won[i].Load(); n != 1 {
			t.Errorf("proof %d gave %d tokens", i, n)
		}
	}
}

// proverOf has a client exempted from nonces, and makes its proofs.
func proverOf(t *testing.T, s *pkitest.Server, id *client.Identity) *tokenbind.Prover {
	t.Helper()
	optional := "optional"
	if _, err := s.Operator(t).PatchClient(t.Context(), id.Info().ClientID, client.ClientPatch{Nonce: &optional}); err != nil {
		t.Fatal(err)
	}
	prover, err := tokenbind.NewProver(id.Certificate().PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	return prover
}

// A proof that was used before a stop is known after it, on either store, and one that was not is good. What a kill leaves
// is tested in internal/daemon and, with SIGKILL and both stores, in internal/chaos.
func TestE27_StopOpensNoGap(t *testing.T) {
	for _, store := range []string{"bolt", "PostgreSQL"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			var o pkitest.Options
			if store == "PostgreSQL" {
				o.Database = pgtest.Database(t)
			}
			s := pkitest.Start(t, o)
			id := s.Enrol(t, client.InvitationRequest{ClientID: "robot"})
			prover := proverOf(t, s, id)
			var used, unused []string
			for range 10 {
				for _, list := range []*[]string{&used, &unused} {
					proof, err := prover.Proof(http.MethodPost, s.URLs.MTLS+"/oauth/token", tokenbind.ProofOptions{})
					if err != nil {
						t.Fatal(err)
					}
					*list = append(*list, proof)
				}
			}
			at := func(c *config.Config) *node { return nodeOf(t, "the one", c) }
			for _, proof := range used {
				accessToken(t, at(s.Config).token(id, proof))
			}
			s.Stop(t)
			again := at(pkitest.Serve(t, s.Dir, pkitest.Options{}).Config)
			for i := range used {
				if got := again.token(id, used[i]); got.status != http.StatusBadRequest || !strings.Contains(got.body, "invalid_dpop_proof") {
					t.Errorf("used before the stop: %s", got)
				}
				accessToken(t, again.token(id, unused[i]))
			}
		})
	}
}
