package boltstore

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/internal/storetest"
	"github.com/pkid/pkid/thumbprint"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T, dir string) storetest.Engine {
		return openTest(t, filepath.Join(dir, "pkid.db"))
	})
}

func openTest(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// newRecord returns a certificate with noise of a P-256 certificate's size for its DER.
func newRecord(clientID string) *ca.Record {
	now := time.Now().UTC().Truncate(time.Millisecond)
	r := &ca.Record{
		Issuer: "0123456789abcdef", ClientID: clientID, Profile: "client", IssuedAt: now,
		NotBefore: now.Truncate(time.Second), NotAfter: now.Truncate(time.Second).Add(24 * time.Hour),
		Names: []string{clientID}, DER: make([]byte, 560),
	}
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(r.Serial[:6], ms[2:])
	rand.Read(r.Serial[6:])
	rand.Read(r.DER)
	r.Thumbprint = thumbprint.OfDER(r.DER)
	return r
}

func event(subject string) audit.Event {
	return audit.Event{Time: time.Now(), Action: audit.Issue, Subject: subject, Actor: audit.Actor{Name: "test"}}
}

func TestStoreIsReadableByItsOwnerAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no file modes")
	}
	path := filepath.Join(t.TempDir(), "pkid.db")
	openTest(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestOpenLockedStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	begin := time.Now()
	_, err := Open(path, Options{Timeout: 10 * time.Millisecond})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another pkid") {
		t.Fatalf("Open = %v; want ErrLocked with the file's name and the reason", err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("Open took %s", took)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, path)
}

func TestOpenOtherFiles(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other.db")
	db, err := bolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("things")); return err }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"short": "hello\n", "long": strings.Repeat("some text\n", 10_000), "zeros": strings.Repeat("\x00", 1<<16)}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"other.db", "short", "long", "zeros"} {
		path := filepath.Join(dir, name)
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, Options{}); !errors.Is(err, ErrNotStore) || !strings.Contains(err.Error(), path) {
			t.Errorf("Open of %s = %v; want ErrNotStore and its name", name, err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
			t.Errorf("%s was changed by opening it (%v)", name, err)
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "missing", "pkid.db")} {
		if _, err := Open(path, Options{}); err == nil || errors.Is(err, ErrNotStore) {
			t.Errorf("Open(%s) = %v; want the file system's error", path, err)
		}
	}
}

// A crash before the first commit leaves an empty file, which Create lays out. Whoever expects a store there
// has lost one: serving from nothing would take every revocation back.
func TestOpenEmptyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	if _, err := Open(path, Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of a missing file = %v, want ErrNotExist", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrNotStore) || !strings.Contains(err.Error(), "restore it from a backup") {
		t.Errorf("Open of an empty file = %v, want ErrNotStore", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 0 {
		t.Errorf("the empty file was changed: %v, %v", info, err)
	}
	if err := openTest(t, path).Record(t.Context(), event("x")); err != nil {
		t.Fatal(err)
	}
}

func TestOpenStoreOfAnotherCA(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	for _, tt := range []struct {
		o    Options
		want error
	}{
		{Options{Create: true, Identity: "one"}, nil},
		{Options{Identity: "one"}, nil},
		{Options{}, nil},
		{Options{Identity: "two"}, ErrIdentity},
		{Options{Create: true, Identity: "two"}, ErrIdentity},
	} {
		s, err := Open(path, tt.o)
		if !errors.Is(err, tt.want) {
			t.Fatalf("%+v: %v, want %v", tt.o, err, tt.want)
		}
		if err == nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestOpenNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	err := s.update(t.Context(), func(tx *tx) error { return tx.put(meta, schemaKey, ordered(schemaVersion+1)) })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrNewerSchema) || !strings.Contains(err.Error(), path) {
		t.Fatalf("Open = %v, want ErrNewerSchema", err)
	}
}

func TestOpenOlderSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	err := s.update(t.Context(), func(tx *tx) error { return tx.put(meta, schemaKey, ordered(schemaVersion-1)) })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrOlderSchema) || !strings.Contains(err.Error(), "use the pkid that wrote it") {
		t.Fatalf("Open = %v, want ErrOlderSchema and what to do", err)
	}
}

