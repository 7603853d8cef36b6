package daemon

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
)

// followed is a store whose log is followed into files.
type followed struct {
	*auditFollower
	t             *testing.T
	store         *boltstore.Store
	marks, export *lineFile
	key           *ecdsa.PrivateKey
	now           time.Time
}

func newFollowed(t *testing.T) *followed {
	t.Helper()
	dir := t.TempDir()
	store, err := boltstore.Open(filepath.Join(dir, "pkid.db"), boltstore.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &followed{
		t: t, store: store, marks: &lineFile{filepath.Join(dir, "marks")}, export: &lineFile{filepath.Join(dir, "export")}, key: key,
		now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	}
}

// start begins to follow, as a daemon that is started does.
func (f *followed) start() error {
	f.auditFollower = &auditFollower{
		store: f.store, log: slog.New(slog.DiscardHandler), origin: "pki.example.com", key: f.key, marks: f.marks, export: f.export,
		interval: time.Hour, entries: 100, now: func() time.Time { return f.now },
	}
	return f.begin(f.t.Context(), f.marks, f.export)
}

func (f *followed) record(n int) {
	f.t.Helper()
	for i := range n {
		if err := f.store.Record(f.t.Context(), audit.Event{Time: f.now, Action: "test", Subject: fmt.Sprint(i)}); err != nil {
			f.t.Fatal(err)
		}
	}
}

// check reads both files, and that they have so many checkpoints, the last one of this entry, and so many entries.
func (f *followed) check(marks int, last uint64, exported int) {
	f.t.Helper()
	text, err := os.ReadFile(f.marks.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Fatal(err)
	}
	all, err := audit.ReadCheckpoints(bytes.NewReader(text), f.key.Public())
	if err != nil || len(all) != marks || marks > 0 && all[marks-1].Seq != last {
		f.t.Errorf("%d checkpoints, %v: %+v; want %d up to entry %d", len(all), err, all, marks, last)
	}
	text, err = os.ReadFile(f.export.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Fatal(err)
	}
	v, err := audit.NewVerifier(audit.Head{}, all)
	if err != nil {
		f.t.Fatal(err)
	}
	n := 0
	for e, err := range audit.ReadLines(bytes.NewReader(text)) {
		if n++; err == nil {
			err = v.Add(e)
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
	if err := v.End(); err != nil || n != exported {
		f.t.Errorf("%d entries were exported, want %d; %v", n, exported, err)
	}
}

func TestFollowerMarksAndExports(t *testing.T) {
	f := newFollowed(t)
	turn := func() {
		t.Helper()
		if f.turn(t.Context(), false); f.status() != nil {
			t.Fatal(f.status())
		}
	}
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	turn()
	f.check(0, 0, 0) // of nothing
	f.record(3)
	turn()
	f.check(1, 3, 3) // the first one at once
	f.record(99)
	turn()
	f.check(1, 3, 102)
	f.record(1)
	turn()
	f.check(2, 103, 103) // so many entries
	f.record(1)
	f.now = f.now.Add(59 * time.Minute)
	turn()
	f.check(2, 103, 104)
	f.now = f.now.Add(time.Minute)
	turn()
	f.check(3, 104, 104) // so much time
	f.now = f.now.Add(time.Hour)
	turn()
	f.check(3, 104, 104) // nothing new
	f.record(1)
	if f.turn(t.Context(), true); !f.covers(105) || f.covers(106) {
		t.Errorf("it covers other entries than the 105")
	}
	f.check(4, 105, 105) // the last one

	f.record(2)
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(time.Hour)
	turn()
	f.check(5, 107, 107) // goes on where it was
}

// TestFollowerAfterACrash cuts the last lines, as a crash in the middle of writing does: they are written again.
func TestFollowerAfterACrash(t *testing.T) {
	f := newFollowed(t)
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.record(4)
	f.turn(t.Context(), false)
	for _, file := range []*lineFile{f.marks, f.export} {
		text, err := os.ReadFile(file.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file.path, text[:len(text)-10], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.turn(t.Context(), false)
	f.check(1, 4, 4)
}

// TestFollowerThatCannotWrite: what could not be written is written once it can, and nothing is skipped.
func TestFollowerThatCannotWrite(t *testing.T) {
	f := newFollowed(t)
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.record(2)
	whole := f.export.path
	f.export.path = filepath.Join(whole, "below", "a file")
	if f.turn(t.Context(), false); f.status() == nil || !strings.Contains(f.status().Error(), "exporting") || f.covers(1) {
		t.Errorf("status %v, covers: %t", f.status(), f.covers(1))
	}
	f.export.path = whole
	marks := f.marks.path
	f.marks.path = filepath.Join(marks, "below")
	if f.turn(t.Context(), false); f.status() == nil || !strings.Contains(f.status().Error(), "checkpoint") || !f.covers(2) {
		t.Errorf("status %v, covers: %t", f.status(), f.covers(2))
	}
	f.marks.path = marks
	if f.turn(t.Context(), false); f.status() != nil {
		t.Error(f.status())
	}
	f.check(1, 2, 2)
}

// TestFollowerOfAnotherLog: an older copy of the store, or another key, is told; nothing is signed on top of it.
func TestFollowerOfAnotherLog(t *testing.T) {
	f := newFollowed(t)
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.record(5)
	f.turn(t.Context(), false)
	other := newFollowed(t)
	other.key, other.marks, other.export = f.key, f.marks, f.export
	for _, n := range []int{2, 4, 100} { // earlier, with the same number in the end, and later
		other.record(n)
		if err := other.start(); err != nil {
			t.Fatal(err)
		}
		other.turn(t.Context(), true)
		var broken *audit.BrokenError
		if err := other.status(); !errors.As(err, &broken) || !strings.Contains(err.Error(), "older copy") && n < 100 {
			t.Errorf("%d entries: status %v, want that they are not the ones of before", n, err)
		}
		f.check(1, 5, 5)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other.key = key
	if err := other.start(); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("with another key: %v, want ErrCheckpoint", err)
	}
}

// TestArchiveWaitsForTheExport: what was not exported and checked is not dropped.
func TestArchiveWaitsForTheExport(t *testing.T) {
	f := newFollowed(t)
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.record(3)
	head, err := f.store.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx := audit.WithActor(t.Context(), audit.Actor{Name: "operator"})
	a := archive{f.store, f.auditFollower}
	if _, err := a.ArchiveAudit(ctx, head); !errors.Is(err, audit.ErrNoEntry) {
		t.Errorf("before it was exported: %v, want ErrNoEntry", err)
	}
	f.turn(t.Context(), false)
	if _, err := a.ArchiveAudit(ctx, audit.Head{Seq: head.Seq}); !errors.Is(err, audit.ErrNoEntry) {
		t.Errorf("another hash: %v, want ErrNoEntry", err)
	}
	base, err := a.ArchiveAudit(ctx, head)
	if err != nil || base != head {
		t.Fatalf("ArchiveAudit = %v, %v; want %v", base, err, head)
	}
	left, err := f.store.Audit(ctx, 0, 10)
	if err != nil || len(left) != 1 || left[0].Action != audit.Archived || left[0].Actor != "operator" || left[0].Subject != "1-3" {
		t.Errorf("what is left: %+v, %v", left, err)
	}
	f.turn(t.Context(), true)
	f.check(2, 4, 4)
}
