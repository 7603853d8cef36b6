package boltstore

import (
	"bytes"
	"testing"
)

// FuzzDifference: what was taken apart comes together again, and damaged steps do no harm.
func FuzzDifference(f *testing.F) {
	cert := clientCertificate(f)
	other := bytes.ReplaceAll(clientCertificate(f), []byte("client-12"), []byte("a longer name"))
	f.Add(cert, other)
	f.Add(cert, cert)
	f.Add([]byte{}, cert)
	f.Add(cert, []byte{})
	f.Add(bytes.Repeat([]byte("abcdefgh"), 30), bytes.Repeat([]byte("abcdefghi"), 30))
	f.Fuzz(func(t *testing.T, der, text []byte) {
		if len(der) > maxPattern || len(text) > maxText {
			return
		}
		p := newPattern(1, "", "", der)
		steps := p.appendDifference(nil, text)
		got, ok := p.text(steps)
		if !ok || !bytes.Equal(got, text) {
			t.Fatalf("%x came back as %x (%t)", text, got, ok)
		}
		if worst := len(text) + len(text)/minCopy + 16; len(steps) > worst {
			t.Errorf("%d octets took %d", len(text), len(steps))
		}
		if got, ok := p.text(text); ok && len(got) > maxText { // as if it were steps
			t.Errorf("grew to %d octets", len(got))
		}
	})
}

// TestDifferenceIsSmall: what two certificates of a kind share is not stored twice.
func TestDifferenceIsSmall(t *testing.T) {
	a, b := clientCertificate(t), clientCertificate(t)
	steps := newPattern(1, "", "", a).appendDifference(nil, b)
	// The serial number and key twice, the signature and a few octets of times and lengths are its own.
	if most := 2*16 + 64 + 72 + 60; len(steps) > most {
		t.Errorf("%d octets took %d, want at most %d", len(b), len(steps), most)
	}
}

func BenchmarkDifference(b *testing.B) {
	p, text := newPattern(1, "", "", clientCertificate(b)), clientCertificate(b)
	room := make([]byte, 0, 2*len(text))
	b.Run("take apart", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.appendDifference(room, text)
		}
	})
	steps := p.appendDifference(nil, text)
	b.ReportMetric(float64(len(steps)), "B")
	b.Run("put together", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.text(steps)
		}
	})
}
