package web

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/appendjson"
)

// writeJSON encodes before it writes, so that an answer is whole or an error.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	send(w, status, "application/json", append(body, '\n'))
	return nil
}

// send writes a whole answer, and reports whether that went well. If it does not arrive, there is nobody left to
// tell. net/http sends what is longer than 2 KiB in chunks unless it is told the length.
func send(w http.ResponseWriter, status int, kind string, body []byte) (written bool) {
	h := w.Header()
	h["Content-Type"], h["Content-Length"] = []string{kind}, []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, err := w.Write(body)
	return err == nil
}

func pemOf(der []byte) string { return string(appendPEM(nil, der, "\n")) }

// appendPEM appends a certificate in PEM (RFC 7468), with lines that end as given; nothing of one that was lost.
func appendPEM(b, der []byte, newline string) []byte {
	if len(der) == 0 {
		return b
	}
	const line = 48 // octets, which become 64 characters
	b = append(append(b, "-----BEGIN CERTIFICATE-----"...), newline...)
	for len(der) > 0 {
		n := min(line, len(der))
		b = append(base64.StdEncoding.AppendEncode(b, der[:n]), newline...)
		der = der[n:]
	}
	return append(append(b, "-----END CERTIFICATE-----"...), newline...)
}

// appendPEMString appends a certificate in PEM as a JSON string.
func appendPEMString(b, der []byte) []byte { return append(appendPEM(append(b, '"'), der, `\n`), '"') }

func appendTime(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// appendCertificate appends the JSON of a client.Certificate without the brace at its end, as certificateOf and
// encoding/json would write it. Issuing, renewing and revoking answer with it, and spend no time on reflection.
func appendCertificate(b []byte, rec *ca.Record, now time.Time) []byte {
	b = append(hex.AppendEncode(append(b, `{"serial":"`...), rec.Serial[:]), '"')
	b = appendjson.String(append(b, `,"client_id":`...), rec.ClientID)
	b = appendjson.String(append(b, `,"profile":`...), rec.Profile)
	b = appendjson.String(append(b, `,"x5t#S256":`...), rec.Thumbprint.String())
	b = appendjson.Strings(append(b, `,"names":`...), rec.Names)
	b = appendTime(append(b, `,"not_before":`...), rec.NotBefore)
	b = appendTime(append(b, `,"not_after":`...), rec.NotAfter)
	b = appendTime(append(b, `,"issued_at":`...), rec.IssuedAt)
	b = appendjson.String(append(b, `,"status":`...), string(rec.Status(now)))
	if rec.Revocation != nil {
		b = appendTime(append(b, `,"revoked_at":`...), rec.Revocation.At)
		b = appendjson.String(append(b, `,"revocation_reason":`...), rec.Revocation.Reason.String())
	}
	if !rec.Parent.IsZero() {
		b = appendjson.String(append(b, `,"renews":`...), rec.Parent.String())
	}
	b = appendjson.String(append(b, `,"issuer":`...), rec.Issuer)
	return appendPEMString(append(b, `,"certificate":`...), rec.DER)
}

// trust is what a certificate's holder needs beside it: the chain and the root, as members of client.Certificate's
// JSON. It is the same for every certificate of an issuer.
func (s *Server) trust(issued *ca.Issued) []byte {
	if b, ok := s.trusts.Load(issued.Record.Issuer); ok {
		return b.([]byte)
	}
	b := []byte(`,"chain":[`)
	for i, c := range issued.Chain {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendPEMString(b, c.Raw)
	}
	b = appendPEMString(append(b, `],"root":`...), issued.Root.Raw)
	s.trusts.Store(issued.Record.Issuer, b)
	return b
}

// answers are buffers for answers in JSON. One comes back when its answer was written, and not after a failure: HTTP/2
// lets the handler go when the stream is reset, while the connection may still be at what it was given.
var answers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// sendJSON writes an answer that write appends to a buffer.
func sendJSON(w http.ResponseWriter, status int, write func([]byte) []byte) {
	b := answers.Get().(*[]byte)
	*b = write((*b)[:0])
	if send(w, status, "application/json", *b) && cap(*b) <= maxBody { // a list may be far longer
		answers.Put(b)
	}
}

// certificateOf puts a record into its wire form, for what is no JSON.
func certificateOf(rec *ca.Record, now time.Time) client.Certificate {
	c := client.Certificate{
		Serial:      rec.Serial.String(),
		ClientID:    rec.ClientID,
		Profile:     rec.Profile,
		Thumbprint:  rec.Thumbprint,
		Names:       rec.Names,
		NotBefore:   rec.NotBefore.UTC(),
		NotAfter:    rec.NotAfter.UTC(),
		IssuedAt:    rec.IssuedAt.UTC(),
		Status:      string(rec.Status(now)),
		Issuer:      rec.Issuer,
		Certificate: pemOf(rec.DER),
	}
	if rec.Revocation != nil {
		c.RevokedAt, c.RevocationReason = rec.Revocation.At.UTC(), rec.Revocation.Reason.String()
	}
	if !rec.Parent.IsZero() {
		c.Renews = rec.Parent.String()
	}
	return c
}

// The PEM forms that a certificate may be asked for in.
const (
	pemFile  = "application/x-pem-file"            // the certificate alone
	pemChain = "application/pem-certificate-chain" // RFC 8555 section 9.1: the certificate, then its chain
)

// writeCertificate answers in the form that was asked for.
func (s *Server) writeCertificate(w http.ResponseWriter, r *http.Request, status int, issued *ca.Issued) error {
	w.Header().Add("Vary", "Accept")
	kind := accepts(r, "application/json", pemFile, pemChain)
	if kind == "application/json" {
		sendJSON(w, status, func(b []byte) []byte {
			return append(append(appendCertificate(b, issued.Record, s.now()), s.trust(issued)...), "}\n"...)
		})
		return nil
	}
	if len(issued.Record.DER) == 0 {
		return fmt.Errorf("%w: of %s only the serial number is known", ca.ErrNotFound, issued.Record.Serial)
	}
	b := appendPEM(nil, issued.Record.DER, "\n")
	if kind == pemChain {
		for _, c := range issued.Chain {
			b = appendPEM(b, c.Raw, "\n")
		}
	}
	send(w, status, kind, b)
	return nil
}
