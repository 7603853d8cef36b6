package ocsp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"
)

// read has x/crypto/ocsp read an answer about a serial number, and check its signature and its delegate.
func (b *bench) read(r Response, serial int64) *xocsp.Response {
	b.t.Helper()
	got, err := xocsp.ParseResponseForCert(r.DER, &x509.Certificate{SerialNumber: big.NewInt(serial)}, b.issuer)
	if err != nil {
		b.t.Fatalf("%v: %x", err, r.DER)
	}
	return got
}

func (b *bench) ask(serial int64) Response {
	b.t.Helper()
	return b.Respond(b.t.Context(), ask{certs: [][]byte{b.id(serial)}}.der())
}

func TestAnswers(t *testing.T) {
	b := newBench(t)
	at := start.Add(-time.Hour)
	b.set(7, Status{Kind: Good})
	for reason := range 11 {
		b.set(int64(100+reason), Status{Kind: Revoked, At: at, Reason: reason})
	}
	for serial, want := range map[int64]int{7: xocsp.Good, 8: xocsp.Unknown, 100: xocsp.Revoked, 101: xocsp.Revoked, 106: xocsp.Revoked, 110: xocsp.Revoked} {
		got := b.read(b.ask(serial), serial)
		if got.Status != want || !got.ThisUpdate.Equal(start.Truncate(time.Second)) || got.NextUpdate.Sub(got.ThisUpdate) != 10*time.Minute || !got.ProducedAt.Equal(got.ThisUpdate) {
			t.Errorf("%d: %+v", serial, got)
		}
		if want == xocsp.Revoked && (!got.RevokedAt.Equal(at.Truncate(time.Second)) || got.RevocationReason != int(serial-100)) {
			t.Errorf("%d: revoked at %s, reason %d", serial, got.RevokedAt, got.RevocationReason)
		}
	}
}

// The request of x/crypto/ocsp with each hash is understood, and its response is about the same CertID.
func TestEachHash(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		der, err := xocsp.CreateRequest(&x509.Certificate{SerialNumber: big.NewInt(7)}, b.issuer, &xocsp.RequestOptions{Hash: hash})
		if err != nil {
			t.Fatal(err)
		}
		if got := b.read(b.Respond(t.Context(), der), 7); got.Status != xocsp.Good || got.IssuerHash != hash {
			t.Errorf("%s: %+v", hash, got)
		}
	}
	own, err := newRequest(&x509.Certificate{SerialNumber: big.NewInt(7)}, b.issuer)
	theirs, err2 := xocsp.CreateRequest(&x509.Certificate{SerialNumber: big.NewInt(7)}, b.issuer, nil)
	if err != nil || err2 != nil || !bytes.Equal(own, theirs) {
		t.Errorf("%v %v\n got %x\nwant %x", err, err2, own, theirs)
	}
}

// An answer is signed once and used again for half of its life, and never once the records say something else.
func TestAnAnswerIsUsedAgain(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	first := b.ask(7)
	b.now = start.Add(4 * time.Minute)
	if again := b.ask(7); !bytes.Equal(again.DER, first.DER) || again.NextUpdate != first.NextUpdate {
		t.Error("it was signed again")
	}
	for step, status := range []Status{
		{Kind: Revoked, At: start, Reason: 6},
		{Kind: Good},
		{Kind: Revoked, At: start, Reason: 6},
		{Kind: Revoked, At: start, Reason: 1},
		{Kind: Revoked, At: start.Add(-time.Hour), Reason: 1},
	} {
		b.set(7, status)
		got := b.read(b.ask(7), 7)
		if want := map[Kind]int{Good: xocsp.Good, Revoked: xocsp.Revoked}[status.Kind]; got.Status != want || got.RevocationReason != status.Reason || !got.RevokedAt.Equal(status.At.Truncate(time.Second)) {
			t.Errorf("step %d: %+v", step, got)
		}
	}
	b.set(7, Status{Kind: Good})
	first = b.ask(7)
	for what, change := range map[string]func(){
		"half of its life is over": func() { b.now = b.now.Add(5 * time.Minute) },
		"another delegate":         func() { b.delegate(start.Add(24 * time.Hour)) },
		"the clock was set back":   func() { b.now = b.now.Add(-time.Second) },
	} {
		change()
		next := b.ask(7)
		if bytes.Equal(next.DER, first.DER) {
			t.Errorf("%s: used again", what)
		}
		first = next
	}
}

