package crl

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"
)

const testDeltaURL = "http://status.test/crl/a1-delta.crl"

// deltaConfig is publisherConfig with deltas, by a clock that the test sets.
func deltaConfig(ca *testCA, m *memory, now *time.Time) PublisherConfig {
	c := publisherConfig(ca, m)
	c.Shards[0].DeltaURL = testDeltaURL
	c.Now = func() time.Time { return *now }
	return c
}

func parsed(t testing.TB, ca *testCA, s Signed) *List {
	t.Helper()
	l, err := ParseAndVerify(s.DER.Bytes(), ca.cert, testURL, s.ThisUpdate)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func parsedDelta(t testing.TB, ca *testCA, s Signed) *List {
	t.Helper()
	l, err := parseDelta(s.Delta.Bytes(), ca.cert, testURL, s.ThisUpdate)
	if err != nil {
		t.Fatal(err)
	}
	if l.Number != s.Number || !l.ThisUpdate.Equal(s.ThisUpdate) || !l.NextUpdate.Equal(s.NextUpdate) {
		t.Fatalf("delta %d of %s, with list %d of %s", l.Number, l.ThisUpdate, s.Number, s.ThisUpdate)
	}
	return l
}

// with returns what a delta makes of a list, and checks that all ways to read it agree.
func with(t testing.TB, l, delta *List) *List {
	t.Helper()
	next, err := l.with(delta)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for e := range next.All() {
		n++
		if got, ok := next.Lookup(new(big.Int).SetBytes(e.Serial)); !ok || got.Reason != e.Reason || !got.At.Equal(e.At) {
			t.Fatalf("%x is on the list as %+v, and looked up as %+v, %t", e.Serial, e, got, ok)
		}
	}
	if n != next.Len() {
		t.Fatalf("%d entries, and Len is %d", n, next.Len())
	}
	return next
}

// content is what a list says: what stands on it and why, by serial number.
func content(l *List) map[string]revoked {
	out := map[string]revoked{}
	for r := range l.all() {
		out[string(r.entry().Serial)] = r
	}
	return out
}

func sameContent(a, b *List) bool {
	return a.Len() == b.Len() && slices.Equal(slices.Collect(a.all()), slices.Collect(b.all()))
}

// Whatever is revoked, held and released, and whichever of two nodes publishes when: each delta makes the newest list of
// every list from its base on, and a client that polls now and then ends at the newest list too.
func TestDeltaMakesTheNewestList(t *testing.T) {
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 7))
		ca, m, now := newCA(t, "Issuing CA"), newMemory(), testNow
		c := deltaConfig(ca, m, &now)
		c.Follow = time.Second
		nodes := []*Publisher{newPublisher(t, c), newPublisher(t, c)}

		var lists []*List // every one that was published
		var client *List
		bases, removals, gaps := map[uint64]bool{}, 0, 0
		for range 100 {
			for range []int{0, 1, 3, 30, 150}[random.IntN(5)] {
				serial := 1 + random.Int64N(400)
				held := m.revoked[string(serialBytes(serial))]
				switch {
				case held.Reason == 6 && random.IntN(2) == 0:
					m.release(serial)
				case held.Serial == nil || held.Reason == 6:
					m.revoke(serial, []int{1, 6, 6}[random.IntN(3)])
				}
			}
			now = now.Add([]time.Duration{0, time.Second, 25 * time.Minute}[random.IntN(3)])
			p := nodes[random.IntN(len(nodes))]
			if _, err := p.publish(t.Context(), p.find(testShard), random.IntN(4) == 0); err != nil {
				t.Fatal(err)
			}
			newest := m.newest[testShard]
			if len(lists) > 0 && lists[len(lists)-1].Number == newest.Number {
				continue
			}
			full, delta := parsed(t, ca, newest), parsedDelta(t, ca, newest)
			lists = append(lists, full)
			bases[delta.base] = true
			for _, r := range delta.entries {
				if r.reason == removeFromCRL {
					removals++
				}
			}
			if n := delta.Len(); n > max(full.Len()/2, 4*minChanges) {
				t.Fatalf("a delta of %d entries to a list of %d", n, full.Len())
			}
			for _, old := range lists {
				if old.Number < delta.base {
					continue
				}
				if got, err := old.with(delta); err != nil || !sameContent(got, full) {
					t.Fatalf("seed %d: list %d with the delta from %d to %d is not list %d: %v", seed, old.Number, delta.base, delta.Number, full.Number, err)
				}
			}
			if random.IntN(3) == 0 {
				continue // the client is late
			}
			if client == nil || delta.base > client.Number {
				client, gaps = full, gaps+1
			}
			if client = with(t, client, delta); !sameContent(client, full) || client.Number != full.Number {
				t.Fatalf("seed %d: a client is at %d of %d, and they differ", seed, client.Number, full.Number)
			}
		}
		if len(bases) < 5 || removals == 0 || gaps > len(lists)/4 {
			t.Errorf("seed %d: %d lists, %d bases, %d removals, %d gaps: that tests little", seed, len(lists), len(bases), removals, gaps)
		}
	}
}

