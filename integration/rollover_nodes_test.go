package integration

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// Every node has a new issuing CA, its CRL and the root's new one long before it signs, and the same token keys.
func TestNodesRotate(t *testing.T) {
	t.Parallel()
	c := newCluster(t, pgtest.Database(t), 3)
	i, err := daemon.Rotation{ActiveIn: "0s"}.Rotate(t.Context(), c.first.Config)
	if err != nil {
		t.Fatal(err)
	}
	if i.State != "waiting" || time.Until(i.ActiveFrom) < 30*time.Second {
		t.Errorf("%s is %s and signs from %s: the nodes have no time", i.ID, i.State, i.ActiveFrom)
	}
	everywhere := func(what string, check func(*node) error) {
		t.Helper()
		for _, n := range c.nodes {
			pkitest.Eventually(t, 20*time.Second, func() error {
				if err := check(n); err != nil {
					return fmt.Errorf("%s at node %s: %w", what, n.name, err)
				}
				return nil
			})
		}
	}
	get := func(n *node, target, want string) (answer, error) {
		got, err := n.do(c.operator, http.MethodGet, target, nil, "")
		if err == nil && (got.status != http.StatusOK || !strings.Contains(got.body, want)) {
			err = fmt.Errorf("%s; want %q in it", got, want)
		}
		return got, err
	}
	numbers := map[string]bool{}
	everywhere("the new CA", func(n *node) error {
		if _, err := get(n, n.urls.Public+"/v1/ca", i.ID); err != nil {
			return err
		}
		if _, err := get(n, n.urls.Status+"/issuers/"+i.ID+".crt", i.Subject[3:]); err != nil {
			return err
		}
		_, err := get(n, i.CRL, i.Subject[3:])
		return err
	})
	for _, n := range c.nodes {
		got, err := get(n, n.urls.Status+"/crl/root.crl", "")
		if err != nil {
			t.Fatal(err)
		}
		list, err := x509.ParseRevocationList([]byte(got.body))
		if err != nil {
			t.Fatal(err)
		}
		numbers[list.Number.String()] = true
	}
	if len(numbers) != 1 {
		t.Errorf("the nodes publish different CRLs of the root: %v", numbers)
	}

	operator := c.first.Operator(t)
	before, err := operator.TokenKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token := accessToken(t, c.nodes[2].token(c.robot, ""))
	if err := operator.DropTokenKey(t.Context(), before[0].ID); err != nil {
		t.Fatal(err)
	}
	after, err := operator.TokenKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var signs client.TokenKeyState
	for _, k := range after {
		if k.Signs {
			signs = k
		}
	}
	everywhere("the key that signs now", func(n *node) error {
		_, err := get(n, n.urls.Public+"/oauth/jwks", signs.ID)
		return err
	})
	for _, n := range c.nodes {
		if got := n.introspect(c.asker, token); got.body != `{"active":false}` {
			t.Errorf("a token of the dropped key at node %s: %s", n.name, got)
		}
		mine := accessToken(t, n.token(c.robot, ""))
		for _, m := range c.nodes {
			if got := m.introspect(c.asker, mine); !strings.Contains(got.body, `"active":true`) {
				t.Errorf("a token of node %s at node %s: %s", n.name, m.name, got)
			}
		}
	}
}
