package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
)

// outside has the audit log written outside of the store.
func outside(c *config.Config) {
	c.Audit.Checkpoints, c.Audit.Export = "file:audit.checkpoints", "file:audit.export"
}

// invite makes acts for the audit log.
func invite(t *testing.T, s *pkitest.Server, n int) {
	t.Helper()
	api := s.Operator(t)
	for i := range n {
		if _, err := api.Invite(t.Context(), client.InvitationRequest{ClientID: fmt.Sprint("client-", i)}); err != nil {
			t.Fatal(err)
		}
	}
}

// pkictl runs a command as the operator, and returns its exit code and what it wrote.
func pkictl(t *testing.T, s *pkitest.Server, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"--home", s.Home}, args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq^1<<63) }

// edit changes the audit log in the store's file, past pkid.
func edit(t *testing.T, path string, change func(log *bolt.Bucket, last uint64) (end uint64)) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		log := tx.Bucket([]byte("audit"))
		k, _ := log.Cursor().Last()
		end := change(log, binary.BigEndian.Uint64(k)^1<<63)
		if end == 0 {
			return nil
		}
		return tx.Bucket([]byte("meta")).Put([]byte("head"), append(seqKey(end), log.Get(seqKey(end))[:32]...))
	})
	must(t, err)
	must(t, db.Close())
}

// TestTamperingIsFoundAndNamed changes the audit log of a real store in every way that leaves it one that pkid opens.
func TestTamperingIsFoundAndNamed(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{Edit: outside})
	db := s.Path("pkid.db")
	invite(t, s, 4)
	s.Stop(t)
	copyFile(t, db, s.Path("older.db"))
	s = pkitest.Serve(t, s.Dir, pkitest.Options{Edit: outside})
	invite(t, s, 8)
	s.Stop(t)
	copyFile(t, db, s.Path("whole.db"))
	marks := []string{"--checkpoints", s.Path("audit.checkpoints"), "--key", s.Path("keys", "audit.pub")}

	for name, c := range map[string]struct {
		tamper func(t *testing.T)
		want   string // what is said with checkpoints; empty if nothing is wrong
		chain  bool   // found without checkpoints too
	}{
		"nothing": {func(*testing.T) {}, "", false},
		"edited": {func(t *testing.T) {
			edit(t, db, func(log *bolt.Bucket, _ uint64) uint64 {
				v := bytes.Clone(log.Get(seqKey(6)))
				v[len(v)-1] ^= 1
				must(t, log.Put(seqKey(6), v))
				return 0
			})
		}, "broken at entry 6: its content was changed", true},
		"removed": {func(t *testing.T) {
			edit(t, db, func(log *bolt.Bucket, _ uint64) uint64 {
				must(t, log.Delete(seqKey(6)))
				return 0
			})
		}, "broken at entry 6: found entry 7 in its place", true},
		"swapped": {func(t *testing.T) {
			edit(t, db, func(log *bolt.Bucket, _ uint64) uint64 {
				a, b := bytes.Clone(log.Get(seqKey(6))), bytes.Clone(log.Get(seqKey(7)))
				must(t, log.Put(seqKey(6), b))
				must(t, log.Put(seqKey(7), a))
				return 0
			})
		}, "broken at entry 6", true},
		"forged at the end": {func(t *testing.T) {
			edit(t, db, func(log *bolt.Bucket, last uint64) uint64 {
				must(t, log.Put(seqKey(last+1), append(bytes.Repeat([]byte{7}, 32), log.Get(seqKey(6))[32:]...)))
				return last + 1
			})
		}, "its content was changed", true},
		"cut short": {func(t *testing.T) {
			edit(t, db, func(log *bolt.Bucket, last uint64) uint64 {
				for i := range uint64(6) {
					must(t, log.Delete(seqKey(last-i)))
				}
				return last - 6
			})
		}, "checkpoint of", false},
		"an older copy": {func(t *testing.T) { copyFile(t, s.Path("older.db"), db) }, "cut short, or an older copy stands in its place", false},
		"an older copy with other acts": {func(t *testing.T) {
			copyFile(t, s.Path("older.db"), db)
			forge(t, db, 20)
		}, "was replaced, and what follows was written anew", false},
	} {
		t.Run(name, func(t *testing.T) {
			copyFile(t, s.Path("whole.db"), db)
			c.tamper(t)
			s := pkitest.Serve(t, s.Dir, pkitest.Options{})
			defer s.Stop(t)
			code, _, stderr := pkictl(t, s, append([]string{"audit", "verify"}, marks...)...)
			if (code == 0) != (c.want == "") || code > 1 || !strings.Contains(stderr, c.want) {
				t.Errorf("with checkpoints: exit code %d, want %q in: %s", code, c.want, stderr)
			}
			if code, _, stderr := pkictl(t, s, "audit", "verify"); (code != 0) != c.chain {
				t.Errorf("without checkpoints: exit code %d: %s", code, stderr)
			}
		})
	}
}