// A certificate that was held and released since the base is taken off whichever list said that it was held.
func TestDeltaRemovesWhatAListInBetweenHeld(t *testing.T) {
	ca, m, now := newCA(t, "Issuing CA"), newMemory(), testNow
	p := newPublisher(t, deltaConfig(ca, m, &now))
	base := parsed(t, ca, publish(t, p))
	m.revoke(5, 6)
	between := parsed(t, ca, publish(t, p))
	m.release(5)
	newest := publish(t, p)
	delta := parsedDelta(t, ca, newest)
	if delta.base != base.Number || delta.Len() != 1 || delta.entries[0].reason != removeFromCRL {
		t.Errorf("delta to %d with %+v, want one to %d that removes 5", delta.base, delta.entries, base.Number)
	}
	for _, l := range []*List{base, between, parsed(t, ca, newest)} {
		if got := with(t, l, delta); got.Len() != 0 || got.Number != newest.Number {
			t.Errorf("list %d and the delta make list %d with %d entries", l.Number, got.Number, got.Len())
		}
	}
}

// A delta is there from the first list on, empty until something changes, and reaches back to the list before the last
// that was signed because it was due.
func TestDeltaBases(t *testing.T) {
	ca, m, now := newCA(t, "Issuing CA"), newMemory(), testNow
	c := deltaConfig(ca, m, &now)
	p := newPublisher(t, c)
	tend := func() Signed {
		t.Helper()
		s, err := p.publish(t.Context(), p.find(testShard), false)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	check := func(what string, s Signed, base uint64, entries int) {
		t.Helper()
		held := p.find(testShard).serving.Load()
		s.Delta = held.delta.Load().DER
		if d := parsedDelta(t, ca, s); held.Number != s.Number || d.base != base || d.Len() != entries {
			t.Errorf("%s: delta from %d to %d with %d entries, want from %d to %d with %d", what, d.base, d.Number, d.Len(), base, s.Number, entries)
		}
	}
	m.revoke(1, 1)
	first := tend()
	check("first", first, first.Number, 0)
	m.revoke(2, 1)
	second := tend()
	check("second", second, first.Number, 1)
	now = now.Add(31 * time.Minute)
	third := tend() // due
	check("due", third, first.Number, 1)
	now = now.Add(31 * time.Minute)
	fourth := tend()
	check("due again", fourth, first.Number, 1)
	now = now.Add(31 * time.Minute)
	fifth := tend()
	check("due once more", fifth, third.Number, 0)
	for i := range int64(minChanges + 1) {
		m.revoke(100+i, 1)
	}
	sixth := tend()
	check("many changes", sixth, fourth.Number, minChanges+1)
	m.revoke(3, 1)
	check("after that", tend(), fifth.Number, minChanges+2)

	p = newPublisher(t, c) // a start: the store kept the list
	last := m.newest[testShard]
	delta := last.Delta
	last.Delta = nil
	m.newest[testShard] = last
	check("after a start", tend(), last.Number, 0)
	m.revoke(4, 1)
	next := tend()
	check("the first list after a start", next, next.Number, 0)
	m.revoke(7, 1)
	check("and then", tend(), next.Number, 1)
	for i := range int64(4*minChanges + 200) {
		m.revoke(1000+i, 1)
	}
	burst := tend()
	check("more changes than the list was long", burst, burst.Number, 0)

	if l := parsed(t, ca, burst); l.DeltaURL != testDeltaURL || delta.Len() == 0 {
		t.Errorf("the full list names %q", l.DeltaURL)
	}
}

// That an expired certificate left the list is not in the delta. Two that the store says otherwise of are.
func TestDeltaOfAFullReading(t *testing.T) {
	ca, m, now := newCA(t, "Issuing CA"), newMemory(), testNow
	p := newPublisher(t, deltaConfig(ca, m, &now))
	m.revoke(1, 1)
	m.revoke(2, 1, now.Add(time.Minute))
	first := publish(t, p)
	now = now.Add(31 * time.Minute)
	publish(t, p) // still has it
	now = now.Add(31 * time.Minute)
	newest := publish(t, p)
	if got := serials(t, ca, newest); !slices.Equal(got, []int64{1}) {
		t.Fatalf("the list has %d", got)
	}
	if d := parsedDelta(t, ca, newest); d.base != first.Number || d.Len() != 0 {
		t.Errorf("delta to %d, want %d; %d entries", d.base, first.Number, d.Len())
	}

	delete(m.revoked, string(serialBytes(1))) // behind the log's back
	now = now.Add(31 * time.Minute)
	newest = publish(t, p)
	if d := parsedDelta(t, ca, newest); d.base != newest.Number || d.Len() != 0 {
		t.Errorf("after a store that lost an entry: delta to %d, want to the list itself, %d", d.base, newest.Number)
	}
}

// A revocation does not wait for a delta that cannot be signed.
func TestDeltaThatCannotBeSigned(t *testing.T) {
	ca, m, now := newCA(t, "Issuing CA"), newMemory(), testNow
	c := deltaConfig(ca, m, &now)
	broken := false
	c.Signer = signerFunc(func(ctx context.Context, issuer string, tbs [][]byte) ([]byte, error) {
		if der := slices.Concat(tbs...); broken && isDelta(t, der) {
			return nil, errFault
		}
		return ca.SignCRL(ctx, issuer, tbs)
	})
	p := newPublisher(t, c)
	first := publish(t, p)
	broken = true
	m.revoke(5, 1)
	if s := publish(t, p); !slices.Equal(serials(t, ca, s), []int64{5}) || s.Delta != nil {
		t.Errorf("published %d, delta of %d octets", serials(t, ca, s), s.Delta.Len())
	}
	w := httptest.NewRecorder()
	if p.ServeDelta(w, httptest.NewRequest("GET", "/", nil), testShard); w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", w.Code)
	}
	broken = false
	s, err := p.publish(t.Context(), p.find(testShard), false)
	if err != nil {
		t.Fatal(err)
	}
	s.Delta = p.find(testShard).serving.Load().delta.Load().DER
	if d := parsedDelta(t, ca, s); d.base != first.Number || d.Len() != 1 {
		t.Errorf("the next round made a delta to %d with %d entries", d.base, d.Len())
	}
}

