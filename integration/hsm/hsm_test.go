//go:build pkcs11 && cgo

package hsm

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/hsmtest"
)

// pkid is the real command, built with the tag.
type pkid struct {
	*testing.T
	path, dir string
	log       *output // what every command wrote
	config    *config.Config
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func build(t *testing.T) *pkid {
	t.Helper()
	dir := t.TempDir()
	p := &pkid{T: t, path: filepath.Join(dir, "pkid"), dir: filepath.Join(dir, "data"), log: &output{}}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-tags", "pkcs11", "-o", p.path, "../../cmd/pkid").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return p
}

func (p *pkid) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	return cmd
}

func (p *pkid) run(args ...string) error {
	ctx, cancel := context.WithTimeout(p.Context(), time.Minute)
	defer cancel()
	return p.command(ctx, args...).Run()
}

// serve runs the daemon until the test ends, and returns its process id once it is ready.
func (p *pkid) serve() int {
	p.Helper()
	var err error
	if p.config, err = config.Load(filepath.Join(p.dir, config.File)); err != nil {
		p.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.Context()))
	cmd := p.command(ctx, "serve", "--data", p.dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() {
		cancel()
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			p.Errorf("pkid serve: %v", err)
		}
		if p.Failed() {
			p.Log(p.log.String())
		}
	})
	p.eventually("the daemon is ready", func() error { return p.ready() })
	return cmd.Process.Pid
}

// ready returns nil if /readyz is well, and else what it says.
func (p *pkid) ready() error {
	status, body, err := p.get("http://" + p.config.Listen.Ops + "/readyz")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("readyz: %d %s", status, body)
	}
	return err
}

