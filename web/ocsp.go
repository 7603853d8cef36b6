package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pkid/pkid/ocsp"
)

// ocspPath begins the path of an OCSP request by GET. What follows is base64, which has slashes of its own, one after
// the other too, so such a path is not held to the normal form of the others.
const ocspPath = "/ocsp/"

const ocspRequestType = "application/ocsp-request"

// postOCSP answers a request in the body (RFC 6960 appendix A.1). No cache is to keep what is sent so.
func (s *Server) postOCSP(w http.ResponseWriter, r *http.Request) error {
	if s.c.OCSP == nil {
		return refuse(noRoute, "OCSP is switched off here; %s/v1/ca lists the CRLs", s.c.URLs.Public)
	}
	if kind, err := mediaType(r); err != nil {
		return err
	} else if kind != ocspRequestType {
		return refuse(badMediaType, "send %s, not %q", ocspRequestType, kind)
	}
	request, err := io.ReadAll(io.LimitReader(r.Body, ocsp.MaxRequest+1)) // one more is too long
	if err != nil {
		return err
	}
	response := s.c.OCSP.Respond(r.Context(), request)
	s.noteOCSP(r, response)
	sendOCSP(w, response.DER)
	return nil
}

// getOCSP answers a request in the path. Who asks for the same certificate sends the same path, so proxies may keep the
// answer for as long as it holds (RFC 5019 section 6.2).
func (s *Server) getOCSP(w http.ResponseWriter, r *http.Request) error {
	if s.c.OCSP == nil {
		return refuse(noRoute, "OCSP is switched off here; %s/v1/ca lists the CRLs", s.c.URLs.Public)
	}
	response := s.c.OCSP.Respond(r.Context(), ocspRequest(r.URL))
	s.noteOCSP(r, response)
	if response.NextUpdate.IsZero() {
		sendOCSP(w, response.DER)
		return nil
	}
	sum := sha256.Sum256(response.DER)
	h := w.Header()
	h.Set("Content-Type", "application/ocsp-response")
	h.Set("ETag", fmt.Sprintf(`"%x"`, sum[:16]))
	h.Set("Cache-Control", fmt.Sprintf("public, no-transform, must-revalidate, max-age=%d", max(int(response.NextUpdate.Sub(s.now()).Seconds()), 0)))
	h.Set("Expires", response.NextUpdate.UTC().Format(http.TimeFormat))
	h.Set("Last-Modified", response.ThisUpdate.UTC().Format(http.TimeFormat))
	// Without a time ServeContent goes by the ETag alone: two answers of one second may differ in what they say.
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(response.DER))
	return nil
}

// ocspRequest reads what a path holds after ocspPath, with or without escapes for "/", "+" and "=". What is not base64 is
// nil, which is no request either.
func ocspRequest(u *url.URL) []byte {
	text, _ := strings.CutPrefix(u.EscapedPath(), ocspPath)
	if len(text) > 3*base64.StdEncoding.EncodedLen(ocsp.MaxRequest) { // were each octet escaped
		return nil
	}
	text, err := url.PathUnescape(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // which the decoder would pass over
		return nil
	}
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil
	}
	return der
}

// sendOCSP sends what is for one request only. The status is 200 also where the response is that there is none: it is in
// the response why.
func sendOCSP(w http.ResponseWriter, der []byte) {
	w.Header()["Cache-Control"] = noStore
	send(w, http.StatusOK, "application/ocsp-response", der)
}

// noteOCSP logs what should not happen. What is away meanwhile, the metrics and /readyz tell of.
func (s *Server) noteOCSP(r *http.Request, response ocsp.Response) {
	if errors.Is(response.Err, ocsp.ErrInternal) {
		s.log.LogAttrs(r.Context(), slog.LevelError, "answering OCSP", slog.String("request_id", callOf(r.Context()).id), slog.Any("err", response.Err))
	}
}
