package web

import (
	"context"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
)

// listPage bounds one step of what may have many.
func (s *Server) listPage(ctx context.Context, q ca.Query) (*ca.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return s.c.Authority.List(ctx, q)
}

// export streams every certificate that matches, page by page. It holds one page in memory, gives a slow
// reader requestTimeout per page, and stops when the reader goes away. An error on the way cuts the
// connection, so that a part never looks like the whole.
func (s *Server) export(w http.ResponseWriter, r *http.Request, q ca.Query, format string) error {
	page, err := s.listPage(r.Context(), q)
	if err != nil {
		return err
	}
	enc := newExport(w, format)
	rc := http.NewResponseController(w)
	for {
		_ = rc.SetWriteDeadline(time.Now().Add(requestTimeout)) // a test's recorder has none
		if err := enc.page(page.Records, s.now()); err != nil {
			return fmt.Errorf("writing export: %w", err)
		}
		if page.Next == "" || r.Method == http.MethodHead {
			return nil
		}
		if err := rc.Flush(); err != nil {
			return fmt.Errorf("writing export: %w", err)
		}
		q.Cursor = page.Next
		if page, err = s.listPage(r.Context(), q); err != nil {
			return err
		}
	}
}

// exporter writes certificates in one of the export formats.
type exporter interface {
	page(records []*ca.Record, now time.Time) error
}

func newExport(w http.ResponseWriter, format string) exporter {
	if format == "csv" {
		w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present") // RFC 4180 section 3
		w.Header().Set("Content-Disposition", `attachment; filename="certificates.csv"`)
		return &csvExport{w: csv.NewWriter(w)}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	return ndjsonExport{w}
}

type ndjsonExport struct{ w io.Writer }

func (e ndjsonExport) page(records []*ca.Record, now time.Time) error {
	var b []byte
	for _, rec := range records {
		b = append(appendCertificate(b[:0], rec, now), "}\n"...)
		if _, err := e.w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

type csvExport struct {
	w      *csv.Writer
	headed bool
}

func (e *csvExport) page(records []*ca.Record, now time.Time) error {
	if !e.headed {
		e.headed = true
		if err := e.w.Write(client.CSVHeader()); err != nil {
			return err
		}
	}
	for _, rec := range records {
		c := certificateOf(rec, now)
		if err := e.w.Write(c.CSVRow()); err != nil {
			return err
		}
	}
	e.w.Flush()
	return e.w.Error()
}

func invitationID(text string) (id [16]byte, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("invitation id %q is not 32 hex digits", text)
	}
	return [16]byte(raw), nil
}
