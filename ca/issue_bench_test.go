package ca_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"testing"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
)

// keeper is a store that costs nothing.
type keeper struct{ ca.Store }

func (keeper) Insert(context.Context, *ca.Record, *ca.Spend, audit.Event) error { return nil }

// Issuing but for the store: deciding, writing, signing, reading back and comparing. The floor is
// x509.CreateCertificate, which signs and verifies too, but decides and compares nothing.
func BenchmarkIssue(b *testing.B) {
	a := newBench(b)
	a.store.Store = keeper{}
	request := a.request(newCSR(b, newKey(b), nil))
	b.Run("issue", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := a.Issue(b.Context(), request); err != nil {
				b.Fatal(err)
			}
		}
	})
	template := leaf(b, a.issue())
	b.Run("floor", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := x509.CreateCertificate(rand.Reader, template, a.cert(), template.PublicKey, a.signer.key); err != nil {
				b.Fatal(err)
			}
		}
	})
}
