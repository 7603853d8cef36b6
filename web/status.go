package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
)

// fingerprint is the SHA-256 of a certificate, as people compare it.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func (s *Server) getCRL(w http.ResponseWriter, r *http.Request) error {
	return s.serveCRL(w, r, s.c.CRL.Serve)
}

func (s *Server) getDeltaCRL(w http.ResponseWriter, r *http.Request) error {
	return s.serveCRL(w, r, s.c.CRL.ServeDelta)
}

func (s *Server) serveCRL(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter, *http.Request, crl.Shard)) error {
	vars := callOf(r.Context()).vars
	if _, known := s.c.Authority.FindIssuer(vars["issuer"]); !known {
		return s.getRootCRL(w, r)
	}
	number := uint64(0)
	if text, ok := vars["shard"]; ok {
		var err error
		if number, err = strconv.ParseUint(text, 10, 32); err != nil {
			return refuse(noRoute, "the issuing CA has no such CRL; %s/v1/ca lists them", s.c.URLs.Public)
		}
	}
	shard := crl.Shard{Issuer: vars["issuer"], Number: uint32(number)}
	serve(w, r, shard)
	return nil
}

// getRootCRL serves the root's own CRL, which was signed when the root was last used. It may be cached for
// as long as it holds (RFC 5280 section 5.1.2.5), but asked for again each day.
func (s *Server) getRootCRL(w http.ResponseWriter, r *http.Request) error {
	root, err := s.rootOf(r)
	if err != nil {
		return err
	}
	if root.crl == nil {
		return refuse(noRoute, "the root's CRL is not published here; the issuing CA's certificate says where it is, if anywhere")
	}
	age := min(max(root.crl.NextUpdate.Sub(s.now()), 0), 24*time.Hour)
	serveDER(w, r, "application/pkix-crl", root.crl.Raw, root.crl.ThisUpdate, age)
	return nil
}

func (s *Server) getRootCertificate(w http.ResponseWriter, r *http.Request) error {
	root, err := s.rootOf(r)
	if err != nil {
		return err
	}
	serveCertificate(w, r, root.cert)
	return nil
}

// rootOf returns the root that a path names: the first one, where it has no variable.
func (s *Server) rootOf(r *http.Request) (root, error) {
	id, named := callOf(r.Context()).vars["issuer"]
	if !named {
		id = firstRoot
	}
	found, ok := s.rootIn(id)
	if !ok {
		return root{}, refuse(noRoute, "no CA here has that id; %s/v1/ca lists them", s.c.URLs.Public)
	}
	return found, nil
}

func (s *Server) getIssuerCertificate(w http.ResponseWriter, r *http.Request) error {
	issuer, known := s.c.Authority.FindIssuer(callOf(r.Context()).vars["issuer"])
	if !known {
		return s.getRootCertificate(w, r)
	}
	serveCertificate(w, r, issuer.Signer.Certificate())
	return nil
}

// serveCertificate serves what AIA points at (RFC 5280 section 4.2.2.1): one certificate in DER.
func serveCertificate(w http.ResponseWriter, r *http.Request, c *x509.Certificate) {
	serveDER(w, r, "application/pkix-cert", c.Raw, c.NotBefore, 24*time.Hour)
}

func serveDER(w http.ResponseWriter, r *http.Request, kind string, der []byte, modified time.Time, age time.Duration) {
	sum := sha256.Sum256(der)
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("ETag", fmt.Sprintf(`"%x"`, sum[:16]))
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(age.Seconds())))
	http.ServeContent(w, r, "", modified, bytes.NewReader(der))
}

// getHealth says that the process answers, and nothing else: a restart mends nothing that /readyz finds.
func (s *Server) getHealth(w http.ResponseWriter, _ *http.Request) error {
	send(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
	return nil
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready  bool        `json:"ready"`
	Checks []readyLine `json:"checks"`
}

type readyLine struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"` // the listener is the operator's own
}

// checkTimeout bounds a check: what does not answer in this time is as good as away.
const checkTimeout = 3 * time.Second

// runChecks runs every check, all at once, so that one that hangs does not keep the others from being told.
func (s *Server) runChecks(ctx context.Context) []readyLine {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	checks := append([]Check{{"store", s.checkStore}, {"crl", s.checkCRL}}, s.c.Checks...)
	lines := make([]readyLine, len(checks))
	var running sync.WaitGroup
	for i, check := range checks {
		running.Go(func() {
			lines[i] = readyLine{Name: check.Name, OK: true}
			if err := check.Run(ctx); err != nil {
				lines[i].OK, lines[i].Error = false, err.Error()
			}
		})
	}
	running.Wait()
	return lines
}

// getReady runs every check. It answers 503 if one fails, so that a load balancer looks elsewhere.
func (s *Server) getReady(w http.ResponseWriter, r *http.Request) error {
	out := readiness{Checks: s.runChecks(r.Context())}
	out.Ready = !slices.ContainsFunc(out.Checks, func(l readyLine) bool { return !l.OK })
	status := http.StatusOK
	if !out.Ready {
		status = http.StatusServiceUnavailable
	}
	return writeJSON(w, status, out)
}

// writeCheckMetrics tells what /readyz tells, for who scrapes and does not ask there.
func (s *Server) writeCheckMetrics(ctx context.Context, w io.Writer) {
	family(w, "pkid_check_ok", "gauge", "Whether a check of /readyz passes: 1, or 0.")
	for _, line := range s.runChecks(ctx) {
		ok := 0
		if line.OK {
			ok = 1
		}
		fmt.Fprintf(w, "pkid_check_ok{check=%q} %d\n", line.Name, ok)
	}
}

func (s *Server) checkStore(r context.Context) error {
	_, err := s.c.Authority.List(r, ca.Query{Limit: 1})
	return err
}

// checkCRL finds lists that relying parties no longer accept.
func (s *Server) checkCRL(context.Context) error {
	now := s.now()
	for _, r := range s.roots() {
		if r.crl != nil && now.After(r.crl.NextUpdate) {
			return fmt.Errorf("the CRL of %q is overdue since %s: sign another with the root's key", r.cert.Subject, stamp(r.crl.NextUpdate))
		}
	}
	for _, st := range s.c.CRL.Status() {
		switch {
		case st.NextUpdate.IsZero():
			return fmt.Errorf("CRL %s is not published yet", st.Shard)
		case now.After(st.NextUpdate) && !st.Ended:
			return fmt.Errorf("CRL %s is overdue since %s", st.Shard, stamp(st.NextUpdate))
		}
	}
	return nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}