func TestNoAnswerOutlivesItsSigner(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	b.delegate(start.Add(time.Minute))
	if got := b.read(b.ask(7), 7); !got.NextUpdate.Equal(start.Add(time.Minute).Truncate(time.Second)) {
		t.Errorf("until %s", got.NextUpdate)
	}
	b.now = start.Add(time.Minute)
	b.fails(t, b.ask(7), xocsp.TryLater)
}

func TestNoAnswerComesBeforeItsSigner(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	b.now = start.Add(-2 * time.Minute) // the certificate is good from a minute before start on
	b.fails(t, b.ask(7), xocsp.TryLater)
}

// An answer is as old as the look that it comes from, however long that took.
func TestThisUpdateIsBeforeTheLook(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	b.looked = func() { b.now = start.Add(time.Minute) }
	if got := b.read(b.ask(7), 7); !got.ThisUpdate.Equal(start.Truncate(time.Second)) {
		t.Errorf("this update %s, and the look began at %s", got.ThisUpdate, start)
	}
}

// unspecified is left out (RFC 5280 section 5.3.1).
func TestNoReasonWithoutOne(t *testing.T) {
	b := newBench(t)
	for reason, there := range []bool{false, true} {
		b.set(7, Status{Kind: Revoked, At: start, Reason: reason})
		if got := bytes.Contains(b.ask(7).DER, built(contextTag(0), []byte{10, 1, byte(reason)})); got != there {
			t.Errorf("reason %d: in the answer %v, want %v", reason, got, there)
		}
	}
}

// The answer names its signer by the hash that the certificate has for a key identifier.
func TestResponderID(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	got := b.read(b.ask(7), 7)
	key, err := got.Certificate.PublicKey.(*ecdsa.PublicKey).Bytes()
	if want := sha1.Sum(key); err != nil || !bytes.Equal(got.ResponderKeyHash, want[:]) { // RFC 6960 section 4.2.1
		t.Errorf("got %x, want %x, %v", got.ResponderKeyHash, want, err)
	}
}

func (b *bench) fails(t *testing.T, r Response, want xocsp.ResponseStatus) {
	t.Helper()
	_, err := xocsp.ParseResponse(r.DER, nil)
	var got xocsp.ResponseError
	if !errors.As(err, &got) || got.Status != want || r.Err == nil || !r.NextUpdate.IsZero() {
		t.Errorf("got %v, %v; want %s", err, r.Err, want)
	}
}

// What is answered to one request alone is not for others: with a nonce, or about what is not known.
func TestNotShared(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	for what, a := range map[string]ask{
		"nonce":   {certs: [][]byte{b.id(7)}, nonce: octets([]byte("0123456789abcdef"))},
		"several": {certs: [][]byte{b.id(7), b.id(7)}},
		"unknown": {certs: [][]byte{b.id(8)}},
	} {
		first, second := b.Respond(t.Context(), a.der()), b.Respond(t.Context(), a.der())
		if first.Err != nil || bytes.Equal(first.DER, second.DER) || !first.NextUpdate.IsZero() || b.signed.Len() != 0 {
			t.Errorf("%s: %v", what, first.Err)
		}
	}
}

func TestNonce(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	for _, length := range []int{1, 16, 32, 128} {
		nonce := octets(bytes.Repeat([]byte{'n'}, length))
		got := b.Respond(t.Context(), ask{certs: [][]byte{b.id(7)}, nonce: nonce}.der())
		b.read(got, 7)
		// x/crypto/ocsp does not show extensions of the whole response: look for the very one.
		if want := built(contextTag(1), built(0x30, built(0x30, []byte(nonceExtnID), octets(nonce)))); !bytes.Contains(got.DER, want) {
			t.Errorf("%d octets: not in the response", length)
		}
	}
	for what, value := range map[string][]byte{
		"no octets":       octets(nil),
		"129 octets":      octets(make([]byte, 129)),
		"not in DER":      []byte("0123456789abcdef"),
		"an integer":      {2, 1, 5},
		"something after": append(octets([]byte("0123456789abcdef")), 5, 0),
	} {
		t.Run(what, func(t *testing.T) {
			b.fails(t, b.Respond(t.Context(), ask{certs: [][]byte{b.id(7)}, nonce: value}.der()), xocsp.Malformed)
		})
	}
}