// forge appends entries that follow as they should.
func forge(t *testing.T, db string, n int) {
	t.Helper()
	store, err := boltstore.Open(db, boltstore.Options{})
	must(t, err)
	for i := range n {
		must(t, store.Record(t.Context(), audit.Event{Time: time.Now(), Action: audit.Invite, Subject: fmt.Sprint("forged-", i)}))
	}
	must(t, store.Close())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestArchiveDrill is the drill of docs/operations.md: archive, verify over the archive and what the CA has, list.
func TestArchiveDrill(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{Edit: outside})
	invite(t, s, 5)
	s.Stop(t) // which signs a checkpoint
	s = pkitest.Serve(t, s.Dir, pkitest.Options{Edit: outside})
	invite(t, s, 3)
	dir := t.TempDir()
	marks := []string{"--checkpoints", dir + "/marks", "--key", s.Path("keys", "audit.pub")}
	copyFile(t, s.Path("audit.checkpoints"), dir+"/marks")
	zipped, plain := dir+"/1.jsonl.gz", dir+"/2.jsonl"
	expect := func(want int, text string, args ...string) (stdout string) {
		t.Helper()
		code, stdout, stderr := pkictl(t, s, append([]string{"audit"}, args...)...)
		if code != want || !strings.Contains(stdout+stderr, text) {
			t.Errorf("audit %q: exit code %d, want %d and %q in:\n%s%s", args, code, want, text, stdout, stderr)
		}
		return stdout
	}
	expect(2, "say --yes", append([]string{"archive", "--out", zipped}, marks...)...)
	expect(2, "--out and --checkpoints", "archive", "--out", zipped, "--yes")
	if _, err := os.Stat(zipped); err == nil {
		t.Error("an archive that was not confirmed was written")
	}
	expect(0, "and was checked", append([]string{"archive", "--out", zipped, "--yes"}, marks...)...)
	expect(1, "nothing to archive", append([]string{"archive", "--out", zipped, "--yes"}, marks...)...)
	expect(0, "were archived and are not checked", "verify")
	expect(0, "checkpoints name entries among them", append([]string{"verify", "--archive", zipped}, marks...)...)
	expect(0, "2 of 2 checkpoints", append([]string{"verify", "--offline", "--archive", zipped}, marks...)...)
	pkitest.Eventually(t, 10*time.Second, func() error { // the export follows within a second
		if code, _, stderr := pkictl(t, s, append([]string{"audit", "verify", "--archive", s.Path("audit.export")}, marks...)...); code != 0 {
			return fmt.Errorf("verifying the export: %s", stderr)
		}
		return nil
	})
	if out := expect(0, "audit.archive", "list", "--action", "audit", "--json"); strings.Count(out, "\n") != 1 {
		t.Errorf("acts on the audit log: %s", out)
	}
	if out := expect(0, "", "list", "--last", "2", "--since", "1h"); strings.Count(out, "\n") != 2 {
		t.Errorf("the last two entries: %s", out)
	}
	if out := expect(0, "", "list", "--archive", zipped, "--actor", "pkid", "--limit", "1"); strings.Count(out, "\n") != 1 {
		t.Errorf("one entry of the archive: %s", out)
	}
	expect(0, "no entries match", "list", "--until", "1h")

	s.Stop(t)
	copyFile(t, s.Path("audit.checkpoints"), dir+"/marks")
	s = pkitest.Serve(t, s.Dir, pkitest.Options{Edit: outside})
	expect(0, "and was checked", append([]string{"archive", "--out", plain, "--yes"}, marks...)...)
	expect(0, "3 of 3 checkpoints", append([]string{"verify", "--archive", zipped, "--archive", plain}, marks...)...)
	b, err := os.ReadFile(plain)
	must(t, err)
	must(t, os.WriteFile(plain, bytes.Replace(b, []byte("invitation.create"), []byte("invitation.creatE"), 1), 0o600))
	expect(1, "its content was changed", append([]string{"verify", "--archive", zipped, "--archive", plain}, marks...)...)
	must(t, os.WriteFile(plain, b[:bytes.LastIndexByte(b[:len(b)-1], '\n')+1], 0o600))
	expect(1, "checkpoint of", append([]string{"verify", "--offline", "--archive", zipped, "--archive", plain}, marks...)...)
}
