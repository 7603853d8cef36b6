package crl

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// inParts cuts octets at random places; some parts are empty.
func inParts(random *rand.Rand, b []byte) DER {
	var d DER
	for len(b) > 0 {
		n := random.IntN(min(len(b), 5) + 1)
		d = append(d, b[:n:n])
		b = b[n:]
	}
	return append(d, nil)
}

func TestDERInParts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for size := range 40 {
		whole := []byte(strings.Repeat("0123456789", 4)[:size])
		d := inParts(random, whole)
		if d.Len() != size || !bytes.Equal(d.Bytes(), whole) || !d.Equal(DER{whole}) || !d.Equal(inParts(random, whole)) {
			t.Fatalf("%q: %d octets, %q", d, d.Len(), d.Bytes())
		}
		if size > 0 {
			changed := bytes.Clone(whole)
			changed[random.IntN(size)]++
			if d.Equal(inParts(random, changed)) || d.Equal(DER{whole[1:]}) || d.peek() != whole[0] {
				t.Fatalf("%q is equal to %q, or begins with %q", d, changed, d.peek())
			}
		}
		if err := iotest.TestReader(d.Reader(), whole); err != nil {
			t.Fatalf("%q: %v", d, err)
		}
		for at := range size + 1 {
			front, rest := d.cut(at)
			if !bytes.Equal(front.Bytes(), whole[:at]) || !bytes.Equal(rest.Bytes(), whole[at:]) {
				t.Fatalf("%q, cut at %d: %q and %q", d, at, front, rest)
			}
			for n := range size - at + 1 {
				var out bytes.Buffer
				if written, err := d.writeFrom(&out, int64(at), int64(n)); err != nil || written != int64(n) || !bytes.Equal(out.Bytes(), whole[at:at+n]) {
					t.Fatalf("%q, %d octets from %d: %q, %d, %v", d, n, at, out.Bytes(), written, err)
				}
			}
		}
	}
	if n, err := (DER{[]byte("a"), []byte("bc")}).WriteTo(brokenWriter{}); n != 1 || err == nil {
		t.Errorf("a writer that fails after one part: %d, %v", n, err)
	}
}

// brokenWriter takes one octet at a time.
type brokenWriter struct{}

func (brokenWriter) Write(p []byte) (int, error) {
	if len(p) > 1 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// However a list lies in parts, it is cut up in the same way.
func TestSplitInParts(t *testing.T) {
	ca, random := newCA(t, "Issuing CA"), rand.New(rand.NewPCG(3, 4))
	for _, serials := range [][]int64{nil, {1}, {1, 2, 300}} {
		der := ca.list(t, 1, testNow, nil, serials...)
		want, err := split(DER{der})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			got, err := split(inParts(random, der))
			if err != nil || !bytes.Equal(got.bare, want.bare) {
				t.Fatalf("%d serial numbers: %x, %v; want %x", len(serials), got.bare, err, want.bare)
			}
			for name, pair := range map[string][2]DER{"tbs": {got.tbs, want.tbs}, "front": {got.front, want.front}, "entries": {got.entries, want.entries}, "back": {got.back, want.back}} {
				if !pair[0].Equal(pair[1]) {
					t.Errorf("%s: %q, want %q", name, pair[0], pair[1])
				}
			}
			if whole := fmt.Sprintf("%s%s%s", got.front.Bytes(), got.entries.Bytes(), got.back.Bytes()); whole != string(der) {
				t.Error("front, entries and back are not the list")
			}
			if _, err := split(inParts(random, der[:len(der)-1-random.IntN(len(der))])); err == nil {
				t.Error("a list that was cut short was accepted")
			}
		}
	}
}
