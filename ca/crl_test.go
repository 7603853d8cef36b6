package ca_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/stepca"
)

// tbsOf returns what was signed of a CRL with these serial numbers on it.
func tbsOf(t *testing.T, issuer *x509.Certificate, key crypto.Signer, at time.Time, serials ...int64) []byte {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: at, NextUpdate: at.Add(time.Hour)}
	for _, n := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: at, ReasonCode: 1})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return list.RawTBSRevocationList
}

func TestSignCRLForEveryKey(t *testing.T) {
	for _, kind := range ca.KeyTypes {
		issuer, key := issuerOf(t, kind)
		signer, err := stepca.NewSigner(issuer, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []time.Time{start, start.AddDate(30, 0, 0)} { // UTCTime, GeneralizedTime
			for _, serials := range [][]int64{nil, {1}, {1, 2}} {
				tbs := tbsOf(t, issuer, key, at, serials...)
				list, err := ca.NewTBSCertList([][]byte{tbs[:20], tbs[20:]}, issuer)
				if err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
				signature, err := signer.SignCRL(t.Context(), list)
				if err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
				if err := issuer.CheckSignature(signatureAlgorithm(kind), tbs, signature); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			}
		}
	}
}

func signatureAlgorithm(kind ca.KeyType) x509.SignatureAlgorithm {
	switch kind {
	case ca.P256:
		return x509.ECDSAWithSHA256
	case ca.P384:
		return x509.ECDSAWithSHA384
	case ca.P521:
		return x509.ECDSAWithSHA512
	case ca.Ed25519:
		return x509.PureEd25519
	}
	return x509.SHA256WithRSA
}

// issuerOf returns an issuing CA with a key of that type.
func issuerOf(t *testing.T, kind ca.KeyType) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key := keys()[kind]
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Issuing CA"}, NotBefore: start, NotAfter: start.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestCRLSignerMayNotLie(t *testing.T) {
	forger := newKey(t)
	for what, lie := range map[string]func(digest, signature []byte) []byte{
		"":            nil,
		"nothing":     func(_, _ []byte) []byte { return nil },
		"garbage":     func(_, _ []byte) []byte { return []byte("signature") },
		"a bit":       func(_, s []byte) []byte { s[len(s)-1] ^= 1; return s },
		"another key": func(digest, _ []byte) []byte { return signed(t, forger, digest) },
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t)
			b.signer.lieCRL = lie
			signature, err := b.SignCRL(t.Context(), b.Issuer().ID(), [][]byte{tbsOf(t, b.cert(), b.signer.key, start, 1, 2)})
			if wrong := lie != nil; errors.Is(err, ca.ErrMismatch) != wrong || (signature == nil) != wrong {
				t.Errorf("got %x, %v", signature, err)
			}
		})
	}
	t.Run("another list", func(t *testing.T) {
		b := newBench(t)
		other := sha256.Sum256(tbsOf(t, b.cert(), b.signer.key, start, 1))
		for _, lie := range []func(digest, _ []byte) []byte{
			func(_, _ []byte) []byte { return signed(t, b.signer.key, other[:]) },
			func(digest, _ []byte) []byte { copy(digest, other[:]); return signed(t, b.signer.key, digest) },
		} {
			b.signer.lieCRL = lie
			if _, err := b.SignCRL(t.Context(), b.Issuer().ID(), [][]byte{tbsOf(t, b.cert(), b.signer.key, start, 1, 2)}); !errors.Is(err, ca.ErrMismatch) {
				t.Errorf("got %v", err)
			}
		}
	})
}

