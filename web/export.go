package web

import (
	"context"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
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
	enc := json.NewEncoder(e.w)
	for _, rec := range records {
		if err := enc.Encode(certificateOf(rec, now)); err != nil {
			return err
		}
	}
	return nil
}

type csvExport struct {
	w      *csv.Writer
	headed bool
}

// csvColumns are the columns of a CSV export. Names are separated by spaces; the PEM is left out.
var csvColumns = []string{
	"serial", "client_id", "profile", "status", "not_before", "not_after", "issued_at",
	"revoked_at", "revocation_reason", "renews", "issuer", "x5t#S256", "names",
}

func (e *csvExport) page(records []*ca.Record, now time.Time) error {
	if !e.headed {
		e.headed = true
		if err := e.w.Write(csvColumns); err != nil {
			return err
		}
	}
	for _, rec := range records {
		if err := e.w.Write(csvRow(certificateOf(rec, now))); err != nil {
			return err
		}
	}
	e.w.Flush()
	return e.w.Error()
}

func csvRow(c client.Certificate) []string {
	row := []string{
		c.Serial, c.ClientID, c.Profile, c.Status, stamp(c.NotBefore), stamp(c.NotAfter), stamp(c.IssuedAt),
		stamp(c.RevokedAt), c.RevocationReason, c.Renews, c.Issuer, c.Thumbprint.String(), strings.Join(c.Names, " "),
	}
	for i, cell := range row {
		row[i] = harmless(cell)
	}
	return row
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

// harmless keeps a spreadsheet from taking a cell for a formula: names are chosen by others, and a formula
// can send what stands beside it to any host. The apostrophe is what spreadsheets use for it themselves.
func harmless(cell string) string {
	if cell != "" && slices.Contains([]byte("=+-@\t\r\n"), cell[0]) {
		return "'" + cell
	}
	return cell
}

func invitationID(text string) (id [16]byte, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("invitation id %q is not 32 hex digits", text)
	}
	return [16]byte(raw), nil
}
