package crl

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"
)

// bigEntries are n revocations with serial numbers as package ca gives them, among which is none that starts with 1.
func bigEntries(n int) []revoked {
	all := make([]revoked, n)
	for i := range all {
		serial := all[i].serial[4:]
		binary.BigEndian.PutUint64(serial, 0x0190_0000_0000_0000+uint64(i)<<20)
		digest := sha256.Sum256(serial)
		copy(serial[6:], digest[:])
		all[i].reason, all[i].at = 1, 1_700_000_000+int64(binary.BigEndian.Uint32(digest[16:])>>6)
	}
	return all
}

func bigList(b *testing.B, ca *testCA, n int) DER {
	b.Helper()
	now := time.Now()
	d := draftOf(b, ca, 1, now, now.Add(time.Hour), bigEntries(n))
	signature, err := ca.SignCRL(b.Context(), "", d.tbs())
	if err != nil {
		b.Fatal(err)
	}
	return d.signed(signature)
}

func BenchmarkParseAndVerify(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		ca := newCA(b, "Issuing CA")
		der := bigList(b, ca, n).Bytes()
		b.Run(fmt.Sprint(n), func(b *testing.B) {
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
		b.Run(fmt.Sprint(n, "/floor"), func(b *testing.B) {
			b.SetBytes(int64(len(der)))
			for b.Loop() {
				sha256.Sum256(der)
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		ca := newCA(b, "Issuing CA")
		der := bigList(b, ca, n).Bytes()
		k := newChecker(b, CheckerConfig{
			Issuers:    []*x509.Certificate{ca.cert},
			HTTPClient: handled(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(der) }),
		})
		cert := ca.leaf(b, 0x0190_0000_0000_1234, testURL)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := k.Check(b.Context(), cert); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A download over loopback, from a list in parts and, as the floor, from one slice by http.ServeContent.
func BenchmarkServe(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		ca, m := newCA(b, "Issuing CA"), newMemory()
		m.newest[testShard] = Signed{Shard: testShard, Number: 1, ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour), DER: bigList(b, ca, n)}
		p := newPublisher(b, publisherConfig(ca, m))
		if _, err := p.latest(b.Context(), p.shards[testShard]); err != nil {
			b.Fatal(err)
		}
		whole := m.newest[testShard].DER.Bytes()
		for name, handler := range map[string]http.HandlerFunc{
			fmt.Sprint(n): func(w http.ResponseWriter, r *http.Request) { p.Serve(w, r, testShard) },
			fmt.Sprint(n, "/floor"): func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "", time.Now(), bytes.NewReader(whole))
			},
		} {
			b.Run(name, func(b *testing.B) {
				server := httptest.NewServer(handler)
				defer server.Close()
				b.SetBytes(int64(len(whole)))
				b.ReportAllocs()
				for b.Loop() {
					resp, err := server.Client().Get(server.URL)
					if err != nil {
						b.Fatal(err)
					}
					if got, err := io.Copy(io.Discard, resp.Body); err != nil || got != int64(len(whole)) {
						b.Fatalf("%d octets, %v", got, err)
					}
					resp.Body.Close()
				}
			})
		}
	}
}

func BenchmarkGzip(b *testing.B) {
	ca := newCA(b, "Issuing CA")
	list := bigList(b, ca, 100_000)
	b.SetBytes(int64(list.Len()))
	var z DER
	for b.Loop() {
		z = compress(list, func() bool { return true })
	}
	b.ReportMetric(float64(list.Len())/float64(z.Len()), "ratio")
}

// What the longest delta costs that is usual, beside a list of a million entries: to sign it, and to read it and lay it
// over the list.
func BenchmarkDelta(b *testing.B) {
	ca, m := newCA(b, "Issuing CA"), newMemory()
	now := time.Now()
	p := newPublisher(b, deltaConfig(ca, m, &now))
	s := p.find(testShard)
	full, err := p.sign(b.Context(), s, 1, entriesOf(b, bigEntries(1_000_000)), now)
	if err != nil {
		b.Fatal(err)
	}
	held, err := ParseAndVerify(full.DER.Bytes(), ca.cert, testURL, now)
	if err != nil {
		b.Fatal(err)
	}
	base := newMark(1)
	for i, r := range bigEntries(1_000_000)[500_000:][:2*maxChanges] {
		base.changes[r.serial] = edit{revoked: r, released: i%2 == 0}
	}
	next, err := p.sign(b.Context(), s, 2, &entries{}, now)
	if err != nil {
		b.Fatal(err)
	}
	delta, err := p.signDelta(b.Context(), s, next, &base)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sign", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if delta, err = p.signDelta(b.Context(), s, next, &base); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(delta.DER.Len()), "octets")
	})
	der := delta.DER.Bytes()
	b.Run("apply", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			d, err := parseDelta(der, ca.cert, testURL, now)
			if err != nil {
				b.Fatal(err)
			}
			if l, err := held.with(d); err != nil || l.Len() != 999_000-24 {
				b.Fatal(l.Len(), err)
			}
		}
	})
}
