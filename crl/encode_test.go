package crl

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// everyKey returns an issuing CA per kind of key.
func everyKey(t testing.TB) map[string]*testCA {
	t.Helper()
	all := map[string]*testCA{}
	add := func(name string, key crypto.Signer, err error) {
		if err != nil {
			t.Fatal(err)
		}
		all[name] = newCAWithKey(t, "Issuing CA", key)
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		add(curve.Params().Name, key, err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	add("RSA", rsaKey, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	add("Ed25519", edKey, err)
	return all
}

// reference is the TBSCertList that crypto/x509 writes for the same content.
func reference(t testing.TB, ca *testCA, number uint64, thisUpdate, nextUpdate time.Time, entries []revoked) []byte {
	t.Helper()
	template := &x509.RevocationList{
		Number: new(big.Int).SetUint64(number), ThisUpdate: thisUpdate, NextUpdate: nextUpdate,
		ExtraExtensions: []pkix.Extension{idpFor(t, testURL)},
	}
	for _, r := range entries {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: new(big.Int).SetBytes(r.serial[:]), RevocationTime: time.Unix(r.at, 0).UTC(), ReasonCode: int(r.reason),
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := split(DER{der})
	if err != nil {
		t.Fatal(err)
	}
	return l.tbs.Bytes()
}

func draftOf(t testing.TB, ca *testCA, number uint64, thisUpdate, nextUpdate time.Time, all []revoked) *draft {
	t.Helper()
	d, err := newDraft(PublishedShard{Shard: testShard, URL: testURL, Issuer: ca.cert}, number, thisUpdate, nextUpdate, entriesOf(t, all))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// entriesOf encodes entries that are in order.
func entriesOf(t testing.TB, all []revoked) *entries {
	t.Helper()
	var r rereading
	for i := range all {
		if err := r.add(&all[i]); err != nil {
			t.Fatal(err)
		}
	}
	return r.finish()
}

// entryOf makes an entry; serial is in big endian.
func entryOf(t testing.TB, serial []byte, reason int, at time.Time) revoked {
	t.Helper()
	r, err := Entry{Serial: serial, Reason: reason, At: at}.compact()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// oddEntries have serial numbers of all lengths, with and without the top bit, and times at the edges.
func oddEntries(t testing.TB) (all []revoked) {
	t.Helper()
	reasons := []int{0, 1, 2, 3, 4, 5, 6, 9, 10}
	times := []time.Time{
		time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1949, 12, 31, 23, 59, 59, 0, time.UTC),
		time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2000, 2, 29, 0, 0, 0, 0, time.UTC), testNow,
		time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC),
	}
	for octets := 1; octets <= maxSerial; octets++ {
		for _, first := range []byte{1, 0x7f, 0x80, 0xff} {
			serial := append([]byte{first}, make([]byte, octets-1)...)
			n := len(all)
			all = append(all, entryOf(t, serial, reasons[n%len(reasons)], times[n/2%len(times)]))
		}
	}
	return all
}

// The list is octet for octet the one that crypto/x509 writes.
func TestDraftIsWhatCryptoX509Writes(t *testing.T) {
	for name, ca := range everyKey(t) {
		for what, entries := range map[string][]revoked{
			"no entries": nil, "one": oddEntries(t)[:1], "three": oddEntries(t)[30:33], "all": oddEntries(t), "a length of three octets": slices.Repeat(oddEntries(t), 30),
		} {
			for _, number := range []uint64{1, 0x7f, 0x80, 0xffff, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
				for _, at := range []time.Time{testNow, time.Date(2049, 12, 31, 23, 30, 0, 0, time.UTC), time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)} {
					got := draftOf(t, ca, number, at, at.Add(time.Hour), entries).tbs().Bytes()
					if want := reference(t, ca, number, at, at.Add(time.Hour), entries); !bytes.Equal(got, want) {
						t.Fatalf("%s, %s, number %d, %s:\n%.300x, want\n%.300x", name, what, number, at, got, want)
					}
				}
			}
		}
	}
}

func TestSignedDraftVerifies(t *testing.T) {
	for name, ca := range everyKey(t) {
		for what, entries := range map[string][]revoked{"no entries": nil, "one": oddEntries(t)[:1], "all": oddEntries(t)} {
			d := draftOf(t, ca, 7, testNow, testNow.Add(time.Hour), entries)
			signature, err := ca.SignCRL(t.Context(), "", d.tbs())
			if err != nil {
				t.Fatal(err)
			}
			der := d.signed(signature).Bytes()
			list, err := ParseAndVerify(der, ca.cert, testURL, testNow)
			if err != nil || !slices.Equal(list.entries, sortEntries(slices.Clone(entries))) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
			std, err := x509.ParseRevocationList(der)
			if err != nil || std.CheckSignatureFrom(ca.cert) != nil || len(std.RevokedCertificateEntries) != len(entries) {
				t.Errorf("%s, %s: crypto/x509: %v", name, what, err)
			}
		}
	}
}

func TestDraftRefuses(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := newCA(t, "Issuing CA").cert
	withoutKeyID := *good
	withoutKeyID.SubjectKeyId = nil
	for what, s := range map[string]PublishedShard{
		"P-224":             {URL: testURL, Issuer: newCAWithKey(t, "Issuing CA", p224).cert},
		"no key identifier": {URL: testURL, Issuer: &withoutKeyID},
		"no URL":            {Issuer: good},
	} {
		if _, err := newDraft(s, 1, testNow, testNow, &entries{}); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	c := publisherConfig(newCAWithKey(t, "Issuing CA", p224), newMemory())
	if _, err := NewPublisher(c); err == nil || !strings.Contains(err.Error(), "signature algorithm") {
		t.Errorf("a publisher whose key cannot sign: %v", err)
	}
}

// A date that no CRL can tell keeps the list from being published, and no other date gets on it instead.
func TestDateThatNoListCanTell(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	for _, at := range []time.Time{time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(1<<52, 0)} {
		m := newMemory()
		m.revoked["x"] = Entry{Serial: []byte{1}, At: at, NotAfter: time.Now().Add(time.Hour)}
		if _, err := newPublisher(t, publisherConfig(ca, m)).Publish(t.Context(), testShard); err == nil || len(m.lists()) > 0 {
			t.Errorf("%s: published", at)
		}
	}
}

// FuzzDraft asks that what is written for any content is what crypto/x509 writes for it, and reads back the same.
func FuzzDraft(f *testing.F) {
	ca := fuzzCA(f)
	f.Add([]byte{1}, uint8(0), int64(0), uint64(1), int64(1_800_000_000), uint8(0))
	f.Add([]byte{0x80, 0}, uint8(1), int64(unix2050), uint64(1<<63), int64(unix2050-1), uint8(1))
	f.Add(bytes.Repeat([]byte{0xff}, 20), uint8(10), int64(unix1950-1), uint64(1<<40), int64(unix1950), uint8(200))
	f.Fuzz(func(t *testing.T, serial []byte, reason uint8, at int64, number uint64, update int64, n uint8) {
		const first, last = -62135596799, 253402300799 // the years 1 to 9999, without Go's zero time
		if at < first || at > last || update < first || update > last-3600 {
			t.Skip("crypto/x509 refuses the date")
		}
		r, err := Entry{Serial: serial, Reason: int(reason), At: time.Unix(at, 0)}.compact()
		if err != nil {
			t.Skip(err)
		}
		entries := slices.Repeat([]revoked{r}, int(n))
		thisUpdate := time.Unix(update, 0).UTC()
		d := draftOf(t, ca, number, thisUpdate, thisUpdate.Add(time.Hour), entries)
		if got, want := d.tbs().Bytes(), reference(t, ca, number, thisUpdate, thisUpdate.Add(time.Hour), entries); !bytes.Equal(got, want) {
			t.Fatalf("%x, want %x", got, want)
		}
		signature, err := ca.SignCRL(t.Context(), "", d.tbs())
		if err != nil {
			t.Fatal(err)
		}
		list, err := ParseAndVerify(d.signed(signature).Bytes(), ca.cert, testURL, thisUpdate)
		if err != nil || list.Number != number || !slices.Equal(list.entries, entries) {
			t.Fatalf("reads back as %+v, %v", list, err)
		}
	})
}