func TestSeveralCertificates(t *testing.T) {
	b := newBench(t)
	b.set(1, Status{Kind: Good})
	b.set(2, Status{Kind: Revoked, At: start, Reason: 1})
	got := b.Respond(t.Context(), ask{certs: [][]byte{b.id(1), b.id(2), b.id(3)}}.der())
	for serial, want := range map[int64]int{1: xocsp.Good, 2: xocsp.Revoked, 3: xocsp.Unknown} {
		if r := b.read(got, serial); r.Status != want {
			t.Errorf("%d: %d", serial, r.Status)
		}
	}
	most := make([][]byte, MaxCerts)
	for i := range most {
		most[i] = b.id(1)
	}
	if r := b.Respond(t.Context(), ask{certs: most}.der()); r.Err != nil {
		t.Error(r.Err)
	}
	b.fails(t, b.Respond(t.Context(), ask{certs: append(most[:MaxCerts:MaxCerts], b.id(1))}.der()), xocsp.Malformed)

	other := newBench(t)
	other.set(1, Status{Kind: Good})
	for _, certs := range [][][]byte{{other.id(1)}, {b.id(1), other.id(1)}, {other.id(1), b.id(1)}} {
		b.fails(t, b.Respond(t.Context(), ask{certs: certs}.der()), xocsp.Unauthorized)
	}
	// Nor may one delegate speak for two issuing CAs of one responder.
	delegates := *b.issuers.Load()
	issuer := delegates[issuerKey{oidSHA1, sum(crypto.SHA1, b.issuer.RawSubject), keySum(t, b.issuer)}]
	if err := b.SetIssuers(*issuer, Issuer{"other", other.issuer, nil}); err != nil {
		t.Fatal(err)
	}
	b.read(b.Respond(t.Context(), ask{certs: [][]byte{b.id(1), b.id(2)}}.der()), 2)
	b.fails(t, b.Respond(t.Context(), ask{certs: [][]byte{b.id(1), other.id(1)}}.der()), xocsp.Unauthorized)
}

func keySum(t *testing.T, cert *x509.Certificate) string {
	t.Helper()
	bits, err := keyBits(cert)
	if err != nil {
		t.Fatal(err)
	}
	return sum(crypto.SHA1, bits)
}

func TestWhatRequestsMayHold(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	extension := func(critical bool) []byte {
		id, err := asn1.Marshal(pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: critical, Value: []byte{5, 0}})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	cert := [][]byte{b.id(7)}
	noNull := bytes.Replace(b.id(7), []byte("\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00"), []byte("\x30\x07\x06\x05\x2b\x0e\x03\x02\x1a"), 1)
	noNull[1] -= 2
	for what, a := range map[string]ask{
		"requestor":           {certs: cert, requestor: true},
		"signature":           {certs: cert, signature: true},
		"unknown extension":   {certs: cert, extensions: [][]byte{extension(false)}},
		"hash without a NULL": {certs: [][]byte{noNull}},
	} {
		if got := b.read(b.Respond(t.Context(), a.der()), 7); got.Status != xocsp.Good {
			t.Errorf("%s: %+v", what, got)
		}
	}
	nonce := octets([]byte("0123456789abcdef"))
	good := ask{certs: cert}.der()
	parameters := bytes.Replace(b.id(7), []byte{5, 0}, []byte{4, 0}, 1)
	for what, der := range map[string][]byte{
		"nothing":              nil,
		"version 2":            ask{certs: cert, version: 1}.der(),
		"no certificate":       ask{}.der(),
		"critical extension":   ask{certs: cert, extensions: [][]byte{extension(true)}}.der(),
		"two nonces":           ask{certs: cert, nonce: nonce, extensions: [][]byte{built(0x30, []byte(nonceExtnID), octets(nonce))}}.der(),
		"hash with parameters": ask{certs: [][]byte{parameters}}.der(),
		"an octet more":        append(bytes.Clone(good), 0),
		"cut":                  good[:len(good)-1],
		"long serial":          ask{certs: [][]byte{longSerial(t, b)}}.der(),
		"too long":             ask{certs: cert, extensions: [][]byte{bytes.Repeat(extension(false), 500)}}.der(),
		"more than a TBS":      built(0x30, built(0x30, built(0x30, built(0x30, b.id(7))), []byte{5, 0})),
		"more than a Request":  built(0x30, built(0x30, built(0x30, built(0x30, b.id(7), []byte{5, 0})))),
		"a Request's nonce":    built(0x30, built(0x30, built(0x30, built(0x30, b.id(7), built(contextTag(0), built(0x30, built(0x30, []byte(nonceExtnID), octets(nonce)))))))),
		"indefinite length":    append([]byte{0x30, 0x80}, append(good[2:], 0, 0)...),
	} {
		t.Run(what, func(t *testing.T) { b.fails(t, b.Respond(t.Context(), der), xocsp.Malformed) })
	}
}

