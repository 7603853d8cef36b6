package boltstore

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/crl"
)

var testShard = crl.Shard{Issuer: "0123456789abcdef"}

// newList returns a list with noise for its text, in some parts.
func newList(number uint64) crl.Signed {
	der := make([]byte, 100_000)
	rand.Read(der)
	now := time.Now().UTC().Truncate(time.Second)
	return crl.Signed{
		Shard: testShard, Number: number, ThisUpdate: now, NextUpdate: now.Add(time.Hour),
		DER: crl.DER{der[:10], nil, der[10:99_900], der[99_900:]},
	}
}

func replace(t *testing.T, s *Store, prev, next crl.Signed) {
	t.Helper()
	if err := s.Replace(t.Context(), prev, next); err != nil {
		t.Fatal(err)
	}
}

// checkText checks that the newest list is want, and whether the store has its text.
func checkText(t *testing.T, s *Store, want crl.Signed, has bool) {
	t.Helper()
	got, err := s.Latest(t.Context(), testShard, 0)
	if err != nil || got.Number != want.Number || !got.ThisUpdate.Equal(want.ThisUpdate) || !got.NextUpdate.Equal(want.NextUpdate) {
		t.Errorf("Latest = %d, %v; want %d", got.Number, err, want.Number)
	}
	if !has && got.DER != nil || has && !got.DER.Equal(want.DER) {
		t.Errorf("Latest gave %d octets; its text wanted: %t", got.DER.Len(), has)
	}
}

func closeStore(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTextOfAList: it is in a file beside the store once that was closed, and what is not that list's text is none.
func TestTextOfAList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	file := filepath.Join(path+".crl", testShard.Issuer+".crl")
	s := openTest(t, path)
	first, second := newList(1), newList(2)
	replace(t, s, crl.Signed{}, first)
	checkText(t, s, first, true)
	closeStore(t, s)
	copyFile(t, path, path+".backup")
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	s = openTest(t, path)
	checkText(t, s, first, true)
	replace(t, s, first, second)
	closeStore(t, s)
	if info, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("its file: %v, %v; want mode 0600", info, err)
	}
	now, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(now)
	flipped[500] ^= 1
	for name, c := range map[string]struct {
		content []byte
		has     bool
	}{
		"whole": {now, true}, "of the list before": {old, false}, "damaged": {flipped, false},
		"cut": {now[:len(now)-1], false}, "empty": {[]byte{}, false}, "lost": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if c.content != nil {
				if err := os.WriteFile(file, c.content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s := openTest(t, path)
			checkText(t, s, second, c.has)
			closeStore(t, s)
		})
	}
	if err := os.WriteFile(file, now, 0o600); err != nil {
		t.Fatal(err)
	}
	copyFile(t, path+".backup", path) // the file is newer than the store then
	s = openTest(t, path)
	checkText(t, s, first, false)
	third := newList(3)
	replace(t, s, first, third)
	checkText(t, s, third, true)
}

// TestTextThatCannotBeKept: it fails no publication, and is told.
func TestTextThatCannotBeKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pkid.db")
	if err := os.WriteFile(path+".crl", nil, 0o600); err != nil { // where the directory should be
		t.Fatal(err)
	}
	s := openTest(t, path)
	list := newList(1)
	replace(t, s, crl.Signed{}, list)
	if err := s.texts.flush(); err == nil {
		t.Fatal("the text was kept")
	}
	if err := s.Writable(t.Context()); err == nil || !strings.Contains(err.Error(), "keeping the CRL of issuer "+testShard.Issuer) {
		t.Errorf("Writable = %v, want the reason", err)
	}
	checkText(t, s, list, true) // from memory
	if err := os.Remove(path + ".crl"); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s) // tries again
	checkText(t, openTest(t, path), list, true)
}

// TestNewestTextIsKept: whatever the order in which commits are told of, an older text never replaces a newer one's
// file.
func TestNewestTextIsKept(t *testing.T) {
	lists := []crl.Signed{newList(1), newList(2), newList(3)}
	for name, c := range map[string]struct {
		settle []int // 1 and 2 are committed, 0 is not
		flush  bool  // between the two
	}{
		"in order": {[]int{0, 1, 2}, false}, "in order, one by one": {[]int{1, 0, 2}, true},
		"reversed": {[]int{2, 1, 0}, false}, "reversed, one by one": {[]int{2, 1, 0}, true},
	} {
		t.Run(name, func(t *testing.T) {
			x := &texts{dir: t.TempDir(), wake: make(chan struct{}, 1), newest: map[crl.Shard]uint64{}}
			var offered []*text
			for _, l := range lists {
				offered = append(offered, x.offer(l))
			}
			for _, i := range c.settle {
				x.settle(offered[i], i > 0)
				if c.flush {
					if err := x.flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := x.flush(); err != nil {
				t.Fatal(err)
			}
			if len(x.memory) != 0 {
				t.Errorf("%d texts are still in memory", len(x.memory))
			}
			if got := x.get(testShard, fingerprintOf(lists[2].DER)); !got.Equal(lists[2].DER) {
				t.Error("the newest text is not in the file")
			}
		})
	}
}

// TestFilesOfLists: each shard has a file of its own, in the directory, whatever the issuer's id.
func TestFilesOfLists(t *testing.T) {
	x, seen := &texts{dir: "dir"}, map[string]crl.Shard{}
	for _, issuer := range []string{"a", "a-1", "A", "..", "a/../b", "", "con.crl", strings.Repeat("a", 64), strings.Repeat("a", 65), "é"} {
		for _, n := range []uint32{0, 1, 11} {
			shard := crl.Shard{Issuer: issuer, Number: n}
			path := x.path(shard)
			if other, taken := seen[strings.ToLower(path)]; taken || filepath.Dir(path) != "dir" || len(path) > 100 {
				t.Errorf("%v is at %s, where %v is", shard, path, other)
			}
			seen[strings.ToLower(path)] = shard
		}
	}
}

// TestFingerprint: it does not depend on where the parts end.
func TestFingerprint(t *testing.T) {
	list := newList(1)
	whole := list.DER.Bytes()
	want := fingerprintOf(crl.DER{whole})
	for _, at := range []int{0, 1, len(whole) - 513, len(whole) - 512, len(whole) - 511, len(whole)} {
		if got := fingerprintOf(crl.DER{whole[:at], whole[at:]}); got != want {
			t.Errorf("cut at %d of %d it is another", at, len(whole))
		}
	}
	if fingerprintOf(crl.DER{whole[1:]}) == want || fingerprintOf(nil) == want {
		t.Error("another text has the same")
	}
}
