package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/internal/pgtest"
)

// Whoever asks at the same time is asked for together, each gets the answer to their own question, and nobody one from
// before they asked.
func TestLookups(t *testing.T) {
	s, err := Open(t.Context(), pgtest.Database(t), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var mu sync.Mutex // guards what follows
	asked, queries := 0, 0
	broken := error(nil)
	l := newLookups(s, "asking", func(_ context.Context, _ *pgx.Conn, keys []int) (map[int]string, error) {
		mu.Lock()
		defer mu.Unlock()
		asked, queries = asked+len(keys), queries+1
		all := map[int]string{}
		for _, k := range keys {
			if k%3 != 0 {
				all[k] = fmt.Sprint(k)
			}
		}
		return all, broken
	})
	var asking sync.WaitGroup
	for k := range 300 {
		asking.Go(func() {
			answer, found, err := l.get(t.Context(), k)
			if err != nil || found != (k%3 != 0) || found && answer != fmt.Sprint(k) {
				t.Errorf("%d: %q, %t, %v", k, answer, found, err)
			}
		})
	}
	asking.Wait()
	if asked != 300 || queries >= 300 {
		t.Errorf("%d questions in %d queries, want 300 in fewer", asked, queries)
	}

	broken = errDamaged
	if _, found, err := l.get(t.Context(), 1); !errors.Is(err, errDamaged) || found {
		t.Errorf("a query that fails: %t, %v", found, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.get(gone, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who is gone: %v", err)
	}
	l.close()
	if _, _, err := l.get(t.Context(), 1); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// A plan is kept from when it was made, and most are made while tables are empty: none may read a whole table, which is
// quick then and at no time later.
func TestPlansAreForLargeTables(t *testing.T) {
	s, err := Open(t.Context(), pgtest.Database(t), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	conn, err := s.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "VACUUM certificates, revocations, invitations, clients"); err != nil { // they are known to be empty
		t.Fatal(err)
	}
	serials, ids := [][]byte{make([]byte, 16)}, []string{"x"}
	for sql, arg := range map[string]any{
		takenSQL: serials, rightsSQL: ids, recordSQL: serials[0], recordsSQL: serials, invitationsSQL: ids, releaseSQL: serials,
		clientsSQL: ids, revokedThumbprintsSQL: serials,
	} {
		rows, err := conn.Query(t.Context(), "EXPLAIN "+sql, arg)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "\n"); strings.Contains(text, "Seq Scan") || !strings.Contains(text, "Index") {
			t.Errorf("%s\n%s", sql, text)
		}
	}
}

// Nobody waits for good behind queries that hang.
func TestLookupsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lookups[int, int]{doing: "asking", queue: make(chan *question[int, int])}
		if _, _, err := l.get(t.Context(), 1); !errors.Is(err, ErrUnavailable) {
			t.Errorf("error %v", err)
		}
	})
}
