package storetest

import (
	"crypto/sha256"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind/authserver"
)

var clientTests = map[string]func(*testing.T, *store){
	"ClientRoundTrip":           testClient,
	"ClientUnknown":             testClientUnknown,
	"PutClientConflicts":        testClientConflict,
	"PutClientHasOneWinner":     testClientWinner,
	"PutClientNewHasOneWinner":  testClientNewWinner,
	"ClientIsAsNewAsTheLog":     testClientAsNewAsTheLog,
	"ClientsInOrderAndInPages":  testClients,
	"RevokedTokens":             testRevokedTokens,
	"RevokedTokensListed":       testRevokedTokensListed,
	"RevokedTokenIsKeptLongest": testRevokedTokenLongest,
}

func putClient(t *testing.T, s *store, c authserver.Client) *authserver.Client {
	t.Helper()
	out, err := s.PutClient(t.Context(), c, event(audit.ClientAdd, c.ID))
	if err != nil {
		t.Fatalf("PutClient: %v", err)
	}
	return out
}

func testClient(t *testing.T, s *store) {
	want := authserver.Client{
		ID: "alice", Auth: authserver.TLSClientAuth, SubjectKind: authserver.SANDNS, Subject: "alice.example.com",
		JWKS: []byte(`{"keys":[]}`), SecretHash: noise(32), SealedSecret: noise(60), DPoP: true, Nonce: authserver.NonceRequired, Profile: authserver.FAPI2,
		Scopes: []string{"read", "write"}, Resources: []string{"https://api.example.com"},
		Disabled: true, TokensNotBefore: start.Add(time.Millisecond), CreatedAt: start,
	}
	got := putClient(t, s, want)
	want.Version = 1
	for range 2 {
		if !reflect.DeepEqual(*got, want) {
			t.Fatalf("got %+v, want %+v", *got, want)
		}
		s.reopen(t)
		var err error
		if got, err = s.Client(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
	}
}

func testClientUnknown(t *testing.T, s *store) {
	putClient(t, s, authserver.Client{ID: "alice"})
	for _, id := range []string{"", "alic", "alice2", "Alice"} {
		if c, err := s.Client(t.Context(), id); !errors.Is(err, authserver.ErrNoClient) {
			t.Errorf("Client(%q) = %+v, %v; want ErrNoClient", id, c, err)
		}
	}
}

func testClientConflict(t *testing.T, s *store) {
	first := putClient(t, s, authserver.Client{ID: "alice", Scopes: []string{"one"}})
	second := putClient(t, s, authserver.Client{ID: "alice", Scopes: []string{"two"}, Version: first.Version})
	before := acts(t, s)
	for _, version := range []uint64{0, 1, 3} {
		c := authserver.Client{ID: "alice", Scopes: []string{"lost"}, Version: version}
		if _, err := s.PutClient(t.Context(), c, event(audit.ClientChange, "alice")); !errors.Is(err, authserver.ErrConflict) {
			t.Errorf("PutClient of version %d = %v, want ErrConflict", version, err)
		}
	}
	c := authserver.Client{ID: "nobody", Version: 1}
	if _, err := s.PutClient(t.Context(), c, event(audit.ClientChange, "nobody")); !errors.Is(err, authserver.ErrConflict) {
		t.Errorf("PutClient of a change to nothing = %v, want ErrConflict", err)
	}
	if got, err := s.Client(t.Context(), "alice"); err != nil || !reflect.DeepEqual(got, second) {
		t.Errorf("Client = %+v, %v; want %+v", got, err, second)
	}
	if acts(t, s) != before {
		t.Error("a refused change stands in the audit log")
	}
}

func testClientWinner(t *testing.T, s *store) {
	c := *putClient(t, s, authserver.Client{ID: "alice"})
	race(t, s, c)
}

func testClientNewWinner(t *testing.T, s *store) { race(t, s, authserver.Client{ID: "alice"}) }

func race(t *testing.T, s *store, c authserver.Client) {
	t.Helper()
	errs := together(2, func(i int) error {
		mine := c
		mine.Subject = subject(i)
		_, err := s.PutClient(t.Context(), mine, event(audit.ClientChange, c.ID))
		return err
	})
	won := winner(t, errs, func(err error) bool { return errors.Is(err, authserver.ErrConflict) })
	if got, err := s.Client(t.Context(), c.ID); err != nil || got.Subject != subject(won) || got.Version != c.Version+1 {
		t.Errorf("Client = %+v, %v; %s won", got, err, subject(won))
	}
}

// testClientAsNewAsTheLog: who read in the audit log of a change does not find the record from before it.
func testClientAsNewAsTheLog(t *testing.T, s *store) {
	const changes = 150
	alice := putClient(t, s, authserver.Client{ID: "alice"}) // version 1 is entry 1, and so on
	var readers sync.WaitGroup
	defer readers.Wait()
	for range 3 {
		readers.Go(func() {
			for {
				head, err := s.AuditHead(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				c, err := s.Client(t.Context(), "alice")
				if err != nil || c.Version < head.Seq {
					t.Errorf("the log has change %d, and the record is of change %+v (%v)", head.Seq, c, err)
					return
				}
				if head.Seq > changes {
					return
				}
			}
		})
	}
	for range changes {
		alice = putClient(t, s, *alice)
	}
}

func testClients(t *testing.T, s *store) {
	ids := []string{"a", "a-1", "a.b", "b", "zoé"}
	for _, id := range []string{"b", "zoé", "a-1", "a", "a.b"} {
		putClient(t, s, authserver.Client{ID: id})
	}
	for _, limit := range []int{1, 2, 100} {
		var got []string
		for after := ""; ; {
			page, err := s.Clients(t.Context(), after, limit)
			if err != nil || len(page) > limit {
				t.Fatalf("Clients(%q, %d) = %d, %v", after, limit, len(page), err)
			}
			if len(page) == 0 {
				break
			}
			for _, c := range page {
				got = append(got, c.ID)
			}
			after = got[len(got)-1]
		}
		if !slices.Equal(got, ids) {
			t.Errorf("limit %d: %q, want %q", limit, got, ids)
		}
	}
	if page, err := s.Clients(t.Context(), "a-2", 1); err != nil || len(page) != 1 || page[0].ID != "a.b" {
		t.Errorf("Clients after an id that is not there = %v, %v", page, err)
	}
}

func testRevokedTokens(t *testing.T, s *store) {
	revokeToken(t, s, "jti-1", time.Hour)
	revokeToken(t, s, "jti-1", time.Hour) // twice is no error, and nothing new to log
	if n := acts(t, s); n != 1 {
		t.Errorf("%d audit entries for one revoked token", n)
	}
	s.reopen(t)
	checkToken(t, s, "jti-1", true)
	checkToken(t, s, "jti-2", false)
	checkToken(t, s, "", false)
	if n, err := s.Prune(t.Context(), start.Add(time.Hour+2*time.Second), ca.Retention{}, 10); n != (ca.Pruned{Tokens: 1}) || err != nil {
		t.Errorf("Prune = %+v, %v; want one token", n, err)
	}
	checkToken(t, s, "jti-1", false)
}

func testRevokedTokensListed(t *testing.T, s *store) {
	revokeToken(t, s, "short", time.Minute)
	revokeToken(t, s, "long", time.Hour)
	revokeToken(t, s, "longer", time.Hour)
	until := start.Add(time.Hour)
	want := map[[sha256.Size]byte]time.Time{sha256.Sum256([]byte("long")): until, sha256.Sum256([]byte("longer")): until}
	got, err := s.RevokedTokens(t.Context(), start.Add(2*time.Minute), 10)
	if err != nil || !maps.EqualFunc(got, want, time.Time.Equal) {
		t.Errorf("RevokedTokens = %v, %v; want %v", got, err, want)
	}
	if got, err := s.RevokedTokens(t.Context(), start, 2); err != nil || len(got) != 2 {
		t.Errorf("RevokedTokens, at most two = %v, %v", got, err)
	}
}

func testRevokedTokenLongest(t *testing.T, s *store) {
	for _, until := range []time.Duration{time.Hour, 3 * time.Hour, 2 * time.Hour} {
		revokeToken(t, s, "jti", until)
	}
	if n, err := s.Prune(t.Context(), start.Add(3*time.Hour-time.Second), ca.Retention{}, 10); n != (ca.Pruned{}) || err != nil {
		t.Errorf("Prune = %+v, %v; want nothing", n, err)
	}
	checkToken(t, s, "jti", true)
}

func revokeToken(t *testing.T, s *store, jti string, until time.Duration) {
	t.Helper()
	if err := s.RevokeToken(t.Context(), jti, start.Add(until), event(audit.TokenRevoke, jti)); err != nil {
		t.Fatalf("RevokeToken: %v", err)
	}
}

func checkToken(t *testing.T, s *store, jti string, want bool) {
	t.Helper()
	if got, err := s.TokenRevoked(t.Context(), jti); err != nil || got != want {
		t.Errorf("TokenRevoked(%q) = %t, %v; want %t", jti, got, err, want)
	}
}