// A store of this version from before a bucket was added gets it, and keeps what it has.
func TestOpenStoreFromBeforeABucket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	if err := s.Record(t.Context(), event("x")); err != nil {
		t.Fatal(err)
	}
	for _, b := range later {
		if err := s.db.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket(b.name) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, path)
	defer s.Close()
	if keys, err := s.Keys(t.Context(), keyring.Tokens); err != nil || len(keys) != 0 {
		t.Errorf("Keys = %v, %v; want none", keys, err)
	}
	if _, err := s.PutKey(t.Context(), keyring.Key{ID: "a", Use: keyring.Tokens}, event("a")); err != nil {
		t.Error(err)
	}
	if head, err := s.AuditHead(t.Context()); err != nil || head.Seq != 2 {
		t.Errorf("AuditHead = %v, %v; want entry 2", head, err)
	}
}

func TestOpenStoreWhoseAuditLogLostItsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	for range 2 {
		if err := s.Record(t.Context(), event("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.update(t.Context(), func(tx *tx) error { return tx.delete(log, ordered(2)) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrNotStore) || !strings.Contains(err.Error(), "audit log") {
		t.Fatalf("Open = %v, want ErrNotStore for the audit log", err)
	}
}

// filled returns a closed store of some hundred pages.
func filled(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	for i := range 8 {
		err := s.update(t.Context(), func(tx *tx) error {
			for range 100 {
				r := newRecord(fmt.Sprint("client-", i))
				if err := errors.Join(tx.put(certificates, r.Serial[:], encodeRecord(r, nil)), tx.sealWith(event("x"), &r.Serial)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// openBytes opens a store of the given content and reads all of its audit log. It must not crash.
func openBytes(t *testing.T, content []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pkid.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, Options{Timeout: 10 * time.Millisecond})
	if err != nil {
		if errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
			t.Errorf("a damaged file gives %v", err)
		}
		return err
	}
	return s.Close()
}

func TestOpenTruncatedFile(t *testing.T) {
	content := filled(t)
	if err := openBytes(t, content); err != nil {
		t.Fatalf("the whole file: %v", err)
	}
	for _, size := range []int{1, 100, pageSize, pageSize + 1, 2 * pageSize, 3*pageSize + 7, 5 * pageSize, 40 * pageSize} {
		if size >= len(content) {
			t.Fatalf("the file has only %d octets", len(content))
		}
		if err := openBytes(t, content[:size]); !errors.Is(err, ErrNotStore) {
			t.Errorf("cut to %d octets: Open = %v, want ErrNotStore", size, err)
		}
	}
}

func TestOpenDamagedFile(t *testing.T) {
	content := filled(t)
	damage := func(from, to int) []byte {
		out := append([]byte(nil), content...)
		rand.Read(out[from:to])
		return out
	}
	if err := openBytes(t, damage(0, 2*pageSize)); !errors.Is(err, ErrNotStore) {
		t.Errorf("without its header: Open = %v, want ErrNotStore", err)
	}
	if err := openBytes(t, damage(2*pageSize, len(content))); !errors.Is(err, ErrNotStore) {
		t.Errorf("with its header alone: Open = %v, want ErrNotStore", err)
	}
	found := 0
	for page := range len(content) / pageSize {
		if err := openBytes(t, damage(page*pageSize, (page+1)*pageSize)); errors.Is(err, ErrNotStore) {
			found++ // Open reads a few pages of them; what matters beyond is that it does not crash
		}
	}
	if found == 0 {
		t.Error("no damaged page was found")
	}
}

func TestClosedStore(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Record(t.Context(), event("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("Record = %v, want ErrClosed", err)
	}
	if _, err := s.Certificate(t.Context(), ca.Serial{1}); !errors.Is(err, ErrClosed) {
		t.Errorf("Certificate = %v, want ErrClosed", err)
	}
}

func TestRecordDamaged(t *testing.T) {
	r := newRecord("alice")
	r.Parent, r.Shard = newRecord("alice").Serial, 3
	r.Names = []string{"alice", "alice.example.com"}
	b, err := openTest(t, filepath.Join(t.TempDir(), "pkid.db")).db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Rollback()
	p := newPattern(1, r.Issuer, r.Profile, bytes.Clone(r.DER))
	tx := &tx{b: b, patterns: (&patterns{byKind: map[kind]*pattern{}}).with(p)}
	for name, p := range map[string]*pattern{"whole": nil, "by a pattern": tx.patterns.of(r)} {
		value := encodeRecord(r, p)
		read := func(b []byte) (*ca.Record, error) {
			rec, err := tx.certificateRecord(r.Serial, b)
			if err != nil {
				return nil, err
			}
			return rec.copy(nil)
		}
		if got, err := read(value); err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%s: read %+v, %v; want %+v", name, got, err, r)
		}
		for n := range value {
			if rec, err := read(value[:n]); err == nil {
				t.Errorf("%s: a record cut to %d of %d octets was read: %+v", name, n, len(value), rec)
			}
		}
		for i := range value {
			_, _ = read(append(append(bytes.Clone(value[:i]), value[i]^0xff), value[i+1:]...)) // must not panic
		}
		if rec, err := read(append(bytes.Clone(value[:len(value)-1]), value[len(value)-1]^1)); err == nil {
			t.Errorf("%s: a record with another last octet was read: %+v", name, rec)
		}
		if _, err := read(append([]byte{recordVersion + 1}, value[1:]...)); err == nil {
			t.Errorf("%s: a record of another version was read", name)
		}
	}
}

// TestDamagedPattern: certificates that were stored as a difference to it are not read as others.
func TestDamagedPattern(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	s := openTest(t, path)
	recs := []*ca.Record{newRecord("alice"), newRecord("bob")}
	recs[1].DER = append(bytes.Clone(recs[0].DER[:500]), recs[1].DER[500:]...)
	recs[1].Thumbprint = thumbprint.OfDER(recs[1].DER)
	for _, r := range recs {
		if err := s.Insert(t.Context(), r, nil, event(r.Serial.String())); err != nil {
			t.Fatal(err)
		}
	}
	err := s.update(t.Context(), func(tx *tx) error {
		v := bytes.Clone(tx.get(patternsOf, ordered(1)))
		v[100] ^= 1
		return tx.put(patternsOf, ordered(1), v)
	})
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = openTest(t, path)
	for _, r := range recs {
		if got, err := s.Certificate(t.Context(), r.Serial); !errors.Is(err, errDamaged) {
			t.Errorf("Certificate = %+v, %v; want %v", got, err, errDamaged)
		}
		_, err := s.Decide(t.Context(), r.Serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
			return &ca.Revocation{At: time.Now()}, event("x"), nil
		})
		if !errors.Is(err, errDamaged) {
			t.Errorf("Decide = %v, want %v", err, errDamaged)
		}
	}
}

func TestInsertRefusesRecordsThatCannotBeKept(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	for name, spoil := range map[string]func(*ca.Record){
		"no issuer":          func(r *ca.Record) { r.Issuer = "" },
		"NUL in issuer":      func(r *ca.Record) { r.Issuer = "a\x00b" },
		"another thumbprint": func(r *ca.Record) { r.Thumbprint[0] ^= 1 },
	} {
		r := newRecord("alice")
		spoil(r)
		if err := s.Insert(t.Context(), r, nil, event("x")); err == nil {
			t.Errorf("%s: the record was kept", name)
		}
	}
}

// TestListBoundsItsWork: a filter that matches almost nothing ends a page early, and the walk still finds it.
func TestListBoundsItsWork(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	const n = maxVisits + 1000
	oldest := ca.Serial{15: 1}
	err := s.update(t.Context(), func(tx *tx) error {
		for i := range n {
			r := newRecord("many")
			binary.BigEndian.PutUint64(r.Serial[8:], uint64(i+1))
			clear(r.Serial[:8])
			r.DER = r.DER[:20]
			r.Thumbprint = thumbprint.OfDER(r.DER)
			if r.Serial == oldest {
				r.ClientID, r.Names = "one", []string{"needle"}
			}
			err := errors.Join(tx.put(certificates, r.Serial[:], encodeRecord(r, nil)),
				tx.put(byExpiry, join(ordered(r.NotAfter.Unix()), r.Serial[:]), nil))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]ca.Query{
		"walk":               {Name: "needle"},
		"too many to gather": {Name: "needle", ExpiresAfter: time.Now()},
	} {
		q.Limit = 10
		page, err := s.List(t.Context(), q)
		if err != nil || len(page.Records) != 0 || page.Next == "" {
			t.Fatalf("%s: first page = %+v, %v; want none and a cursor", name, page, err)
		}
		q.Cursor = page.Next
		page, err = s.List(t.Context(), q)
		if err != nil || len(page.Records) != 1 || page.Records[0].Serial != oldest || page.Next != "" {
			t.Errorf("%s: second page = %+v, %v; want the oldest", name, page, err)
		}
	}
}