func (p *pkid) get(url string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(p.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

func (p *pkid) eventually(what string, f func() error) {
	p.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.Fatalf("%s: not in time: %v\n%s", what, err, p.log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (p *pkid) enrol(id string) *client.Identity {
	p.Helper()
	inv, err := p.operator().API().Invite(p.Context(), client.InvitationRequest{ClientID: id})
	if err != nil {
		p.Fatal(err)
	}
	token, err := client.ParseEnrolmentToken(inv.Token)
	if err != nil {
		p.Fatal(err)
	}
	identity, err := client.Enroll(p.Context(), token, client.EnrollOptions{Dir: filepath.Join(p.TempDir(), id)})
	if err != nil {
		p.Fatal(err)
	}
	return identity
}

func (p *pkid) operator() *client.Identity {
	p.Helper()
	op, err := client.Load(filepath.Join(p.dir, "admin"))
	if err != nil {
		p.Fatal(err)
	}
	return op
}

func (p *pkid) token(id *client.Identity) error {
	source, err := client.NewTokenSource(client.TokenConfig{Identity: id})
	if err != nil {
		return err
	}
	_, err = source.Token(p.Context())
	return err
}

// TestPKCS11 is the life of a CA whose keys are in a device: it issues, revokes and signs tokens with them, says so when
// the device is pulled, and goes on when it is back.
func TestPKCS11(t *testing.T) {
	p := build(t)
	token := hsmtest.New(t)
	p.refusesExistingKey(token)
	p.runsTheManual(token)
	p.dir += "-in-service"
	device := token.Flaky(t)
	err := p.run("init", "--data", p.dir, "--public", "127.0.0.1:0", "--mtls", "127.0.0.1:0", "--status", "127.0.0.1:0", "--ops", "127.0.0.1:0",
		"--issuer-key", token.URI("01", "issuer"), "--token-key", token.URI("02", "tokens"))
	if err != nil {
		t.Fatalf("init: %v\n%s", err, p.log)
	}
	for _, name := range []string{"issuer.key", "token.key"} {
		if _, err := os.Stat(filepath.Join(p.dir, "keys", name)); !os.IsNotExist(err) {
			t.Errorf("%s is a file: %v", name, err)
		}
	}
	process := p.serve()
	id := p.enrol("svc")
	if err := p.token(id); err != nil {
		t.Fatalf("token: %v", err)
	}
	p.revokes(id)
	p.pulled(device)
	p.tellsNoPIN(token.PIN, process)
}

// revokes revokes a certificate and waits for the CRL that says so.
func (p *pkid) revokes(id *client.Identity) {
	p.Helper()
	leaf := id.Certificate().Leaf
	if _, err := p.operator().API().Revoke(p.Context(), fmt.Sprintf("%032x", leaf.SerialNumber), client.Revocation{Reason: "keyCompromise"}); err != nil {
		p.Fatal(err)
	}
	issuers, err := p.operator().API().Issuers(p.Context())
	if err != nil {
		p.Fatal(err)
	}
	p.eventually("a CRL lists what was revoked", func() error {
		_, der, err := p.get(leaf.CRLDistributionPoints[0])
		if err != nil {
			return err
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return err
		}
		if err := list.CheckSignatureFrom(issuers[0]); err != nil {
			p.Fatal(err)
		}
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
				return nil
			}
		}
		return errors.New("not listed")
	})
}

// pulled takes the device away and gives it back.
func (p *pkid) pulled(device hsmtest.Switch) {
	p.Helper()
	id := p.enrol("other")
	device.Pull(p)
	problem, ok := errors.AsType[*client.Problem](id.Renew(p.Context(), client.RenewOptions{}))
	if !ok || problem.Status != http.StatusServiceUnavailable || strings.Contains(problem.Error(), "CKR_") {
		p.Errorf("renewing while the device is away: %v", problem)
	}
	if err := p.token(id); err == nil || !strings.Contains(err.Error(), "temporarily_unavailable") {
		p.Errorf("a token while the device is away: %v", err)
	}
	if err := p.ready(); err == nil || !strings.Contains(err.Error(), "issuing key") || !strings.Contains(err.Error(), "token key") {
		p.Errorf("readiness while the device is away: %v", err)
	}
	device.Well(p)
	p.eventually("the daemon finds its device again, unasked", p.ready)
	if err := id.Renew(p.Context(), client.RenewOptions{}); err != nil {
		p.Errorf("renewing after the device came back: %v", err)
	}
	if err := p.token(id); err != nil {
		p.Errorf("a token after the device came back: %v", err)
	}
}

// tellsNoPIN looks for the PIN where it must not be.
func (p *pkid) tellsNoPIN(pin string, process int) {
	p.Helper()
	if err := p.run("check-config", "--data", p.dir); err != nil {
		p.Error(err)
	}
	places := map[string]string{"what the commands wrote": p.log.String()}
	for _, path := range []string{
		filepath.Join(p.dir, config.File), fmt.Sprintf("/proc/%d/cmdline", process), fmt.Sprintf("/proc/%d/environ", process),
	} {
		text, err := os.ReadFile(path)
		if err != nil && !strings.HasPrefix(path, "/proc/") {
			p.Fatal(err)
		}
		places[path] = string(text)
	}
	for place, text := range places {
		if strings.Contains(text, pin) {
			p.Errorf("the PIN stands in %s", place)
		}
	}
	if !strings.Contains(places[filepath.Join(p.dir, config.File)], "pkcs11:") {
		p.Error("the configuration does not name the key")
	}
}

// refusesExistingKey: a key that is in the token already is not used unawares.
func (p *pkid) refusesExistingKey(token *hsmtest.Token) {
	p.Helper()
	arguments := func(dir string) []string {
		return []string{"init", "--data", dir, "--offline-root", "--issuer-key", token.URI("03", "first")}
	}
	if err := p.run(arguments(p.dir)...); err != nil {
		p.Fatalf("%v\n%s", err, p.log)
	}
	again := p.dir + "-again"
	if err := p.run(arguments(again)...); err == nil || !strings.Contains(p.log.String(), "--existing-key") {
		p.Errorf("a second CA took the first one's key: %v\n%s", err, p.log)
	}
	if _, err := os.Stat(again); !os.IsNotExist(err) {
		p.Errorf("what was refused left something behind: %v", err)
	}
	if err := p.run(append(arguments(again), "--existing-key")...); err != nil {
		p.Errorf("%v\n%s", err, p.log)
	}
	if err := p.run("issuer", "csr", "--data", again); err != nil || !strings.Contains(p.log.String(), "BEGIN CERTIFICATE REQUEST") {
		p.Errorf("%v\n%s", err, p.log)
	}
}

// runsTheManual runs what the section "HSM" of operations.md says, but for the module's path and the daemon itself.
func (p *pkid) runsTheManual(token *hsmtest.Token) {
	p.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		p.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## HSM\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := strings.Split(section, "```")
	if len(blocks) != 7 {
		p.Fatalf("the section HSM has %d blocks of commands", len(blocks)/2)
	}
	here := strings.NewReplacer("sh\n", "\n", "/usr/lib/softhsm/libsofthsm2.so", token.Module, "token=pkid;", "token=manual;", "--label pkid", "--label manual",
		"pkid init", p.path+" init", "pkid serve --data", "test -d", "DIR", p.dir+"-manual")
	ctx, cancel := context.WithTimeout(p.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euc", here.Replace(blocks[3]+blocks[5]))
	cmd.Dir = p.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		p.Errorf("%v\n%s", err, out)
	}
}
