package pgstore_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pkid/pkid/internal/pgstore"
	"github.com/pkid/pkid/internal/pgtest"
)

// BenchmarkInsert has callers on each node insert certificates, each durable before the next.
func BenchmarkInsert(b *testing.B) {
	for _, c := range []struct{ nodes, callers int }{{1, 1}, {1, 32}, {3, 32}} {
		b.Run(fmt.Sprintf("nodes=%d/callers=%d", c.nodes, c.callers), func(b *testing.B) {
			url := pgtest.Database(b)
			var stores []*pgstore.Store
			for range c.nodes {
				stores = append(stores, open(b, url))
			}
			b.ResetTimer()
			fill(b, stores, c.callers, b.N)
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "inserts/s")
			report(b, url)
		})
	}
}

// BenchmarkRevokedThumbprint asks what every use of a token asks.
func BenchmarkRevokedThumbprint(b *testing.B) {
	s := open(b, pgtest.Database(b))
	rec := newRecord(0)
	insert(b, s, rec)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if revoked, err := s.RevokedThumbprint(b.Context(), rec.Thumbprint); err != nil || revoked {
				b.Error(revoked, err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}

// fill inserts n certificates of as many clients by so many callers on each node.
func fill(b *testing.B, nodes []*pgstore.Store, callers, n int) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for i := range callers * len(nodes) {
		wg.Go(func() {
			for k := next.Add(1); k <= int64(n); k = next.Add(1) {
				r := newRecord(int(k))
				if err := nodes[i%len(nodes)].Insert(b.Context(), r, nil, issueEvent(r)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// report tells how many octets a certificate takes in the database, with its indexes and its audit entry, and how many
// certificates shared a transaction.
func report(b *testing.B, url string) {
	b.Helper()
	var size, certificates, transactions float64
	err := connect(b, url).QueryRow(b.Context(), `
		SELECT sum(pg_total_relation_size(c.oid)), (SELECT count(*) FROM pkid.certificates),
			(SELECT count(DISTINCT xmin::text) FROM pkid.certificates)
		FROM pg_class c WHERE c.relnamespace = 'pkid'::regnamespace AND c.relkind = 'r'`).Scan(&size, &certificates, &transactions)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(size/certificates, "B/cert")
	b.ReportMetric(certificates/transactions, "inserts/tx")
}