// A publisher takes a signature as it comes from the authority, which has checked it.
func TestNothingIsPublishedThatALyingSignerSigned(t *testing.T) {
	forger := newKey(t)
	b := newBench(t)
	shard := crl.Shard{Issuer: b.Issuer().ID()}
	store := revocationsOf(3)
	p, err := crl.NewPublisher(crl.PublisherConfig{
		Shards: []crl.PublishedShard{{Shard: shard, URL: b.Issuer().CRLURL, Issuer: b.cert()}},
		Store:  store, Revocations: store, Signer: b, Now: func() time.Time { return b.now }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	other := sha256.Sum256(tbsOf(t, b.cert(), b.signer.key, start, 1))
	for _, lie := range []func(digest, _ []byte) []byte{
		func(digest, _ []byte) []byte { return signed(t, forger, digest) },
		func(_, _ []byte) []byte { return signed(t, b.signer.key, other[:]) },
	} {
		b.signer.lieCRL = lie
		if _, err := p.Publish(t.Context(), shard); !errors.Is(err, ca.ErrMismatch) {
			t.Errorf("got %v", err)
		}
		if _, ok := p.Current(shard); ok || store.newest.Number != 0 {
			t.Error("it was published")
		}
	}
	b.signer.lieCRL = nil
	s, err := p.Publish(t.Context(), shard)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := crl.ParseAndVerify(s.DER.Bytes(), b.cert(), b.Issuer().CRLURL, b.now); err != nil || list.Len() != 3 {
		t.Errorf("afterwards: %v", err)
	}
}

func signed(t *testing.T, key crypto.Signer, digest []byte) []byte {
	t.Helper()
	signature, err := key.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func (b *bench) cert() *x509.Certificate { return b.Issuer().Signer.Certificate() }

func TestSignCRLRefusesAnotherIssuers(t *testing.T) {
	b := newBench(t)
	tbs := [][]byte{tbsOf(t, b.cert(), b.signer.key, start)}
	if _, err := b.SignCRL(t.Context(), "0011223344556677", tbs); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("another issuer's id: %v", err)
	}
	other := *b.cert()
	other.RawSubject = b.root.RawSubject
	if _, err := b.SignCRL(t.Context(), b.Issuer().ID(), [][]byte{tbsOf(t, &other, b.signer.key, start)}); err == nil {
		t.Error("another issuer's list was signed")
	}
}

// What the issuing key signs as a CRL can be read as nothing else: not as a certificate, not as a request.
func TestSignCRLRefusesWhatIsNoCRL(t *testing.T) {
	b := newBench(t)
	issuer := b.cert()
	list := tbsOf(t, issuer, b.signer.key, start, 1, 2)
	body := content(t, list)
	fields := elements(t, body) // version, algorithm, issuer, thisUpdate, nextUpdate, revokedCertificates, extensions
	if len(fields) != 7 {
		t.Fatalf("%d fields", len(fields))
	}
	with := func(i int, field []byte) []byte {
		changed := slices.Clone(fields)
		changed[i] = field
		return der(t, changed...)
	}
	cert := leaf(t, b.issue())
	certFields := elements(t, content(t, cert.RawTBSCertificate)) // version, serial, algorithm, issuer, validity, ...
	request, err := x509.ParseCertificateRequest(requestDER(t))
	if err != nil {
		t.Fatal(err)
	}

	for what, tt := range map[string]struct {
		tbs  []byte
		want string
	}{
		"nothing":                             {nil, "one SEQUENCE"},
		"text":                                {[]byte("TBSCertList"), "one SEQUENCE"},
		"a certificate":                       {cert.RawTBSCertificate, "another version"},
		"a certificate with its signature":    {cert.Raw, "another version"},
		"a version 1 certificate":             {der(t, slices.Concat(fields[:1], certFields[2:7])...), "after the issuer"}, // its serial number is 1
		"a version 1 certificate and more":    {der(t, slices.Concat(fields[:1], certFields[2:])...), "after the issuer"},
		"a certificate without validity":      {der(t, slices.Concat(fields[:1], certFields[2:4], certFields[5:])...), "after the issuer"},
		"a request":                           {request.RawTBSCertificateRequest, "another version"},
		"a request with its signature":        {request.Raw, "another version"},
		"a list with data after it":           {append(bytes.Clone(list), 0), "one SEQUENCE"},
		"a list cut short":                    {list[:len(list)-1], "one SEQUENCE"},
		"a list of version 1":                 {der(t, fields[1:]...), "another version"},
		"a list of version 3":                 {with(0, []byte{2, 1, 2}), "another version"},
		"another algorithm":                   {with(1, []byte("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03")), "another algorithm"},
		"another issuer":                      {with(2, b.root.RawSubject), "another issuer"},
		"no nextUpdate":                       {der(t, slices.Concat(fields[:4], fields[5:])...), "after the issuer"},
		"no extensions":                       {der(t, fields[:6]...), "after the issuer"},
		"extensions first":                    {der(t, slices.Concat(fields[:5], fields[6:], fields[5:6])...), "after the issuer"},
		"fields after the extensions":         {der(t, slices.Concat(fields, fields[6:])...), "after the issuer"},
		"a broken field":                      {with(5, []byte{0x30, 0x05, 0}), "after the issuer"},
		"a set":                               {append([]byte{0x31}, list[1:]...), "one SEQUENCE"},
		"a length in more octets than needed": {nonMinimal(body), "one SEQUENCE"},
	} {
		if _, err := b.SignCRL(t.Context(), b.Issuer().ID(), [][]byte{tt.tbs}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one that says %q", what, err, tt.want)
		}
	}
	for what, good := range map[string][]byte{
		"the list": list, "without entries": der(t, slices.Concat(fields[:5], fields[6:])...),
	} {
		for cut := range good { // wherever a part ends, and with empty ones
			tbs := [][]byte{nil, good[:cut], {}, good[cut:min(cut+3, len(good))], good[min(cut+3, len(good)):], nil}
			signature, err := b.SignCRL(t.Context(), b.Issuer().ID(), tbs)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if err := issuer.CheckSignature(x509.ECDSAWithSHA256, good, signature); err != nil {
				t.Fatalf("%s, cut at %d: %v", what, cut, err)
			}
		}
		for end := range good {
			if _, err := b.SignCRL(t.Context(), b.Issuer().ID(), [][]byte{good[:end/2], good[end/2 : end]}); err == nil {
				t.Errorf("%s, of which %d octets were left, was signed", what, end)
			}
		}
	}
}

func requestDER(t *testing.T) []byte {
	t.Helper()
	out, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func content(t *testing.T, sequence []byte) []byte {
	t.Helper()
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(sequence, &outer); err != nil || len(rest) > 0 {
		t.Fatal(err)
	}
	return outer.Bytes
}

func elements(t *testing.T, in []byte) (all [][]byte) {
	t.Helper()
	for len(in) > 0 {
		var field asn1.RawValue
		rest, err := asn1.Unmarshal(in, &field)
		if err != nil {
			t.Fatal(err)
		}
		all, in = append(all, field.FullBytes), rest
	}
	return all
}

// der puts fields into a SEQUENCE.
func der(t *testing.T, fields ...[]byte) []byte {
	t.Helper()
	out, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Join(fields, nil)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func nonMinimal(body []byte) []byte {
	return append([]byte{0x30, 0x83, 0, byte(len(body) >> 8), byte(len(body))}, body...)
}
