// Package hsmtest makes tokens of SoftHSM2 for tests, in a temporary directory of their own, and a PKCS #11 module that
// can hang and be pulled out. It needs softhsm2, and a C compiler for that module; where they are missing tests skip, and
// fail with CI=true.
package hsmtest

import (
	"context"
	_ "embed"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Label is the name of every token that New makes.
const Label = "pkid"

// Token is an initialised token.
type Token struct {
	Module  string // path of the PKCS #11 module
	Conf    string // what SOFTHSM2_CONF must be for the module to find it
	PIN     string
	PINFile string
}

// modules are where the distributions put SoftHSM2's.
var modules = []string{
	"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// New makes a token, and sets SOFTHSM2_CONF to it for the test and the processes that it starts. A process that has
// loaded the module stays with the token that it found first.
func New(t testing.TB) *Token {
	t.Helper()
	util, err := exec.LookPath("softhsm2-util")
	if err != nil {
		missing(t, "softhsm2-util is not installed: `make deps` installs softhsm2 on Debian as root")
	}
	k := &Token{PIN: "7391-of-a-token"}
	for _, pattern := range modules {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			k.Module = found[0]
			break
		}
	}
	if k.Module == "" {
		missing(t, "libsofthsm2.so is in none of the places where distributions put it")
	}
	dir := t.TempDir()
	k.Conf, k.PINFile = filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, k.Conf, "directories.tokendir = "+tokens+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	write(t, k.PINFile, k.PIN+"\n")
	t.Setenv("SOFTHSM2_CONF", k.Conf)
	run(t, util, "--init-token", "--free", "--label", Label, "--so-pin", "so-"+k.PIN, "--pin", k.PIN)
	return k
}

// URI names a key of the token.
func (k *Token) URI(id, object string) string {
	return fmt.Sprintf("pkcs11:module-path=%s;token=%s;id=%s;object=%s?pin-source=file:%s", url.QueryEscape(k.Module), Label, id, object, k.PINFile)
}

// Switch is how a module that Flaky made behaves.
type Switch struct{ path string }

//go:embed testdata/flaky.c
var flaky string

// Flaky compiles a module that passes everything on to the token's, until Switch says otherwise, and puts it in the
// token's place.
func (k *Token) Flaky(t testing.TB) Switch {
	t.Helper()
	cc := strings.Fields(output(t, "go", "env", "CC"))
	if _, err := exec.LookPath(cc[0]); err != nil {
		missing(t, "no C compiler for a PKCS #11 module that hangs: `make deps` installs one on Debian as root")
	}
	dir := t.TempDir()
	source, module := filepath.Join(dir, "flaky.c"), filepath.Join(dir, "flaky.so")
	s := Switch{filepath.Join(dir, "state")}
	write(t, source, flaky)
	headers := output(t, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11")
	run(t, cc[0], append(cc[1:], "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-I", headers, "-o", module, source, "-ldl")...)
	t.Setenv("FLAKY_MODULE", k.Module)
	t.Setenv("FLAKY_STATE", s.path)
	s.Well(t)
	k.Module = module
	return s
}

// Well lets the device work.
func (s Switch) Well(t testing.TB) { s.set(t, "well") }

// Hang keeps every signature waiting until the device is well again.
func (s Switch) Hang(t testing.TB) { s.set(t, "hang") }

// Pull takes the device away. Its sessions do not survive it.
func (s Switch) Pull(t testing.TB) { s.set(t, "pull") }

func (s Switch) set(t testing.TB, state string) {
	t.Helper()
	write(t, s.path+".new", state)
	if err := os.Rename(s.path+".new", s.path); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, program string, args ...string) { output(t, program, args...) }

func output(t testing.TB, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	//nolint:gosec // G204: a test names the program
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(program), err, out)
	}
	return strings.TrimSpace(string(out))
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
