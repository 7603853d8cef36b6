package crlfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

var errFault = errors.New("injected fault")

// steps are those of replace, in their order.
var steps = []string{"write", "owner", "mode", "sync", "close", "rename", "sync directory"}

// TestReplaceIsWhole: whatever goes wrong before whichever step, the old file or the new one is there, and nothing beside.
func TestReplaceIsWhole(t *testing.T) {
	older, newer := bytes.Repeat([]byte("old "), 1000), bytes.Repeat([]byte("new one "), 1000)
	for n, at := range steps {
		t.Run(at, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "crl.pem")
			if err := os.WriteFile(name, older, 0o640); err != nil {
				t.Fatal(err)
			}
			var seen []string
			f := target{name: name, fault: func(step string) error {
				seen = append(seen, step)
				got, err := os.ReadFile(name) // as who reads it at this moment
				if renamed := step == "sync directory"; err != nil || !renamed && !bytes.Equal(got, older) || renamed && !bytes.Equal(got, newer) {
					t.Errorf("before %q the file is %.8q, %v", step, got, err)
				}
				if step == at {
					return errFault
				}
				return nil
			}}
			if err := f.replace(newer); !errors.Is(err, errFault) {
				t.Fatalf("replace: %v", err)
			}
			if len(seen) != n+1 {
				t.Errorf("the steps were %q", seen)
			}
			if entries, err := os.ReadDir(filepath.Dir(name)); err != nil || len(entries) != 1 {
				t.Errorf("there are %d files, %v", len(entries), err)
			}
			f.fault = nil
			if err := f.replace(newer); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, newer) || !f.holds(newer) || f.changed() {
				t.Errorf("after the next attempt the file is %.8q, %v", got, err)
			}
		})
	}
}

func TestReplaceKeepsOwnerAndMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	name := filepath.Join(t.TempDir(), "crl.pem")
	for _, tt := range []struct {
		there, given, want os.FileMode
	}{{0, 0, 0o644}, {0o640, 0, 0o640}, {0o640, 0o600, 0o600}, {0, 0o600, 0o600}} {
		os.Remove(name)
		if tt.there != 0 {
			if err := os.WriteFile(name, nil, tt.there); err != nil {
				t.Fatal(err)
			}
		}
		f := target{name: name, mode: tt.given}
		if err := f.replace([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if got := f.there.Mode(); got != tt.want {
			t.Errorf("%o was there, %o is given: the mode is %o, want %o", tt.there, tt.given, got, tt.want)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("only root can give a file away")
	}
	if err := os.Chown(name, 12, 34); err != nil {
		t.Fatal(err)
	}
	f := target{name: name}
	if err := f.replace([]byte("y")); err != nil {
		t.Fatal(err)
	}
	if got := ownerOf(t, f.there); got != [2]uint32{12, 34} {
		t.Errorf("the owner is %d", got)
	}
}

// TestCheckRefusesWhatIsNoCRL: a name given by mistake must not cost a key.
func TestCheckRefusesWhatIsNoCRL(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		content []byte
		ok      bool
	}{
		"empty":          {nil, true},
		"a list in DER":  {f.lists[urlA], true},
		"a list in PEM":  {(&target{}).encode([][]byte{f.lists[urlA]}), true},
		"a damaged list": {[]byte("-----BEGIN X509 CRL-----\nMII"), true},
		"a key":          {[]byte("-----BEGIN PRIVATE KEY-----\nMII"), false},
		"a certificate":  {f.a.cert.Raw, false},
		"a list, a key":  {[]byte("-----BEGIN X509 CRL-----\nMII\n-----END X509 CRL-----\n-----BEGIN PRIVATE KEY-----\nMII"), false},
		"text":           {[]byte("root:x:0:0"), false},
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(path, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(Config{File: path, Learn: f.learn})
		if tt.ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "name another file, or remove it") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Config{File: dir, Learn: f.learn}); err == nil {
		t.Error("a directory: no error")
	}
}

func TestLinkStays(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	for from, to := range map[string]string{f.file: filepath.Join(dir, "next.pem"), filepath.Join(dir, "next.pem"): "real.pem"} {
		if err := os.Symlink(to, from); err != nil {
			t.Skip(err)
		}
	}
	for _, number := range []int64{10, 11} { // there is no file, and there is one
		f.publish(urlB, f.b.list(t, urlB, number, f.begun))
		f.once()
		f.want(fmt.Sprintf("A 10, A 10, B %d, Root 10", number))
		if info, err := os.Lstat(f.file); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("the link is %v, %v", info.Mode(), err)
		}
		if info, err := os.Lstat(filepath.Join(dir, "real.pem")); err != nil || !info.Mode().IsRegular() {
			t.Errorf("the file is %v, %v", info, err)
		}
	}
	os.Remove(f.file)
	if err := os.Symlink(f.file, f.file); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{File: f.file, Learn: f.learn}); err == nil {
		t.Error("a link to itself: no error")
	}
}

// TestLeftoversAreRemoved: those of a crash, and not what another process is writing now.
func TestLeftoversAreRemoved(t *testing.T) {
	f := newFixture(t)
	dir := filepath.Dir(f.file)
	for name, age := range map[string]time.Duration{".crl.pem.new-1": time.Hour, ".crl.pem.new-2": 0, "crl.pem.new-3": time.Hour} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if at := time.Now().Add(-age); os.Chtimes(path, at, at) != nil {
			t.Fatal("cannot set a file's time")
		}
	}
	f.once()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != ".crl.pem.new-2 crl.pem crl.pem.new-3" {
		t.Errorf("there are %s", got)
	}
}
