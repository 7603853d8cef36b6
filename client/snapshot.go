package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// Headers of the answer that a snapshot is: the end of the audit log in it.
const (
	AuditSeqHeader  = "Pkid-Audit-Seq"
	AuditHashHeader = "Pkid-Audit-Hash" // SHA-256 in hex
)

// Snapshot is a copy of the store on its way here. Close it.
type Snapshot struct {
	io.ReadCloser
	Size      int64  // in octets; what ends before is no copy
	AuditSeq  uint64 // of the newest audit entry in it
	AuditHash string // of that entry, in hex
}

// Snapshot asks for a consistent copy of the store. There is none where the store is a database of another program:
// the error is a *Problem with status 404 then.
func (a *API) Snapshot(ctx context.Context) (*Snapshot, error) {
	resp, err := a.open(ctx, "/v1/store")
	if err != nil {
		return nil, err
	}
	s := &Snapshot{ReadCloser: resp.Body, Size: resp.ContentLength, AuditHash: resp.Header.Get(AuditHashHeader)}
	if s.AuditSeq, err = strconv.ParseUint(resp.Header.Get(AuditSeqHeader), 10, 64); err != nil || s.Size < 0 {
		resp.Body.Close()
		return nil, fmt.Errorf("%s does not tell the size of its copy, or where the audit log in it ends", resp.Request.URL.Host)
	}
	return s, nil
}

// open begins to read an answer of any length. The caller closes its body, or ends ctx.
func (a *API) open(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, join(a.base, path), nil)
	if err != nil {
		return nil, err
	}
	hc := *a.hc
	hc.Timeout = 0 // it bounds the whole answer; the transport bounds everything up to its head
	resp, err := hc.Do(req)
	if err != nil {
		return nil, unanswered(req, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, err := readBody(resp)
		if err != nil {
			return nil, err
		}
		return nil, problemOf(resp, text)
	}
	return resp, nil
}
