package crl

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

var testNow = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func TestListLookup(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	der := ca.list(t, 42, testNow, func(l *x509.RevocationList) {
		l.RevokedCertificateEntries[0].SerialNumber = new(big.Int).SetBytes(bytes.Repeat([]byte{0xff}, 20))
		l.RevokedCertificateEntries[1].ReasonCode = 0
		l.RevokedCertificateEntries[2].RevocationTime = time.Date(2051, 1, 2, 3, 4, 5, 0, time.UTC) // GeneralizedTime
		l.RevokedCertificateEntries[3].RevocationTime = time.Date(1999, 1, 2, 3, 4, 5, 0, time.UTC)
	}, 9, 300, 2, 128) // unsorted, as other CAs may have it
	l, err := ParseAndVerify(der, ca.cert, testURL, testNow)
	if err != nil {
		t.Fatal(err)
	}
	if l.Number != 42 || l.URL != testURL || l.Len() != 4 || !l.ThisUpdate.Equal(testNow) || !l.NextUpdate.Equal(testNow.Add(time.Hour)) {
		t.Errorf("list %+v", l)
	}
	var got []string
	for e := range l.All() {
		got = append(got, fmt.Sprintf("%x %s %s", e.Serial, ReasonName(e.Reason), e.At.Format(time.RFC3339)))
		if again, ok := l.Lookup(new(big.Int).SetBytes(e.Serial)); !ok || !bytes.Equal(again.Serial, e.Serial) {
			t.Errorf("%x is on the list and was not found", e.Serial)
		}
	}
	want := []string{
		"02 keyCompromise 2051-01-02T03:04:05Z", "80 keyCompromise 1999-01-02T03:04:05Z",
		"012c unspecified 2026-03-04T05:06:07Z", strings.Repeat("ff", 20) + " keyCompromise 2026-03-04T05:06:07Z",
	}
	if !slices.Equal(got, want) {
		t.Errorf("entries\n%q, want\n%q", got, want)
	}
	for _, n := range []*big.Int{big.NewInt(0), big.NewInt(1), big.NewInt(-2), big.NewInt(301), new(big.Int).Lsh(big.NewInt(1), 160)} {
		if _, ok := l.Lookup(n); ok {
			t.Errorf("%d was found", n)
		}
	}
	if l.Stale(testNow.Add(time.Hour)) || !l.Stale(testNow.Add(time.Hour+time.Second)) {
		t.Error("stale at another time than after nextUpdate")
	}
}

func TestListSignatureAlgorithms(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		key crypto.Signer
		alg x509.SignatureAlgorithm
	}{{edKey, x509.PureEd25519}, {rsaKey, x509.SHA256WithRSA}, {rsaKey, x509.SHA384WithRSAPSS}} {
		ca := newCAWithKey(t, "Issuing CA", tt.key)
		der := ca.list(t, 1, testNow, func(l *x509.RevocationList) { l.SignatureAlgorithm = tt.alg }, 5)
		if _, err := ParseAndVerify(der, ca.cert, testURL, testNow); err != nil {
			t.Errorf("%s: %v", tt.alg, err)
		}
	}
}

