package pkid_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pkid/pkid/"

// rooms says what each package may import beside the standard library, with the reason. A path that ends in
// "/..." covers what lies below it. Packages that are not named here may import anything but what bans says.
var rooms = []struct {
	pkg   string
	allow []string
	why   string
}{
	{"thumbprint", nil, "every other room compares these; they must be readable on their own"},
	{"internal/appendjson", nil, "a notation, and nothing that is written in it"},
	{"internal/audit", []string{module + "internal/appendjson"}, "an audit log that depends on what it audits proves little; a notation is not audited"},
	{"internal/jws", nil, "what strangers send is read by this and the standard library alone"},
	{"internal/admission", []string{module + "internal/recent", "golang.org/x/time/rate"}, "who may come in, before anybody asks what for"},
	{"internal/durable", nil, "a flush, and nothing of what is flushed"},
	{"internal/recent", nil, "a bounded memory, and nothing of what is remembered"},
	{"crl", []string{module + "thumbprint"}, "servers import the checker; it must not pull in a CA"},
	{"revocation", []string{module + "thumbprint", module + "crl", module + "tokenbind"}, "a resource server must not pull in a CA"},
	{"ca", []string{module + "thumbprint", module + "internal/audit"}, "what decides and signs knows no transport and no engine"},
	{"ocsp", []string{module + "internal/recent", "golang.org/x/crypto/cryptobyte", "golang.org/x/crypto/cryptobyte/asn1"}, "what strangers ask is read by this alone; the CA reaches it through an interface"},
	{"enroll", []string{module + "ca", module + "thumbprint", module + "internal/audit"}, "it knows who asks, not how they came"},
	{"tokenbind", []string{module + "thumbprint", module + "internal/jws", module + "internal/recent"}, "a resource server must not pull in a CA, nor anything it need not trust"},
	{"tokenbind/authserver", []string{
		module + "tokenbind", module + "thumbprint", module + "internal/appendjson", module + "internal/audit", module + "internal/jws", module + "internal/recent",
	}, "the CA reaches it through an interface"},
	{"forwardauth", []string{module + "tokenbind"}, "a resource server behind a proxy must not pull in a CA either"},
	{"client", []string{module + "tokenbind", module + "thumbprint", module + "internal/durable"}, "an application must not pull in a CA"},
	{"internal/crlfile", []string{module + "crl", module + "internal/durable"}, "a file of CRLs, and not where the CA names them"},
	{"grpcauth", []string{
		module + "client", module + "tokenbind", "google.golang.org/grpc", "google.golang.org/grpc/codes", "google.golang.org/grpc/credentials",
		"google.golang.org/grpc/metadata", "google.golang.org/grpc/peer", "google.golang.org/grpc/status",
	}, "what is there for HTTP, over gRPC, and nothing else"},
	{"cmd/pkictl", []string{
		module + "client", module + "thumbprint", module + "tokenbind", module + "crl", module + "internal/audit", module + "internal/crlfile",
		"github.com/spf13/cobra", "golang.org/x/term",
	}, "the CLI is a client like any other"},
	{"internal/config", []string{"go.yaml.in/yaml/v3", module + "internal/secret"}, "a file turned into values, nothing more"},
	{"internal/stepimport", []string{
		"go.etcd.io/bbolt", "go.etcd.io/bbolt/errors", "github.com/dgraph-io/badger", "github.com/dgraph-io/badger/options",
		"github.com/dgraph-io/badger/v2", "github.com/dgraph-io/badger/v2/options",
	}, "it reads what another program left, and decides nothing"},
	{"internal/keyring", []string{module + "internal/audit"}, "what keys there are, and nothing of what is done with them"},
	{"internal/rollover", []string{
		module + "ca", module + "thumbprint", module + "internal/audit", module + "internal/keyring", module + "internal/stepca",
	}, "it decides which key does what when; who serves with them follows"},
	{"internal/secret", nil, "what reads every secret must be readable on its own"},
}

