package pgstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/pgstore"
	"github.com/pkid/pkid/internal/pgtest"
)

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// listOf returns a list of some parts.
func listOf(number uint64, parts crl.DER) crl.Signed {
	at := time.Unix(1_800_000_000, 0).UTC().Add(time.Duration(number) * time.Second)
	return crl.Signed{Shard: shardOfTests, Number: number, ThisUpdate: at, NextUpdate: at.Add(time.Hour), DER: parts}
}

func replace(t *testing.T, s *pgstore.Store, prev, next crl.Signed) {
	t.Helper()
	if err := s.Replace(t.Context(), prev, next); err != nil {
		t.Fatal(err)
	}
}

func checkLatest(t *testing.T, s *pgstore.Store, want crl.Signed) {
	t.Helper()
	got, err := s.Latest(t.Context(), want.Shard, 0)
	if err != nil || got.Number != want.Number || !got.DER.Equal(want.DER) || !got.Delta.Equal(want.Delta) || !got.ThisUpdate.Equal(want.ThisUpdate) {
		t.Errorf("Latest = number %d of %d octets and %d, %v; want number %d of %d and %d",
			got.Number, got.DER.Len(), got.Delta.Len(), err, want.Number, want.DER.Len(), want.Delta.Len())
	}
}

// TestListsShareTheirBlocks: a new list writes the blocks that are new, drops those that no list has any more, and is
// read by who has the list before without those that both have.
func TestListsShareTheirBlocks(t *testing.T) {
	url := pgtest.Database(t)
	here, there := open(t, url), open(t, url)
	var parts crl.DER
	for range 40 {
		parts = append(parts, noise(1000))
	}
	first := listOf(1, parts)
	replace(t, here, crl.Signed{}, first)
	checkLatest(t, there, first)
	execute(t, url, "INSERT INTO pkid.crl_blocks VALUES ($1, 0, 'left over', 'of a node that was killed')", shardOfTests.Issuer)

	changed := append(crl.DER{}, parts...)
	changed[7], changed[39] = noise(1000), noise(10)
	second := listOf(2, changed)
	second.Delta = crl.DER{noise(100), noise(50)}
	replace(t, here, first, second)
	var blocks, transactions int
	err := connect(t, url).QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE xmin <> (SELECT min(xmin::text::bigint)::text::xid FROM pkid.crl_blocks))
		FROM pkid.crl_blocks`).Scan(&blocks, &transactions)
	if err != nil || blocks != 40 || transactions != 2 {
		t.Errorf("%d blocks, of which %d were written for the second list, %v; want 40 and 2", blocks, transactions, err)
	}
	hidden := "UPDATE pkid.crl_blocks SET issuer = issuer || $1 WHERE issuer = $2"
	execute(t, url, hidden+" AND length(data) = 1000 AND hash <> sha256($3)", "-", shardOfTests.Issuer, changed[7])
	checkLatest(t, there, second) // the others it had
	checkLatest(t, here, second)

	// A node that has nothing is told the number and the times of a list that is damaged, and no half of it.
	lost := second
	lost.DER = nil
	checkLatest(t, open(t, url), lost)
	third := listOf(3, changed)
	replace(t, here, second, third) // which writes all that is missing
	checkLatest(t, open(t, url), third)
}

// TestLongList: a list in one part, as another engine gives it, is cut up for the database.
func TestLongList(t *testing.T) {
	url := pgtest.Database(t)
	long := listOf(1, crl.DER{noise(9<<20 + 1)})
	replace(t, open(t, url), crl.Signed{}, long)
	checkLatest(t, open(t, url), long)
}

// TestListOfNothing: what was moved from an engine that had lost the text.
func TestListOfNothing(t *testing.T) {
	s := open(t, pgtest.Database(t))
	replace(t, s, crl.Signed{}, listOf(1, nil))
	checkLatest(t, s, listOf(1, nil))
	twice := noise(100)
	replace(t, s, listOf(1, nil), listOf(2, crl.DER{twice, {}, twice}))
	checkLatest(t, s, listOf(2, crl.DER{twice, twice}))
}

// TestReplaceWhileTheDatabaseIsAway: an error leaves the newest list as it was, and the same call succeeds later.
func TestReplaceWhileTheDatabaseIsAway(t *testing.T) {
	url := pgtest.Database(t)
	p, away := throughProxy(t, url)
	s := open(t, away)
	first, second := listOf(1, crl.DER{noise(100)}), listOf(2, crl.DER{noise(100)})
	replace(t, s, crl.Signed{}, first)
	p.Cut()
	err := s.Replace(t.Context(), first, second)
	if !errors.Is(err, pgstore.ErrUnavailable) && !errors.Is(err, pgstore.ErrOutcomeUnknown) {
		t.Errorf("Replace = %v, want that the database is away", err)
	}
	if _, err := s.Latest(t.Context(), shardOfTests, 0); !errors.Is(err, pgstore.ErrUnavailable) {
		t.Errorf("Latest = %v, want ErrUnavailable", err)
	}
	p.Resume()
	checkLatest(t, s, first)
	replace(t, s, first, second)
	checkLatest(t, s, second)
}

// TestUsesShareTransactions: many that wait use up their keys in one commit.
func TestUsesShareTransactions(t *testing.T) {
	url := pgtest.Database(t)
	s := open(t, url)
	const many = 300
	errs := make(chan error, many)
	start := make(chan struct{})
	for i := range many {
		go func() {
			<-start
			errs <- s.Use(t.Context(), [32]byte{byte(i), byte(i >> 8)}, time.Now().Add(time.Hour))
		}()
	}
	close(start)
	for range many {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	var rows, transactions int
	if err := connect(t, url).QueryRow(t.Context(), "SELECT count(*), count(DISTINCT xmin::text) FROM pkid.uses").Scan(&rows, &transactions); err != nil {
		t.Fatal(err)
	}
	if rows != many || transactions > many/3 {
		t.Errorf("%d uses in %d transactions", rows, transactions)
	}
}

// TestUseWhileTheDatabaseIsAway: nothing is accepted that cannot be remembered, and who gives up is let go.
func TestUseWhileTheDatabaseIsAway(t *testing.T) {
	url := pgtest.Database(t)
	p, away := throughProxy(t, url)
	s := open(t, away)
	until := time.Now().Add(time.Hour)
	if err := s.Use(t.Context(), [32]byte{1}, until); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	err := s.Use(t.Context(), [32]byte{2}, until)
	if !errors.Is(err, pgstore.ErrUnavailable) && !errors.Is(err, pgstore.ErrOutcomeUnknown) {
		t.Errorf("Use = %v, want that the database is away", err)
	}
	p.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Use(ctx, [32]byte{3}, until); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Use = %v, want the caller's deadline", err)
	}
	p.Resume()
	if err := s.Use(t.Context(), [32]byte{4}, until); err != nil {
		t.Errorf("after the loss: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Use(t.Context(), [32]byte{5}, until); !errors.Is(err, pgstore.ErrClosed) {
		t.Errorf("Use of a closed store = %v", err)
	}
}