func longSerial(t *testing.T, b *bench) []byte {
	t.Helper()
	serial := new(big.Int).Lsh(big.NewInt(1), 8*maxSerial)
	der, err := xocsp.CreateRequest(&x509.Certificate{SerialNumber: serial}, b.issuer, nil)
	if err != nil {
		t.Fatal(err)
	}
	var req struct {
		TBS struct{ List []struct{ ID asn1.RawValue } }
	}
	if _, err := asn1.Unmarshal(der, &req); err != nil {
		t.Fatal(err)
	}
	return req.TBS.List[0].ID.FullBytes
}

func TestRecordsAway(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	b.ask(7)
	b.away = errors.New("the disk is full")
	b.fails(t, b.ask(7), xocsp.TryLater) // although an answer is remembered: it may be true no more
}

func TestNoDelegate(t *testing.T) {
	b := newBench(t)
	if err := b.SetIssuers(Issuer{"issuing", b.issuer, nil}); err != nil {
		t.Fatal(err)
	}
	b.fails(t, b.ask(7), xocsp.TryLater)
	if err := b.SetIssuers(); err != nil {
		t.Fatal(err)
	}
	b.fails(t, b.ask(7), xocsp.Unauthorized)
}

func TestStaple(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	got, err := b.Staple(t.Context(), &x509.Certificate{SerialNumber: big.NewInt(7)}, b.issuer)
	if err != nil || b.read(got, 7).Status != xocsp.Good || got.NextUpdate.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := b.Staple(t.Context(), &x509.Certificate{SerialNumber: big.NewInt(7)}, newBench(t).issuer); err == nil {
		t.Error("a staple for another CA's certificate")
	}
}

// A delegate that clients would not believe is none.
func TestDelegatesAreChecked(t *testing.T) {
	b := newBench(t)
	key := newKey(t)
	for what, usage := range map[string]x509.ExtKeyUsage{"not for OCSP": x509.ExtKeyUsageClientAuth, "good": x509.ExtKeyUsageOCSPSigning} {
		cert := b.certificate(&x509.Certificate{NotAfter: start.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage}}, key)
		if _, err := NewDelegate(cert, key, b.issuer); (err == nil) != (what == "good") {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := NewDelegate(cert, newKey(t), b.issuer); err == nil {
			t.Errorf("%s: another key", what)
		}
		if _, err := NewDelegate(cert, key, newBench(t).issuer); err == nil {
			t.Errorf("%s: another issuer", what)
		}
	}
}

func TestMetrics(t *testing.T) {
	b := newBench(t)
	b.set(7, Status{Kind: Good})
	b.ask(7)
	b.ask(7)
	b.ask(8)
	b.Respond(t.Context(), nil)
	var text strings.Builder
	b.WriteMetrics(&text)
	for _, want := range []string{`{status="good"} 2`, `{status="unknown"} 1`, `{status="malformed_request"} 1`, "pkid_ocsp_reused_total 1", "pkid_ocsp_signing_seconds_count 2"} {
		if !strings.Contains(text.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, &text)
		}
	}
}

// Whatever a stranger sends, the response is one that a client can read, about the certificate that x/crypto/ocsp
// finds in the request too.
func FuzzRespond(f *testing.F) {
	b := newBench(f)
	b.set(7, Status{Kind: Good})
	seeds := []ask{
		{certs: [][]byte{b.id(7)}},
		{certs: [][]byte{b.id(7), b.id(8)}, nonce: octets([]byte("0123456789abcdef")), requestor: true, signature: true},
	}
	for _, s := range seeds {
		f.Add(s.der())
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		r := b.Respond(t.Context(), der)
		if r.Err != nil {
			if len(r.DER) != 5 || r.DER[4] == statusInternal {
				t.Fatalf("%v: %x", r.Err, r.DER)
			}
			return
		}
		req, err := parseRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		serial := req.certs[0].serial
		if _, err := xocsp.ParseResponseForCert(r.DER, &x509.Certificate{SerialNumber: serial}, b.issuer); err != nil {
			t.Fatal(fmt.Errorf("%w: %x", err, r.DER))
		}
		// x/crypto/ocsp wants a bare Name where a requestor is a GeneralName, and so does not read all.
		if theirs, err := xocsp.ParseRequest(der); err == nil && theirs.SerialNumber.Cmp(serial) != 0 {
			t.Fatalf("serial number %x, theirs %x", serial, theirs.SerialNumber)
		}
	})
}
