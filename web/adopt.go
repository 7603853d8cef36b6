package web

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"

	"github.com/pkid/pkid/client"
)

// adoptCertificate records a certificate that the store lost.
func (s *Server) adoptCertificate(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[client.Adoption](r)
	if err != nil {
		return err
	}
	block, _ := pem.Decode([]byte(in.Certificate))
	if block == nil || block.Type != "CERTIFICATE" {
		return refuse(badRequest, "certificate is one PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return refuse(badRequest, "certificate: %v", err)
	}
	issued, err := s.c.Enroll.Adopt(r.Context(), cert, in.ClientID, in.Profile)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/certificates/"+issued.Record.Serial.String())
	return s.writeCertificate(w, r, http.StatusCreated, issued)
}
