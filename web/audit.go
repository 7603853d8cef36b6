package web

import (
	"context"
	"net/http"

	"github.com/pkid/pkid/internal/audit"
)

// AuditLog reads the audit log, and lets go of its start.
type AuditLog interface {
	// Audit returns entries in the order of their sequence numbers, those after the given one, at most limit.
	Audit(ctx context.Context, after uint64, limit int) ([]audit.Entry, error)
	// AuditHead returns the end of the log.
	AuditHead(ctx context.Context) (audit.Head, error)
	// AuditBase returns the head that the oldest entry follows: zero until some were dropped.
	AuditBase(ctx context.Context) (audit.Head, error)
	// ArchiveAudit drops some of the entries up to one, and returns the new base.
	ArchiveAudit(ctx context.Context, upTo audit.Head) (audit.Head, error)
}

// auditAnswer is the answer of GET /v1/audit: entries in the order of their sequence numbers. The next page
// comes after the last one's; an empty page marks the end.
type auditAnswer struct {
	Base    audit.Head    `json:"base"`
	Head    audit.Head    `json:"head"`
	Entries []audit.Entry `json:"entries"`
}

func (s *Server) getAudit(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r, "after", "limit")
	after, limit := q.number("after", 0, 1<<53), q.limit()
	if q.err != nil {
		return q.err
	}
	base, err := s.c.Audit.AuditBase(r.Context())
	if err != nil {
		return err
	}
	entries, err := s.c.Audit.Audit(r.Context(), after, limit)
	if err != nil {
		return err
	}
	head, err := s.c.Audit.AuditHead(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, auditAnswer{base, head, append([]audit.Entry{}, entries...)})
}

func (s *Server) postArchived(w http.ResponseWriter, r *http.Request) error {
	upTo, err := decode[audit.Head](r)
	if err != nil {
		return err
	}
	base, err := s.c.Audit.ArchiveAudit(r.Context(), upTo)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, base)
}
