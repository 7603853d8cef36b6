package crl

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestListNeverGoesBack(t *testing.T) {
	f := newFixture(t)
	f.c.Dir = filepath.Join(t.TempDir(), "crls")
	revoked := f.ca.leaf(t, 5, testURL)
	older := f.ca.list(t, 9, f.now, nil)
	f.site.serve(f.ca.list(t, 10, f.now, nil, 5))
	first := newChecker(t, f.c)
	wantRevoked := func(when string, k *Checker) {
		t.Helper()
		if _, ok := errors.AsType[*RevokedError](k.Check(t.Context(), revoked)); !ok || k.Status()[0].Number != 10 {
			t.Errorf("%s: not revoked on list 10; status %+v", when, k.Status())
		}
	}
	wantRevoked("at first", first)

	impostor := newCA(t, "Issuing CA", func(c *x509.Certificate) { c.SubjectKeyId = f.ca.cert.SubjectKeyId })
	for _, k := range []*Checker{first, newChecker(t, f.c)} { // the second one is after a restart
		wantRevoked("restart", k)
		f.site.serve(older)
		wantErr(t, k.Refresh(t.Context()), ErrRollback, "9 after 10")
		f.site.serve(f.ca.list(t, 10, f.now, nil))
		wantErr(t, k.Refresh(t.Context()), ErrRollback, "two lists have the number 10")
		f.site.serve(impostor.list(t, 11, f.now, nil))
		wantErr(t, k.Refresh(t.Context()), ErrList, "signature")
		wantRevoked("after bad lists", k)
		f.site.serve(f.ca.list(t, 10, f.now, nil, 5)) // signed again: same number, other octets
		wantErr(t, k.Refresh(t.Context()), ErrRollback, "")
	}

	f.site.serve(f.ca.list(t, 11, f.now, nil)) // released
	if err := first.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Check(t.Context(), revoked); err != nil {
		t.Errorf("after its release: %v", err)
	}
}

func TestRestartWhileTheCAIsAway(t *testing.T) {
	f := newFixture(t)
	f.c.Dir = t.TempDir()
	f.site.serve(f.ca.list(t, 10, f.now, nil, 5))
	good := f.ca.leaf(t, 1, testURL)
	if err := newChecker(t, f.c).Check(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	f.site.fail(status(503))
	if err := newChecker(t, f.c).Check(t.Context(), good); err != nil {
		t.Errorf("with a list on disk: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(f.c.Dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %q, err %v; want the list alone", files, err)
	}
	f.now = f.now.Add(2 * time.Hour)
	wantErr(t, newChecker(t, f.c).Check(t.Context(), good), ErrStale, "503")

	f.now = testNow
	kept, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"cut short": kept[:len(kept)/2], "empty": nil, "by another CA": newCA(t, "Issuing CA").list(t, 99, f.now, nil),
	} {
		if err := os.WriteFile(files[0], content, 0o600); err != nil {
			t.Fatal(err)
		}
		wantErr(t, fmt.Errorf("%s: %w", name, newChecker(t, f.c).Check(t.Context(), good)), ErrUnavailable, "503")
	}
	f.site.serve(f.ca.list(t, 11, f.now, nil))
	if err := newChecker(t, f.c).Check(t.Context(), good); err != nil {
		t.Errorf("with the CA back: %v", err)
	}
}

func TestFullDiskKeepsNoRevocationBack(t *testing.T) {
	f := newFixture(t)
	f.c.Dir = filepath.Join(t.TempDir(), "crls")
	k := newChecker(t, f.c)
	if err := os.Remove(f.c.Dir); err != nil { // so that writing fails
		t.Fatal(err)
	}
	f.site.serve(f.ca.list(t, 1, f.now, nil, 5))
	if _, ok := errors.AsType[*RevokedError](k.Check(t.Context(), f.ca.leaf(t, 5, testURL))); !ok {
		t.Error("the list was not used because it could not be kept")
	}
}

// What a delta told is known after a restart without the CA, whatever became of the base, and a delta on disk that does
// not fit the list there is no harm.
func TestDeltasAreKept(t *testing.T) {
	f := newDeltaSite(t)
	f.c.Dir, f.c.MaxSize = filepath.Join(t.TempDir(), "crls"), 1<<20
	f.publish(t)
	k := newChecker(t, f.c)
	f.refresh(t, k)
	restarted := func() *Checker {
		t.Helper()
		f.trouble[fullPath], f.trouble[deltaPath] = status(503), status(503)
		defer clear(f.trouble)
		k := newChecker(t, f.c)
		if err := k.Check(t.Context(), f.ca.leaf(t, 999, testURL)); err != nil {
			t.Fatalf("restarted without the CA: %v", err)
		}
		return k
	}
	moved := 0
	for i := range int64(12) {
		for n := range int64(30) {
			f.m.revoke(1000*(i+1)+n, 1)
		}
		s := f.publish(t)
		if asked := f.refresh(t, k); slices.Contains(asked, testURL) {
			moved++
		}
		f.wantNumber(t, "restarted", restarted(), s)
	}
	if moved == 0 || moved > 6 {
		t.Errorf("the full list was fetched %d times after 12 changes, want each time that the base moved past it", moved)
	}

	s := f.publish(t)
	f.refresh(t, k)
	source := k.known()[0]
	name := k.file(source, deltaList)
	kept, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, der := range map[string][]byte{
		"garbage": []byte("x"), "cut short": kept[:len(kept)-1], "a full list": s.DER.Bytes(), "too long": make([]byte, 1<<20+1),
		"to a newer list": f.ca.delta(t, int64(s.Number)+5, int64(s.Number)+6, f.now, nil, 999),
		"by another CA":   newCA(t, "Issuing CA").delta(t, 1, int64(s.Number)+6, f.now, nil, 999),
		"older":           f.ca.delta(t, 1, 2, f.now, nil, 999),
	} {
		if err := os.WriteFile(name, der, 0o600); err != nil {
			t.Fatal(err)
		}
		if n := restarted().Status()[0].Number; n == 0 || n > s.Number {
			t.Errorf("%s: list %d", what, n)
		}
	}
}