func TestListRefused(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	namesake := newCA(t, "Issuing CA")
	impostor := newCA(t, "Issuing CA", func(c *x509.Certificate) { c.SubjectKeyId = ca.cert.SubjectKeyId }) // name and key identifier
	noCRLSign := newCA(t, "Issuing CA", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })

	entry := func(f func(*x509.RevocationListEntry)) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { f(&l.RevokedCertificateEntries[0]) }
	}
	ext := func(id string, critical bool, value ...byte) pkix.Extension {
		var oid asn1.ObjectIdentifier
		for part := range strings.SplitSeq(id, ".") {
			var n int
			if _, err := fmt.Sscan(part, &n); err != nil {
				t.Fatal(err)
			}
			oid = append(oid, n)
		}
		return pkix.Extension{Id: oid, Critical: critical, Value: value}
	}
	limited := func(flag issuingDistributionPoint) func(*x509.RevocationList) {
		flag.DistributionPoint.FullName = []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: generalNameURI, Bytes: []byte(testURL)}}
		value, err := asn1.Marshal(flag)
		if err != nil {
			t.Fatal(err)
		}
		return func(l *x509.RevocationList) { l.ExtraExtensions[0].Value = value }
	}

	for name, tt := range map[string]struct {
		by     *testCA
		change func(*x509.RevocationList)
		want   string
	}{
		"another CA":                  {by: newCA(t, "Another CA"), want: "not by"},
		"another CA of that name":     {by: namesake, want: "signed with key"},
		"and of that key identifier":  {by: impostor, want: "signature"},
		"another shard's":             {change: func(l *x509.RevocationList) { l.ExtraExtensions[0] = idpFor(t, testURL+"2") }, want: "list for"},
		"no IDP":                      {change: func(l *x509.RevocationList) { l.ExtraExtensions = nil }, want: "list for"},
		"IDP is garbage":              {change: func(l *x509.RevocationList) { l.ExtraExtensions[0].Value = []byte{0x30, 5} }, want: "IssuingDistributionPoint"},
		"IDP names nothing":           {change: func(l *x509.RevocationList) { l.ExtraExtensions[0].Value = []byte{0x30, 0} }, want: "limits"},
		"user certificates only":      {change: limited(issuingDistributionPoint{OnlyContainsUserCerts: true}), want: "limits"},
		"CA certificates only":        {change: limited(issuingDistributionPoint{OnlyContainsCACerts: true}), want: "limits"},
		"attribute certificates only": {change: limited(issuingDistributionPoint{OnlyContainsAttributeCerts: true}), want: "limits"},
		"some reasons only":           {change: limited(issuingDistributionPoint{OnlySomeReasons: asn1.BitString{Bytes: []byte{0x40}, BitLength: 2}}), want: "limits"},
		"indirect":                    {change: limited(issuingDistributionPoint{IndirectCRL: true}), want: "indirect"},
		"delta": {change: func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, ext("2.5.29.27", true, 2, 1, 1))
		}, want: "delta"},
		"unknown critical extension": {change: func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, ext("1.2.3.4", true, 5, 0))
		}, want: "1.2.3.4"},
		"two IDPs": {change: func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, l.ExtraExtensions[0])
		}, want: "twice"},
		"from the future": {change: func(l *x509.RevocationList) {
			l.ThisUpdate = testNow.Add(maxSkew + time.Second)
		}, want: "future"},
		"number above 64 bits": {change: func(l *x509.RevocationList) {
			l.Number = new(big.Int).Lsh(big.NewInt(1), 64)
		}, want: "64 bits"},
		"negative number": {change: func(l *x509.RevocationList) { l.Number = big.NewInt(-1) }, want: "64 bits"},
		"entry: unknown critical extension": {change: entry(func(e *x509.RevocationListEntry) {
			e.ExtraExtensions = []pkix.Extension{ext("1.2.3.4", true, 5, 0)}
		}), want: "critical"},
		"entry: of another issuer": {change: entry(func(e *x509.RevocationListEntry) {
			e.ExtraExtensions = []pkix.Extension{ext("2.5.29.29", true, 0x30, 0)}
		}), want: "indirect"},
		"entry: removeFromCRL":       {change: entry(func(e *x509.RevocationListEntry) { e.ReasonCode = 8 }), want: "reasonCode"},
		"entry: reason 7":            {change: entry(func(e *x509.RevocationListEntry) { e.ReasonCode = 7 }), want: "reasonCode"},
		"entry: reason of 2 octets":  {change: entry(func(e *x509.RevocationListEntry) { e.ReasonCode = 256 }), want: "reasonCode"},
		"entry: negative serial":     {change: entry(func(e *x509.RevocationListEntry) { e.SerialNumber = big.NewInt(-1) }), want: "negative"},
		"entry: serial of 21 octets": {change: entry(func(e *x509.RevocationListEntry) { e.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 160) }), want: "20 octets"},
	} {
		by := tt.by
		if by == nil {
			by = ca
		}
		_, err := ParseAndVerify(by.list(t, 1, testNow, tt.change, 5), ca.cert, testURL, testNow)
		wantErr(t, fmt.Errorf("%s: %w", name, err), ErrList, tt.want)
	}

	good := ca.list(t, 1, testNow, func(l *x509.RevocationList) {
		l.ThisUpdate = testNow.Add(maxSkew) // as far ahead as may be
		l.ExtraExtensions = append(l.ExtraExtensions, ext("1.2.3.4", false, 5, 0))
		l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{ext("1.2.3.4", false, 5, 0)}
	}, 5)
	if _, err := ParseAndVerify(good, ca.cert, testURL, testNow); err != nil {
		t.Errorf("a good list with unknown extensions that are not critical: %v", err)
	}
	_, err := ParseAndVerify(good, ca.cert, "", testNow)
	wantErr(t, err, ErrList, "list for")
	whole := ca.list(t, 1, testNow, func(l *x509.RevocationList) { l.ExtraExtensions = nil })
	if l, err := ParseAndVerify(whole, ca.cert, "", testNow); err != nil || l.URL != "" {
		t.Errorf("a list without IDP, where one is wanted: %v", err)
	}
	mayNot := *ca.cert
	mayNot.KeyUsage = noCRLSign.cert.KeyUsage
	_, err = ParseAndVerify(good, &mayNot, testURL, testNow)
	wantErr(t, err, ErrList, "signature")

	for n := range good { // every octet counts, and every length
		bad := slices.Clone(good)
		bad[n] ^= 1
		if _, err := ParseAndVerify(bad, ca.cert, testURL, testNow); err == nil {
			t.Errorf("accepted with octet %d changed", n)
		}
		if _, err := ParseAndVerify(good[:n], ca.cert, testURL, testNow); err == nil {
			t.Errorf("accepted when cut after %d octets", n)
		}
	}
	_, err = ParseAndVerify(append(slices.Clone(good), 0), ca.cert, testURL, testNow)
	wantErr(t, err, ErrList, "malformed")
}

