package web

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/thumbprint"
)

// TestEncode_AsEncodingJSON: what is written without reflection is what encoding/json writes of the wire type.
func TestEncode_AsEncodingJSON(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for why, change := range map[string]func(*ca.Record){
		"plain":      func(*ca.Record) {},
		"characters": func(r *ca.Record) { r.ClientID, r.Names = `a"b\c`, []string{"<&>", "\u2028é\x00\x7f", "\xff", ""} },
		"no names":   func(r *ca.Record) { r.Names = []string{} },
		"renewed":    func(r *ca.Record) { r.Parent = ca.Serial{1, 2, 3} },
		"revoked": func(r *ca.Record) {
			r.Revocation = &ca.Revocation{Reason: ca.KeyCompromise, At: now.Add(12 * time.Millisecond)}
		},
		"held":             func(r *ca.Record) { r.Revocation = &ca.Revocation{Reason: ca.CertificateHold, At: now} },
		"expired":          func(r *ca.Record) { r.NotAfter = now.Add(-time.Hour) },
		"elsewhere":        func(r *ca.Record) { r.IssuedAt = now.In(time.FixedZone("", 3600)) },
		"a full last line": func(r *ca.Record) { r.DER = r.DER[:96] },
		"one octet more":   func(r *ca.Record) { r.DER = r.DER[:97] },
		"empty":            func(r *ca.Record) { r.DER = nil },
	} {
		rec := &ca.Record{
			Serial: ca.Serial{0x01, 0xab, 15: 9}, Issuer: "0123456789abcdef", ClientID: "billing", Profile: "client", Thumbprint: thumbprint.OfDER([]byte("x")),
			NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), IssuedAt: now.Add(678 * time.Millisecond), Names: []string{"billing", "billing.example.com"},
			DER: []byte(strings.Repeat("certificate", 60)),
		}
		change(rec)
		want := must[[]byte](t)(json.Marshal(certificateOf(rec, now)))
		if got := string(appendCertificate(nil, rec, now)) + "}"; got != string(want) {
			t.Errorf("%s:\ngot  %s\nwant %s", why, got, want)
		}
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rec.DER}))
		if len(rec.DER) == 0 {
			text = "" // a lost record has no certificate, and not one of nothing
		}
		if got, want := pemOf(rec.DER), text; got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", why, got, want)
		}
	}
}

// TestEncode_Trust: the chain and the root are members of the same wire type.
func TestEncode_Trust(t *testing.T) {
	f := newFixture(t)
	var got, again client.Certificate
	f.operate("GET", "/v1/certificates/"+serialOf(f.admin), "").want(t, 200, &got)
	again = got
	again.Chain, again.Root = nil, ""
	for _, c := range f.c.Authority.Issuer().Chain() {
		again.Chain = append(again.Chain, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
	}
	again.Root = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.c.Authority.Issuer().Root.Raw}))
	a, b := must[[]byte](t)(json.Marshal(got)), must[[]byte](t)(json.Marshal(again))
	if string(a) != string(b) {
		t.Errorf("got  %s\nwant %s", a, b)
	}
	block, _ := pem.Decode([]byte(got.Certificate))
	if cert, err := x509.ParseCertificate(block.Bytes); err != nil || cert.SerialNumber.Cmp(f.admin.Leaf.SerialNumber) != 0 {
		t.Errorf("another certificate: %v", err)
	}
}

// reset is a ResponseWriter whose connection still reads what it was given when the write has failed, as HTTP/2's may.
type reset struct {
	http.ResponseWriter
	given []byte
}

func (w *reset) Write(b []byte) (int, error) {
	w.given = b
	return 0, io.ErrClosedPipe
}

// TestSendJSON_AfterAFailure: what a connection may still be sending is not written over by another answer.
func TestSendJSON_AfterAFailure(t *testing.T) {
	answer := func(text string) func([]byte) []byte { return func(b []byte) []byte { return append(b, text...) } }
	for range 100 {
		broken := &reset{ResponseWriter: httptest.NewRecorder()}
		sendJSON(broken, http.StatusOK, answer("one client's"))
		next := httptest.NewRecorder()
		sendJSON(next, http.StatusOK, answer("another's---"))
		if string(broken.given) != "one client's" || next.Body.String() != "another's---" {
			t.Fatalf("%q is being sent, and %q was", broken.given, next.Body)
		}
	}
}