func isDelta(t *testing.T, tbs []byte) bool {
	t.Helper()
	in, err := split(DER{wrap(tagSequence, tbs, []byte(algorithmECDSA256), wrap(tagBitString, []byte{0}))})
	if err != nil {
		t.Fatal(err)
	}
	l, err := x509.ParseRevocationList(in.bare)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(l.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidDeltaIndicator) })
}

// delta signs one for testURL to a base, that change may spoil.
func (ca *testCA) delta(t testing.TB, base, number int64, at time.Time, change func(*x509.RevocationList), serials ...int64) []byte {
	t.Helper()
	value, err := asn1.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	return ca.list(t, number, at, func(l *x509.RevocationList) {
		l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: oidDeltaIndicator, Critical: true, Value: value})
		if change != nil {
			change(l)
		}
	}, serials...)
}

func TestDeltaRefused(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	full := parsed(t, ca, Signed{DER: DER{ca.list(t, 10, testNow, nil, 1, 2)}, ThisUpdate: testNow})
	const indicator = 1 // of ExtraExtensions; the IDP is before it
	entry := func(f func(*x509.RevocationListEntry)) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { f(&l.RevokedCertificateEntries[0]) }
	}
	ext := func(change func(*pkix.Extension)) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { change(&l.ExtraExtensions[indicator]) }
	}
	add := func(e pkix.Extension) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.ExtraExtensions = append(l.ExtraExtensions, e) }
	}
	otherName := pkix.Extension{Id: oidIssuingDistributionPoint, Critical: true, Value: wrap(tagSequence, wrap(0xa0, wrap(0xa0,
		wrap(tagURI, []byte(testURL)), wrap(tagURI, []byte(testURL+"2")))))}

	for name, tt := range map[string]struct {
		der    []byte
		target error
		want   string
	}{
		"no delta":               {ca.list(t, 11, testNow, nil, 5), ErrList, "not a delta"},
		"by another CA":          {newCA(t, "Another CA").delta(t, 10, 11, testNow, nil, 5), ErrList, "not by"},
		"by a namesake":          {newCA(t, "Issuing CA").delta(t, 10, 11, testNow, nil, 5), ErrList, "signed with key"},
		"another shard's":        {ca.delta(t, 10, 11, testNow, func(l *x509.RevocationList) { l.ExtraExtensions[0] = idpFor(t, testURL+"2") }, 5), ErrList, "list for"},
		"without a scope":        {ca.delta(t, 10, 11, testNow, func(l *x509.RevocationList) { l.ExtraExtensions = l.ExtraExtensions[1:] }, 5), ErrList, "list for"},
		"scope with more names":  {ca.delta(t, 10, 11, testNow, func(l *x509.RevocationList) { l.ExtraExtensions[0] = otherName }, 5), ErrList, "another scope"},
		"from the future":        {ca.delta(t, 10, 11, testNow.Add(maxSkew+time.Second), nil, 5), ErrList, "future"},
		"unknown critical":       {ca.delta(t, 10, 11, testNow, add(pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}), 5), ErrList, "1.2.3.4"},
		"with a FreshestCRL":     {ca.delta(t, 10, 11, testNow, add(pkix.Extension{Id: oidFreshestCRL, Value: freshestValue(testDeltaURL)}), 5), ErrList, "FreshestCRL"},
		"two indicators":         {ca.delta(t, 10, 11, testNow, add(pkix.Extension{Id: oidDeltaIndicator, Critical: true, Value: []byte{2, 1, 1}}), 5), ErrList, "twice"},
		"indicator not critical": {ca.delta(t, 10, 11, testNow, ext(func(e *pkix.Extension) { e.Critical = false }), 5), ErrList, "not critical"},
		"indicator is garbage":   {ca.delta(t, 10, 11, testNow, ext(func(e *pkix.Extension) { e.Value = []byte{2, 5, 1} }), 5), ErrList, "BaseCRLNumber"},
		"indicator with a tail":  {ca.delta(t, 10, 11, testNow, ext(func(e *pkix.Extension) { e.Value = append(e.Value, 0) }), 5), ErrList, "BaseCRLNumber"},
		"negative base":          {ca.delta(t, -1, 11, testNow, nil, 5), ErrList, "BaseCRLNumber"},
		"base of 65 bits":        {ca.delta(t, 10, 11, testNow, ext(func(e *pkix.Extension) { e.Value = []byte{2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0} }), 5), ErrList, "BaseCRLNumber"},
		"base after itself":      {ca.delta(t, 12, 11, testNow, nil, 5), ErrList, "delta to number 12"},
		"base not at hand":       {ca.delta(t, 11, 12, testNow, nil, 5), ErrList, "newer list"},
		"older than the list":    {ca.delta(t, 5, 9, testNow, nil, 5), ErrRollback, "9 after 10"},
		"entry twice":            {ca.delta(t, 10, 11, testNow, nil, 5, 6, 5), ErrList, "twice"},
		"entry: unknown critical": {ca.delta(t, 10, 11, testNow, entry(func(e *x509.RevocationListEntry) {
			e.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}), 5), ErrList, "critical"},
		"entry: reason 7":  {ca.delta(t, 10, 11, testNow, entry(func(e *x509.RevocationListEntry) { e.ReasonCode = 7 }), 5), ErrList, "reasonCode"},
		"entry: reason 11": {ca.delta(t, 10, 11, testNow, entry(func(e *x509.RevocationListEntry) { e.ReasonCode = 11 }), 5), ErrList, "reasonCode"},
	} {
		delta, err := parseDelta(tt.der, ca.cert, testURL, testNow)
		if err == nil {
			_, err = full.with(delta)
		}
		if err == nil || !errors.Is(err, tt.target) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantErr(t, fmt.Errorf("%s: %w", name, err), tt.target, tt.want)
	}

	good := ca.delta(t, 5, 11, testNow, entry(func(e *x509.RevocationListEntry) { e.ReasonCode = removeFromCRL }), 2, 5)
	delta, err := parseDelta(good, ca.cert, testURL, testNow)
	if err != nil {
		t.Fatal(err)
	}
	l := with(t, full, delta)
	if _, stays := content(l)["\x02"]; stays || l.Number != 11 || l.Len() != 2 {
		t.Errorf("number %d, %v", l.Number, content(l))
	}
	if _, err := ParseAndVerify(good, ca.cert, testURL, testNow); !errors.Is(err, ErrList) {
		t.Errorf("a delta as a full list: %v", err)
	}
	for n := range good { // every octet counts, and every length
		bad := slices.Clone(good)
		bad[n] ^= 1
		if _, err := parseDelta(bad, ca.cert, testURL, testNow); err == nil {
			t.Errorf("accepted with octet %d changed", n)
		}
		if _, err := parseDelta(good[:n], ca.cert, testURL, testNow); err == nil {
			t.Errorf("accepted when cut after %d octets", n)
		}
	}

	same := ca.delta(t, 5, 10, testNow, nil, 5)
	if delta, err = parseDelta(same, ca.cert, testURL, testNow); err != nil {
		t.Fatal(err)
	}
	if l, err := full.with(delta); l != full || err != nil {
		t.Errorf("a delta of the list's own number changed it: %v", err)
	}
	many := *delta
	many.Number, many.entries = 11, make([]revoked, leastOverlay+1)
	_, err = full.with(&many)
	wantErr(t, err, errTooLong, "")
}

