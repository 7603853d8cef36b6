package ocsp

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// counts are what a Responder did.
type counts struct {
	kinds    [3]atomic.Uint64 // certificates, by Kind
	failures [7]atomic.Uint64 // responses, by OCSPResponseStatus
	reused   atomic.Uint64
	signings atomic.Uint64
	nanos    atomic.Int64 // that signing took
}

func (c *counts) answered(k Kind)    { c.kinds[k].Add(1) }
func (c *counts) failed(status byte) { c.failures[status].Add(1) }

func (c *counts) signed(took time.Duration) {
	c.signings.Add(1)
	c.nanos.Add(int64(took))
}

// WriteMetrics writes the Prometheus text format.
func (r *Responder) WriteMetrics(w io.Writer) {
	c := &r.counts
	fmt.Fprint(w, "# HELP pkid_ocsp_answers_total Certificates that OCSP told of, and responses without an answer, by status.\n# TYPE pkid_ocsp_answers_total counter\n")
	for _, line := range []struct {
		status string
		n      *atomic.Uint64
	}{
		{"good", &c.kinds[Good]},
		{"revoked", &c.kinds[Revoked]},
		{"unknown", &c.kinds[Unknown]},
		{"malformed_request", &c.failures[statusMalformed]},
		{"internal_error", &c.failures[statusInternal]},
		{"try_later", &c.failures[statusTryLater]},
		{"unauthorized", &c.failures[statusUnauthorized]},
	} {
		fmt.Fprintf(w, "pkid_ocsp_answers_total{status=%q} %d\n", line.status, line.n.Load())
	}
	fmt.Fprintf(w, "# HELP pkid_ocsp_reused_total Responses that had been signed before.\n# TYPE pkid_ocsp_reused_total counter\npkid_ocsp_reused_total %d\n", c.reused.Load())
	fmt.Fprintf(w, "# HELP pkid_ocsp_signing_seconds How long responses took to be signed.\n# TYPE pkid_ocsp_signing_seconds summary\npkid_ocsp_signing_seconds_sum %g\npkid_ocsp_signing_seconds_count %d\n",
		time.Duration(c.nanos.Load()).Seconds(), c.signings.Load())
}
