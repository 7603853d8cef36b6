package boltstore

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
)

// TestDamageMetWhileOpen damages the file of an open store in several ways, and then reads and writes until that is met.
func TestDamageMetWhileOpen(t *testing.T) {
	content := filled(t)
	noise := func(b []byte) {
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
	}
	for name, damage := range map[string]func(t *testing.T, f *os.File) error{
		"pages of noise": func(_ *testing.T, f *os.File) error {
			b := make([]byte, len(content)-2*pageSize)
			noise(b)
			_, err := f.WriteAt(b, 2*pageSize)
			return err
		},
		"pages of zeros": func(_ *testing.T, f *os.File) error {
			_, err := f.WriteAt(make([]byte, len(content)-2*pageSize), 2*pageSize)
			return err
		},
		"cut off": func(_ *testing.T, f *os.File) error { return f.Truncate(4 * pageSize) },
	} {
		for act, do := range map[string]func(*testing.T, *Store) error{
			"a read":  func(t *testing.T, s *Store) error { _, err := s.List(t.Context(), ca.Query{Limit: 1000}); return err },
			"a write": func(t *testing.T, s *Store) error { return s.Insert(t.Context(), newRecord("x"), nil, event("x")) },
		} {
			t.Run(name+", "+act, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "pkid.db")
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
				s, err := Open(path, Options{})
				if err != nil {
					t.Fatal(err)
				}
				f, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(damage(t, f), f.Close()); err != nil {
					t.Fatal(err)
				}
				if err := do(t, s); !errors.Is(err, ErrNotStore) || !strings.Contains(err.Error(), "damaged") {
					t.Fatalf("met by %s: %v", act, err)
				}
				mustBeBroken(t, s, path)
			})
		}
	}
}

// mustBeBroken checks that nothing of a store counts any more, in this process and the next.
func mustBeBroken(t *testing.T, s *Store, path string) {
	t.Helper()
	_, read := s.AuditHead(t.Context())
	written := s.Record(t.Context(), event("x"))
	for what, err := range map[string]error{"a read": read, "a write": written, "Writable": s.Writable(t.Context())} {
		if !errors.Is(err, ErrNotStore) {
			t.Errorf("%s afterwards: %v", what, err)
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if !errors.Is(err, ErrNotStore) {
			t.Errorf("closing it: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("closing it hangs")
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrNotStore) || !strings.Contains(err.Error(), path+damageMark) {
		t.Errorf("opened again: %v", err)
	}
}

// TestPanicsOfOthersGoOn: what is no damage is a mistake of this program, and stays one.
func TestPanicsOfOthersGoOn(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	for name, act := range map[string]func(func(*tx) error) error{
		"a read":  func(do func(*tx) error) error { return s.view(t.Context(), do) },
		"a write": func(do func(*tx) error) error { return s.update(t.Context(), do) },
	} {
		for mistake, do := range map[string]func(*tx) error{
			"an index": func(*tx) error { return errors.New([]string{}[len(s.path)]) },
			"nil":      func(*tx) error { var r *ca.Record; return errors.New(r.ClientID) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s, %s: no panic", name, mistake)
					}
				}()
				_ = act(do)
			}()
		}
	}
	if err := s.Record(t.Context(), event("x")); err != nil {
		t.Errorf("a write after a mistake: %v", err)
	}
}