func freshestValue(urls ...string) []byte {
	var points []byte
	for _, u := range urls {
		points = append(points, wrap(tagSequence, wrap(tagDistributionPoint, wrap(tagFullName, wrap(tagURI, []byte(u)))))...)
	}
	return wrap(tagSequence, points)
}

func TestParseFreshest(t *testing.T) {
	point := func(parts ...[]byte) []byte { return wrap(tagSequence, wrap(tagSequence, parts...)) }
	name := wrap(tagDistributionPoint, wrap(tagFullName, wrap(tagURI, []byte(testDeltaURL))))
	for what, tt := range map[string]struct {
		value []byte
		want  string
	}{
		"one":           {freshestValue(testDeltaURL), testDeltaURL},
		"by ldap first": {freshestValue("ldap://status.test/x", testDeltaURL), testDeltaURL},
		"none":          {freshestValue(), ""},
		"not a URL":     {freshestValue("http://status.test/a b"), ""},
		"garbage":       {[]byte{0x30, 7, 1}, ""},
		"a tail":        {append(freshestValue(testDeltaURL), 0), ""},
		"some reasons":  {point(name, wrap(0x81, []byte{6, 0x40})), ""},
		"another's":     {point(name, wrap(0xa2, wrap(0x82, []byte("x")))), ""},
	} {
		if got := parseFreshest(tt.value); got != tt.want {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
		}
	}
	d := freshestCRL(testDeltaURL)
	var e pkix.Extension
	if _, err := asn1.Unmarshal(d, &e); err != nil || e.Critical || parseFreshest(e.Value) != testDeltaURL {
		t.Errorf("%+v: %v", e, err)
	}
	for list, want := range map[string]string{testURL: testDeltaURL, "http://x/crl/a1-7.crl": "http://x/crl/a1-7-delta.crl", "http://x/list": "http://x/list-delta.crl"} {
		if got := DeltaURL(list); got != want {
			t.Errorf("DeltaURL(%q) = %q", list, got)
		}
	}
}
