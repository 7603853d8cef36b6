package web

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
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

// send writes a whole answer. If it does not arrive, there is nobody left to tell.
func send(w http.ResponseWriter, status int, kind string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func pemList(certs []*x509.Certificate) []string {
	var out []string
	for _, c := range certs {
		out = append(out, pemOf(c.Raw))
	}
	return out
}

// certificateOf puts a record into its wire form.
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

// issuedOf is certificateOf with all that its holder needs to use and to trust it.
func issuedOf(issued *ca.Issued, now time.Time) client.Certificate {
	c := certificateOf(issued.Record, now)
	c.Chain = pemList(issued.Chain)
	c.Root = pemOf(issued.Root.Raw)
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
		return writeJSON(w, status, issuedOf(issued, s.now()))
	}
	var body bytes.Buffer
	body.WriteString(pemOf(issued.Record.DER))
	if kind == pemChain {
		for _, text := range pemList(issued.Chain) {
			body.WriteString(text)
		}
	}
	send(w, status, kind, body.Bytes())
	return nil
}