func idpFor(t testing.TB, url string) pkix.Extension {
	t.Helper()
	ext, err := MarshalIDP(url)
	if err != nil {
		t.Fatal(err)
	}
	return ext
}

// What x509.CreateRevocationList cannot be made to write is put together by hand, and signed.
func TestListRefusedByForm(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	l, err := split(DER{ca.list(t, 1, testNow, nil, 5)})
	if err != nil {
		t.Fatal(err)
	}
	fields := reader(l.tbs.Bytes())
	inner, _ := fields.take(tagSequence)
	const version, next, revoked, extensions = 0, 4, 5, 6 // of the parts
	parts := elements(t, inner)
	body, _ := (*reader)(&parts[extensions]).take(tagExtensions)
	list, _ := (*reader)(&body).take(tagSequence)
	exts := elements(t, list) // AKI, number, IDP
	parts[extensions] = wrap(tagExtensions, wrap(tagSequence, list))

	five, date := []byte{tagInteger, 1, 5}, wrap(tagUTCTime, []byte("260304050607Z"))
	entry := func(fields ...[]byte) []byte { return wrap(tagSequence, wrap(tagSequence, fields...)) }
	extension := func(oid []byte) []byte {
		return wrap(tagSequence, wrap(tagOID, oid), wrap(tagOctetString, five))
	}
	without := func(n int) []byte {
		return wrap(tagExtensions, wrap(tagSequence, slices.Delete(slices.Clone(exts), n, n+1)...))
	}
	for name, tt := range map[string]struct {
		part int
		with []byte
		good bool
	}{
		"unchanged":                   {version, parts[version], true},
		"a list by hand":              {revoked, entry(five, date), true},
		"empty revokedCertificates":   {revoked, wrap(tagSequence), true},
		"no revokedCertificates":      {revoked, nil, true},
		"version 1":                   {version, nil, false},
		"version 3":                   {version, []byte{tagInteger, 1, 2}, false},
		"no nextUpdate":               {next, nil, false},
		"nextUpdate before":           {next, wrap(tagUTCTime, []byte("250304060607Z")), false},
		"no extensions":               {extensions, nil, false},
		"no AKI":                      {extensions, without(0), false},
		"no number":                   {extensions, without(1), false},
		"no IDP":                      {extensions, without(2), false},
		"something after extensions":  {extensions, slices.Concat(parts[extensions], five), false},
		"entry: the 31st of June":     {revoked, entry(five, wrap(tagUTCTime, []byte("260631050607Z"))), false},
		"entry: a time zone":          {revoked, entry(five, wrap(tagUTCTime, []byte("260304050607+0100"))), false},
		"entry: no seconds":           {revoked, entry(five, wrap(tagUTCTime, []byte("2603040506Z"))), false},
		"entry: letters in the time":  {revoked, entry(five, wrap(tagUTCTime, []byte("26030405060xZ"))), false},
		"entry: fraction of a second": {revoked, entry(five, wrap(tagTime, []byte("20260304050607.1Z"))), false},
		"entry: no time":              {revoked, entry(five), false},
		"entry: padded serial":        {revoked, entry([]byte{tagInteger, 2, 0, 5}, date), false},
		"entry: empty serial":         {revoked, entry([]byte{tagInteger, 0}, date), false},
		"entry: something after":      {revoked, entry(five, date, wrap(tagSequence), five), false},
		"entry: extension is cut":     {revoked, entry(five, date, wrap(tagSequence, wrap(tagSequence, []byte{tagOID, 1, 42}))), false},
		"entry: unknown extension":    {revoked, entry(five, date, wrap(tagSequence, extension([]byte{42, 0x83, 4}))), true},
		"entry: OID of 2^31-1":        {revoked, entry(five, date, wrap(tagSequence, extension([]byte{42, 0x87, 0xff, 0xff, 0xff, 0x7f}))), true},
		"entry: OID of 2^31":          {revoked, entry(five, date, wrap(tagSequence, extension([]byte{42, 0x88, 0x80, 0x80, 0x80, 0}))), false},
		"entry: OID of nothing":       {revoked, entry(five, date, wrap(tagSequence, extension(nil))), false},
		"entry: OID is cut":           {revoked, entry(five, date, wrap(tagSequence, extension([]byte{42, 0x83}))), false},
		"entry: OID with padding":     {revoked, entry(five, date, wrap(tagSequence, extension([]byte{42, 0x80, 3}))), false},
		"entry: length not shortest":  {revoked, entry([]byte{tagInteger, 0x81, 1, 5}, date), false},
		"entry: not a sequence":       {revoked, wrap(tagSequence, five), false},
	} {
		changed := slices.Clone(parts)
		changed[tt.part] = tt.with
		_, err := ParseAndVerify(ca.assemble(t, wrap(tagSequence, changed...)), ca.cert, testURL, testNow)
		if (err == nil) != tt.good {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestReaderTakesDEROnly(t *testing.T) {
	octets := bytes.Repeat([]byte{1}, 1<<16)
	for _, n := range []int{0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x10000} {
		whole := wrap(tagOctetString, octets[:n])
		r := reader(slices.Concat(whole, []byte{5}))
		tag, body, got, ok := r.next()
		if !ok || tag != tagOctetString || len(body) != n || !bytes.Equal(got, whole) || !bytes.Equal(r, []byte{5}) {
			t.Errorf("%d octets were not read back", n)
		}
	}
	for name, head := range map[string][]byte{
		"nothing":                 {},
		"a tag alone":             {4},
		"long tag":                {0x1f, 4, 1},
		"indefinite length":       {4, 0x80, 0, 0},
		"indefinite, and no more": {4, 0x80},
		"length of five octets":   {4, 0x85, 0, 0, 0, 0, 0x80},
		"leading zero":            {4, 0x82, 0, 0x80},
		"long form of a short":    {4, 0x81, 0x7f},
		"cut length":              {4, 0x82, 1},
		"more than there is":      {4, 0x84, 0xff, 0xff, 0xff, 0xff},
	} {
		body := octets[:0x80]
		if len(head) < 4 && name != "long form of a short" {
			body = nil
		}
		r := reader(slices.Concat(head, body))
		if _, _, _, ok := r.next(); ok {
			t.Errorf("%s: accepted", name)
		}
	}
}

// elements cuts DER into its elements.
func elements(t *testing.T, der reader) (all [][]byte) {
	t.Helper()
	for len(der) > 0 {
		_, _, whole, ok := der.next()
		if !ok {
			t.Fatal("malformed DER in the test")
		}
		all = append(all, slices.Clone(whole))
	}
	return all
}

// assemble signs a TBSCertList as it is.
func (ca *testCA) assemble(t testing.TB, tbs []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(tbs)
	sig, err := ca.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	ecdsaWithSHA256 := wrap(tagSequence, []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2})
	return wrap(tagSequence, tbs, ecdsaWithSHA256, wrap(tagBitString, []byte{0}, sig))
}