// bans say which imports only some packages may have, directly.
var bans = []struct {
	path  string // a prefix
	allow []string
	why   string
}{
	{"net/http", []string{
		"crl", "revocation", "tokenbind", "tokenbind/authserver", "forwardauth", "client", "web", "internal/daemon", "internal/verifyproxy", "cmd/pkictl",
		"internal/crlfile", "internal/connstate", "internal/pkitest", "grpcauth", "forwardauth/extauthz", "internal/chaos", "examples/go/...",
	}, "ca and enroll know no HTTP; errors become statuses in web"},
	{"github.com/smallstep/certificates", []string{"internal/stepca"}, "its traps are fenced in one place"},
	{"go.step.sm/crypto", []string{"internal/stepca"}, "keys are opened in one place"},
	{"go.etcd.io/bbolt", []string{"internal/boltstore", "internal/stepimport"}, "the engine is a detail of its store, and of step-ca's"},
	{"github.com/dgraph-io/badger", []string{"internal/stepimport"}, "step-ca's engine, which nobody maintains any more, is read once and never served from"},
	{module + "internal/stepimport", []string{"internal/daemon"}, "what another program left is taken over offline"},
	{"github.com/jackc/pgx", []string{"internal/pgstore", "internal/pgtest"}, "the engine is a detail of its store"},
	{"google.golang.org/grpc", []string{"grpcauth", "forwardauth/extauthz", "internal/verifyproxy"}, "who speaks no gRPC must not link it"},
	{"github.com/envoyproxy", []string{"forwardauth/extauthz"}, "Envoy's messages are those of its own room"},
	{"github.com/gorilla/mux", []string{"web"}, "all routes are in one table"},
	{module + "web", []string{"internal/daemon"}, "nothing depends on how requests arrive but the daemon"},
}

// trees say what may not be reached at all, however indirectly.
var trees = []struct {
	pkg, never string
	why        string
}{
	{"tokenbind", module + "ca", "a resource server must not pull in a CA"},
	{"tokenbind", module + "web", "a resource server must not pull in a daemon"},
	{"tokenbind", "go.etcd.io/bbolt", "a resource server must not pull in a store"},
	{"tokenbind/authserver", "github.com/go-jose/go-jose", "tests hold it against this library, which thus must be another's"},
	{"revocation", module + "ca", "a resource server must not pull in a CA"},
	{"revocation", "go.etcd.io/bbolt", "a resource server must not pull in a store"},
	{"client", module + "ca", "an application must not pull in a CA"},
	{"client", module + "web", "an application must not pull in a daemon"},
	{"client", "go.etcd.io/bbolt", "an application must not pull in a store"},
	{"internal/verifyproxy", module + "ca", "it stands beside a proxy, away from the CA"},
	{"internal/verifyproxy", module + "web", "it has one path, and knows no other"},
	{"internal/verifyproxy", module + "internal/daemon", "it is no daemon with a part switched off"},
	{"internal/verifyproxy", "go.etcd.io/bbolt", "it keeps nothing"},
	{"internal/verifyproxy", "github.com/jackc/pgx", "it keeps nothing"},
	{"internal/verifyproxy", "github.com/smallstep/certificates", "it signs nothing"},
	{"forwardauth", module + "ca", "a resource server must not pull in a CA"},
	{"cmd/pkictl", "github.com/smallstep/certificates", "the CLI signs nothing"},
	{"crl", "github.com/go-jose/go-jose", "checking a certificate needs no tokens"},
	{"ca", "net/http", "what decides and signs knows no transport"},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImportsFollowTheHouse(t *testing.T) {
	pkgs := list(t)
	for _, r := range rooms {
		p := pkgs[module+r.pkg]
		if p == nil {
			t.Errorf("%s: no such package; mend the table", r.pkg)
			continue
		}
		for _, imp := range p.Imports {
			if strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") && !matches(imp, r.allow) {
				t.Errorf("%s imports %s: %s", r.pkg, imp, r.why)
			}
		}
	}
	for _, b := range bans {
		for path, p := range pkgs {
			name := strings.TrimPrefix(path, module)
			for _, imp := range p.Imports {
				if (imp == b.path || strings.HasPrefix(imp, b.path+"/") && b.path != "net/http") && !matches(name, b.allow) {
					t.Errorf("%s imports %s: %s", name, imp, b.why)
				}
			}
		}
	}
	for _, tr := range trees {
		if p := pkgs[module+tr.pkg]; p != nil {
			for _, dep := range p.Deps {
				if dep == tr.never || strings.HasPrefix(dep, tr.never+"/") {
					t.Errorf("%s depends on %s: %s", tr.pkg, dep, tr.why)
				}
			}
		}
	}
}

func matches(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		base, below := strings.CutSuffix(p, "/...")
		return path == base || (below && strings.HasPrefix(path, base+"/"))
	})
}

func list(t *testing.T) map[string]*pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string]*pkg{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = &p
	}
	if len(pkgs) < len(rooms) {
		t.Fatalf("go list found %d packages", len(pkgs))
	}
	return pkgs
}
