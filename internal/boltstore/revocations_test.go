package boltstore

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
)

// TestRevokedAcrossChunks reads more revocations than one snapshot gives, while the writer takes away the one
// where the next chunk begins, and adds one at the end.
func TestRevokedAcrossChunks(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "pkid.db"))
	const n = 2*chunk + 1
	key := func(i int) []byte {
		return revokedKey(crl.Shard{Issuer: "issuer"}, binary.BigEndian.AppendUint64(make([]byte, 8), uint64(i)))
	}
	expiry := time.Now().Add(time.Hour)
	put := func(from, to int) {
		t.Helper()
		err := s.update(t.Context(), func(tx *tx) error {
			for i := from; i < to; i++ {
				if err := tx.put(revoked, key(i), encodeRevocation(&ca.Revocation{}, expiry)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(0, n)
	seen, released, added := 0, false, false
	var last []byte
	for e, err := range s.Revoked(t.Context(), crl.Shard{Issuer: "issuer"}, time.Now()) {
		if err != nil {
			t.Fatal(err)
		}
		if seen == 0 {
			if err := s.update(t.Context(), func(tx *tx) error { return tx.delete(revoked, key(chunk)) }); err != nil {
				t.Fatal(err)
			}
			put(n, n+1)
		}
		if bytes.Compare(last, e.Serial) >= 0 {
			t.Fatalf("%x comes after %x", e.Serial, last)
		}
		last = e.Serial
		seen++
		released = released || bytes.HasSuffix(key(chunk), e.Serial)
		added = added || bytes.HasSuffix(key(n), e.Serial)
	}
	if released || !added || seen != n {
		t.Errorf("saw %d entries, the released one: %t, the added one: %t; want %d, false, true", seen, released, added, n)
	}
}
