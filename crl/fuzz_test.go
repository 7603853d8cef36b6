package crl

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"
)

// fuzzCA has a fixed key, so that what the fuzzer keeps still means something in the next run.
func fuzzCA(t testing.TB) *testCA {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	return newCAWithKey(t, "Issuing CA", key)
}

// FuzzChecker asks of ParseAndVerify that it never panics, and that whatever it accepts is also accepted by
// crypto/x509, with its signature, the same number and the same entries.
//
// A fuzzer cannot sign, so the input is also taken as the content of a TBSCertList that is then signed:
// the entries are read only after the signature was found good.
func FuzzChecker(f *testing.F) {
	ca := fuzzCA(f)
	for i, der := range [][]byte{
		ca.list(f, 1, testNow, nil),
		ca.list(f, 1<<40, testNow, nil, 1, 2, 300, 1<<62),
		ca.list(f, 2, testNow, func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].RevocationTime = time.Date(2051, 1, 1, 0, 0, 0, 0, time.UTC)
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 24}, Value: []byte("\x18\x0f20260101000000Z")}}
		}, 9),
		newCA(f, "Another CA").list(f, 1, testNow, nil, 5),
	} {
		f.Add(der)
		if _, err := ParseAndVerify(der, ca.cert, testURL, testNow); (err == nil) != (i < 3) {
			f.Fatalf("seed %d: %v", i, err)
		}
		l, err := split(DER{der})
		if err != nil {
			f.Fatal(err)
		}
		r := reader(l.tbs.Bytes())
		content, _ := r.take(tagSequence)
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		tbs := wrap(tagSequence, in)
		signed := wrap(tagSequence, tbs, wrap(tagSequence, []byte{tagOID, 3, 0x2b, 0x65, 0x70}), wrap(tagBitString, []byte{0}, ed25519.Sign(ca.key.(ed25519.PrivateKey), tbs)))
		for _, der := range [][]byte{in, signed} {
			l, err := ParseAndVerify(der, ca.cert, testURL, testNow)
			if err != nil {
				continue
			}
			std, err := x509.ParseRevocationList(der)
			if err != nil {
				t.Fatalf("accepted, but crypto/x509 says %v", err)
			}
			if err := std.CheckSignatureFrom(ca.cert); err != nil {
				t.Fatalf("accepted, but the signature: %v", err)
			}
			if std.Number.Uint64() != l.Number || !std.ThisUpdate.Equal(l.ThisUpdate) || !std.NextUpdate.Equal(l.NextUpdate) || len(std.RevokedCertificateEntries) != l.Len() {
				t.Fatalf("read as %+v, by crypto/x509 as %+v", l, std)
			}
			for _, e := range std.RevokedCertificateEntries {
				if _, ok := l.Lookup(e.SerialNumber); !ok {
					t.Fatalf("%d is on the list and is not found", e.SerialNumber)
				}
			}
		}
	})
}

// FuzzDelta asks of parseDelta what FuzzChecker asks of ParseAndVerify, that nothing is both kinds of list, and that
// whatever is accepted changes a full list to what it says, and nothing else of it.
func FuzzDelta(f *testing.F) {
	ca := fuzzCA(f)
	full, err := ParseAndVerify(ca.list(f, 10, testNow, nil, 1, 2, 3), ca.cert, testURL, testNow)
	if err != nil {
		f.Fatal(err)
	}
	for i, der := range [][]byte{
		ca.delta(f, 10, 10, testNow, nil),
		ca.delta(f, 5, 1<<40, testNow, nil, 1, 300, 1<<62),
		ca.delta(f, 10, 11, testNow, func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = removeFromCRL }, 2, 9),
		ca.list(f, 11, testNow, nil, 5),
	} {
		f.Add(der)
		if _, err := parseDelta(der, ca.cert, testURL, testNow); (err == nil) != (i < 3) {
			f.Fatalf("seed %d: %v", i, err)
		}
		l, err := split(DER{der})
		if err != nil {
			f.Fatal(err)
		}
		r := reader(l.tbs.Bytes())
		content, _ := r.take(tagSequence)
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		tbs := wrap(tagSequence, in)
		signed := wrap(tagSequence, tbs, wrap(tagSequence, []byte{tagOID, 3, 0x2b, 0x65, 0x70}), wrap(tagBitString, []byte{0}, ed25519.Sign(ca.key.(ed25519.PrivateKey), tbs)))
		for _, der := range [][]byte{in, signed} {
			delta, err := parseDelta(der, ca.cert, testURL, testNow)
			if err != nil {
				continue
			}
			if _, err := ParseAndVerify(der, ca.cert, testURL, testNow); err == nil {
				t.Fatal("a delta was accepted as a full list")
			}
			std, err := x509.ParseRevocationList(der)
			if err != nil || std.CheckSignatureFrom(ca.cert) != nil || std.Number.Uint64() != delta.Number || len(std.RevokedCertificateEntries) != delta.Len() {
				t.Fatalf("read as %+v, by crypto/x509 as %+v, %v", delta, std, err)
			}
			next, err := full.with(delta)
			if err != nil || next == full {
				continue
			}
			want := content(full)
			for _, e := range std.RevokedCertificateEntries {
				got, ok := next.Lookup(e.SerialNumber)
				if removed := e.ReasonCode == removeFromCRL; ok == removed || !removed && got.Reason != e.ReasonCode {
					t.Fatalf("the delta says %+v, the list %+v, %t", e, got, ok)
				}
				delete(want, string(e.SerialNumber.Bytes()))
			}
			for serial, said := range want {
				if got := content(next)[serial]; got != said {
					t.Fatalf("%x was %+v, and is %+v", serial, said, got)
				}
			}
			if len(content(next)) != next.Len() {
				t.Fatalf("%d entries, and Len is %d", len(content(next)), next.Len())
			}
		}
	})
}
