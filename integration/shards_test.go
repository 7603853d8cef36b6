package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
)

// sharded is a CA with two CRLs, of which files in the shell's directory hold the newest: shard0.crl, shard1.crl and
// root.crl. The certificate of zero is in shard 0; those of one and bad are in shard 1, and that of bad is revoked.
type sharded struct {
	*shell
	zero, one, bad *client.Identity
	server         *pkitest.Server
}

func newSharded(t *testing.T) *sharded {
	s := pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) { c.CRL.ShardSize = 5 }})
	sh := &sharded{shell: newShell(t, s), server: s} // the operator's, the daemon's and its OCSP responder's certificate are in shard 0
	enrol := func(name, url string) *client.Identity {
		id := s.Enrol(t, client.InvitationRequest{ClientID: name})
		if got := id.Certificate().Leaf.CRLDistributionPoints[0]; !strings.HasSuffix(got, url) {
			t.Fatalf("the CRL of %s is at %s, want one that ends with %s", name, got, url)
		}
		return id
	}
	issuers, err := s.Operator(t).Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := ca.IssuerID(issuers[0])
	sh.zero = enrol("zero", id+".crl")
	enrol("another", id+".crl")
	sh.one, sh.bad = enrol("one", id+"-1.crl"), enrol("bad", id+"-1.crl")
	sh.run(`pkictl revoke ` + filepath.Join(sh.bad.Dir(), "client.crt") + ` --reason keyCompromise --yes`)
	pkitest.Eventually(t, 5*time.Second, func() error {
		_, err := sh.try(`pkictl crl show --shard 1 | grep -q keyCompromise`)
		return err
	})
	sh.run(`for n in 0 1; do pkictl crl fetch --shard $n --out shard$n.crl; done; curl -sSf "$STATUS/crl/root.crl" -o root.crl`)
	return sh
}

// verdicts are what a program that checks certificates must say of which with which lists at hand.
func (sh *sharded) verdicts(check func(id *client.Identity, lists ...string) string, revoked, unknown string) {
	sh.t.Helper()
	for _, tt := range []struct {
		what  string
		id    *client.Identity
		lists []string
		want  string
	}{
		{"shard 0 with its list", sh.zero, []string{"shard0.crl"}, "good"},
		{"shard 1 with its list", sh.one, []string{"shard1.crl"}, "good"},
		{"shard 1 with both", sh.one, []string{"shard0.crl", "shard1.crl"}, "good"},
		{"shard 0 with both", sh.zero, []string{"shard1.crl", "shard0.crl"}, "good"},
		{"revoked, with its list", sh.bad, []string{"shard1.crl"}, revoked},
		{"revoked, with both", sh.bad, []string{"shard0.crl", "shard1.crl"}, revoked},
		{"shard 1 with the list of shard 0", sh.one, []string{"shard0.crl"}, unknown},
		{"shard 0 with the list of shard 1", sh.zero, []string{"shard1.crl"}, unknown},
		{"revoked, with the list of shard 0", sh.bad, []string{"shard0.crl"}, unknown},
	} {
		if got := check(tt.id, tt.lists...); !strings.Contains(got, tt.want) {
			sh.t.Errorf("%s: %s; want %q", tt.what, got, tt.want)
		}
	}
}

func TestOpenSSLTakesShards(t *testing.T) {
	t.Parallel()
	sh := newSharded(t)
	sh.verdicts(func(id *client.Identity, lists ...string) string {
		out, err := sh.try(fmt.Sprintf(`cat %[2]s > some.der; : > some.pem; for f in %[2]s; do openssl crl -inform DER -in $f >> some.pem; done
			openssl verify -crl_check -CAfile %[1]s/root.crt -untrusted %[1]s/client.crt -CRLfile some.pem %[1]s/client.crt 2>&1`,
			id.Dir(), strings.Join(lists, " ")))
		if err == nil {
			return "good"
		}
		return out
	}, "certificate revoked", "ifferent CRL scope")
}

// TestJavaTakesShards: with lists from files, for the whole chain, and with those that Java fetches where the
// certificate says.
func TestJavaTakesShards(t *testing.T) {
	t.Parallel()
	javac := pkitest.Need(t, "javac")
	java := pkitest.Need(t, "java")
	source, err := filepath.Abs(filepath.Join("testdata", "PKIXCheck.java"))
	if err != nil {
		t.Fatal(err)
	}
	sh := newSharded(t)
	sh.run(javac + ` -d . ` + source)
	check := func(id *client.Identity, lists ...string) string {
		out := sh.run(fmt.Sprintf(`%s -cp . PKIXCheck %[2]s/root.crt %[2]s/client.crt %[3]s`, java, id.Dir(), strings.Join(lists, " ")))
		return strings.Replace(out, "GOOD", "good", 1)
	}
	sh.verdicts(func(id *client.Identity, lists ...string) string { return check(id, append(lists, "root.crl")...) },
		"REVOKED at 0", "UNDETERMINED_REVOCATION_STATUS at 0")
	for id, want := range map[*client.Identity]string{sh.zero: "good", sh.one: "good", sh.bad: "REVOKED at 0"} {
		if got := check(id); !strings.Contains(got, want) {
			t.Errorf("the CRL that the certificate names, fetched: %s; want %q", got, want)
		}
	}
}

// nginx needs every shard's list in its file, and knows nothing of a certificate whose list is not there.
func TestNginxNeedsEveryShard(t *testing.T) {
	t.Parallel()
	nginx := pkitest.Need(t, "nginx")
	sh := newSharded(t)
	web := sh.server.Enrol(t, client.InvitationRequest{ClientID: "web", Profile: "server", SANs: []string{"localhost", "127.0.0.1"}})
	lists := func(shards string) string {
		return `{ openssl crl -inform DER -in root.crl; pkictl crl fetch --pem ` + shards + `; } > crl.pem`
	}
	sh.run(lists(""))
	addr := startNginx(t, nginx, sh.dir, web.Dir())
	get := func(id *client.Identity) string {
		out, err := sh.try(fmt.Sprintf(`curl -sS --cacert %[1]s/root.crt --cert %[1]s/client.crt --key %[1]s/client.key -w '%%{http_code}' https://%[2]s/`, id.Dir(), addr))
		if err != nil {
			return err.Error()
		}
		return out
	}
	for id, want := range map[*client.Identity]string{sh.zero: "200", sh.one: "200", sh.bad: "400"} {
		if got := get(id); !strings.Contains(got, want) {
			t.Errorf("with all lists: %s, want %s", got, want)
		}
	}
	sh.run(lists("--shard 0") + ` && kill -HUP "$(cat nginx.pid)"`)
	pkitest.Eventually(t, 5*time.Second, func() error {
		if got := get(sh.one); !strings.Contains(got, "400") {
			return fmt.Errorf("shard 1 without its list: %s", got)
		}
		return nil
	})
	if got := get(sh.zero); !strings.Contains(got, "200") {
		t.Errorf("shard 0 without the list of shard 1: %s", got)
	}
}
