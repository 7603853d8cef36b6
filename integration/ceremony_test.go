package integration

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
)

// section returns the blocks of a language in a section of docs/operations.md.
func section(t *testing.T, title, language string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## "+title+"\n")
	if !found {
		t.Fatalf("operations.md has no section %q", title)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(rest, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// TestKeyCeremony runs the commands of operations.md as they stand there, but for paths, ports and the host's name: an
// offline root that is OpenSSL, and what comes after it.
func TestKeyCeremony(t *testing.T) {
	t.Parallel()
	pkitest.Need(t, "openssl")
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	status := pkitest.FreeAddress(t)
	_, port, err := net.SplitHostPort(status)
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer(
		"/var/lib/pkid", data, "pki.example.com:8080", "localhost:"+port, "pki.example.com", "localhost", "0.0.0.0:8080", status,
		"0.0.0.0:8443", pkitest.FreeAddress(t), "0.0.0.0:9443", pkitest.FreeAddress(t), "127.0.0.1:9090", pkitest.FreeAddress(t),
	)
	sh := &shell{t: t, dir: dir, env: append(os.Environ(), "PATH="+filepath.Dir(pkitest.Build(t, "pkid"))+string(os.PathListSeparator)+os.Getenv("PATH"))}
	conf := section(t, "Key ceremony", "ini")
	commands := section(t, "Key ceremony", "sh")
	if len(conf) != 1 || len(commands) != 7 {
		t.Fatalf("the section has %d configurations and %d blocks of commands", len(conf), len(commands))
	}
	if err := os.WriteFile(filepath.Join(dir, "openssl.cnf"), []byte(here.Replace(conf[0])), 0o600); err != nil {
		t.Fatal(err)
	}
	sh.run(here.Replace(commands[0]))
	if _, err := sh.try("pkid serve --data " + data); err == nil || !strings.Contains(err.Error(), "pkid issuer install") {
		t.Errorf("serving before the certificate is there: %v", err)
	}
	for _, block := range commands[1:5] {
		sh.run(here.Replace(block))
	}
	s := pkitest.Serve(t, data, pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "svc"})
	sh.env = append(sh.env, "CLIENT="+id.Dir(), "STATUS="+s.URLs.Status)
	sh.run(`cp "$CLIENT/client.crt" . && csplit -s -z -f part- client.crt '/BEGIN/' '{*}'
		url=$(openssl x509 -in part-00 -noout -ext crlDistributionPoints | grep -o 'http[^ ]*')
		for u in "$url" "$STATUS/crl/root.crl"; do curl -sSf --retry 5 --retry-all-errors "$u" | openssl crl -inform DER; done > crls.pem
		openssl verify -crl_check_all -CRLfile crls.pem -CAfile root.crt -untrusted part-01 -purpose sslclient part-00`)
	s.Stop(t)

	// The root is taken over by another pkid, and so is an issuing CA that it signed for a key in a file.
	sh.run(strings.ReplaceAll(commands[5], "DIR", "below-the-root"))
	sh.run(`openssl ecparam -name prime256v1 -genkey -out issuer.key
		openssl req -new -config openssl.cnf -subj "/CN=Old Issuing CA" -key issuer.key -out old.csr
		openssl ca -config openssl.cnf -extensions issuing_extensions -batch -notext -in old.csr -passin file:root.pass -out chain.pem`)
	file, _, _ := strings.Cut(commands[6], "\n")
	sh.run(strings.ReplaceAll(file, "DIR", "taken-over"))
	for _, dir := range []string{"below-the-root", "taken-over"} {
		sh.run(`test "$(openssl x509 -in ` + dir + `/root.crt -noout -fingerprint)" = "$(openssl x509 -in root.crt -noout -fingerprint)"
			openssl verify -CAfile root.crt ` + dir + `/issuer.crt`)
	}
}

// TestSystemdUnit holds the units to systemd's own judgement, without running them.
func TestSystemdUnit(t *testing.T) {
	judge := pkitest.Need(t, "systemd-analyze") //nolint:misspell // the program is spelt so
	units, err := filepath.Glob("../deploy/systemd/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	program, err := os.Executable() // there must be one
	if err != nil {
		t.Fatal(err)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), filepath.Base(unit))
		there := strings.NewReplacer("/usr/local/bin/pkid", program, "/usr/local/bin/pkictl", program).Replace(string(text))
		if err := os.WriteFile(copied, []byte(there), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"verify", copied}, {"security", "--offline=yes", "--no-pager", "--threshold=20", copied}} {
			if out, err := exec.CommandContext(t.Context(), judge, args...).CombinedOutput(); err != nil || args[0] == "verify" && len(out) > 0 {
				t.Errorf("%s %s: %v\n%s", judge, args[0], err, out)
			}
		}
	}
}
