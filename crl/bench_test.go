package crl

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"
)

func bigList(b *testing.B, ca *testCA, n int) []byte {
	all := make([]int64, n)
	for i := range all {
		all[i] = 1<<60 + int64(i)*1000
	}
	return ca.list(b, 1, time.Now(), nil, all...)
}

func BenchmarkParseAndVerify(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ca := newCA(b, "Issuing CA")
			der := bigList(b, ca, n)
			b.SetBytes(int64(len(der)))
			b.ReportAllocs()
			var l *List
			for b.Loop() {
				var err error
				if l, err = ParseAndVerify(der, ca.cert, testURL, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
			runtime.KeepAlive(l)
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	ca := newCA(b, "Issuing CA")
	der := bigList(b, ca, 100_000)
	k := newChecker(b, CheckerConfig{
		Issuers:    []*x509.Certificate{ca.cert},
		HTTPClient: handled(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(der) }),
	})
	cert := ca.leaf(b, 5, testURL)
	b.ReportAllocs()
	for b.Loop() {
		if err := k.Check(b.Context(), cert); err != nil {
			b.Fatal(err)
		}
	}
}
