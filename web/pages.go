package web

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// Bounds of what the console reads for one page.
const (
	surveyed  = 2000 // certificates that the overview looks at, the newest
	shownRows = 50
	ancestors = 20
)

// overview is what an operator wants to know first.
type overview struct {
	Counts  map[ca.Status]int
	Seen    int
	More    bool // there are older certificates than those counted
	Overdue []*ca.Record
	CRLs    []crl.ShardStatus // the ill ones first, at most shownRows
	Lists   int               // of all of them
	RootCRL *x509.RevocationList
}

// survey counts the newest certificates. It is bounded, so that a CA with millions shows its page at once.
//
// Overdue are active certificates that have used up two thirds of their life, the time at which a healthy
// client renews, and that nothing has renewed. A successor is newer than what it renews, so it was seen first.
// The daemon's own are not among them: it gets new ones by itself, at each start too, and renews none.
func (s *Server) survey(ctx context.Context, now time.Time) (*overview, error) {
	o := &overview{Counts: map[ca.Status]int{}}
	renewed := map[ca.Serial]bool{}
	q := ca.Query{Limit: maxPage}
	for o.Seen < surveyed {
		page, err := s.listPage(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, rec := range page.Records {
			o.Seen++
			o.Counts[rec.Status(now)]++
			renewed[rec.Parent] = true
			late := rec.NotAfter.Add(-rec.NotAfter.Sub(rec.NotBefore) / 3)
			own := rec.ClientID == enroll.Daemon
			if rec.Status(now) == ca.Active && now.After(late) && !own && !renewed[rec.Serial] && len(o.Overdue) < shownRows {
				o.Overdue = append(o.Overdue, rec)
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return o, nil
		}
	}
	o.More = true
	return o, nil
}

func (s *Server) overviewPage(w http.ResponseWriter, r *http.Request) error {
	o, err := s.survey(r.Context(), s.now())
	if err != nil {
		return err
	}
	o.CRLs, o.RootCRL = s.c.CRL.Status(), s.rootCRLOf(s.c.Authority.Issuer().Above())
	o.Lists = len(o.CRLs)
	slices.SortStableFunc(o.CRLs, func(a, b crl.ShardStatus) int { return cmp.Compare(illness(a, s.now()), illness(b, s.now())) })
	o.CRLs = o.CRLs[:min(len(o.CRLs), shownRows)]
	return s.render(w, r, http.StatusOK, "overview", "Overview", o)
}

// illness sorts CRLs by how much they need an operator's eye.
func illness(st crl.ShardStatus, now time.Time) int {
	switch {
	case st.Err != nil || now.After(st.NextUpdate) && !st.Ended:
		return 0
	case !st.Ended:
		return 1
	}
	return 2
}

func (s *Server) certificatesPage(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r, filters...)
	query := q.certificates()
	query.Limit = shownRows
	if q.err != nil {
		return q.err
	}
	page, err := s.c.Authority.List(r.Context(), query)
	if err != nil {
		return err
	}
	export := filter(q.values)
	export.Del("cursor")
	return s.render(w, r, http.StatusOK, "certificates", "Certificates", struct {
		Certificates []row
		Statuses     []ca.Status
		Profiles     []string // those that every CA starts with; it may have others
		Filter       url.Values
		Next, Export template.URL // query strings
	}{
		s.rows(page.Records),
		[]ca.Status{ca.Active, ca.Held, ca.Revoked, ca.Expired},
		[]string{"client", "server", enroll.OperatorProfile},
		q.values,
		with(q.values, "cursor", page.Next),
		with(export, "format", "csv"),
	})
}

// row is a certificate as pages show it.
type row struct {
	client.Certificate
	Renewed bool // one of the certificates beside it renews it
}

// rows marks those that others of them renew. A renewed certificate can still be used, so its status stays.
func (s *Server) rows(records []*ca.Record) []row {
	renewed := map[ca.Serial]bool{}
	for _, rec := range records {
		renewed[rec.Parent] = true
	}
	var out []row
	for _, rec := range records {
		out = append(out, row{certificateOf(rec, s.now()), renewed[rec.Serial]})
	}
	return out
}

func (s *Server) certificatePage(w http.ResponseWriter, r *http.Request) error {
	issued, err := s.issued(r)
	if err != nil {
		return err
	}
	lineage, err := s.lineage(r.Context(), issued.Record)
	if err != nil {
		return err
	}
	line := s.rows(lineage)
	this := slices.IndexFunc(lineage, func(rec *ca.Record) bool { return rec.Serial == issued.Record.Serial })
	return s.render(w, r, http.StatusOK, "certificate", "Certificate "+issued.Record.Serial.String(), struct {
		row
		Lineage []row       // oldest first, this one among them
		Follow  bool        // others of its lineage are active or held
		Reasons []ca.Reason // to revoke it for
	}{line[this], line, s.followed(lineage, issued.Record), reasons})
}

// reasons are what a form offers. A hold and a release have forms of their own.
var reasons = []ca.Reason{
	ca.Unspecified, ca.KeyCompromise, ca.Superseded, ca.AffiliationChanged, ca.CessationOfOperation, ca.PrivilegeWithdrawn,
}

// followed reports whether a certificate's lineage has others that can still be revoked.
func (s *Server) followed(lineage []*ca.Record, rec *ca.Record) bool {
	return slices.ContainsFunc(lineage, func(r *ca.Record) bool {
		status := r.Status(s.now())
		return r.Serial != rec.Serial && (status == ca.Active || status == ca.Held)
	})
}

// lineage follows a certificate back to the first that it renews, and forward to all that renewed it, as far
// as the client's newest certificates show it.
func (s *Server) lineage(ctx context.Context, rec *ca.Record) ([]*ca.Record, error) {
	line := []*ca.Record{rec}
	for parent := rec.Parent; !parent.IsZero() && len(line) < ancestors; {
		old, err := s.c.Authority.Certificate(ctx, parent)
		if errors.Is(err, ca.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		line, parent = append([]*ca.Record{old}, line...), old.Parent
	}
	page, err := s.c.Authority.List(ctx, ca.Query{ClientID: rec.ClientID, Limit: 4 * shownRows})
	if err != nil {
		return nil, err
	}
	after := map[ca.Serial]bool{rec.Serial: true}
	for _, next := range slices.Backward(page.Records) { // oldest first, so that each parent was seen already
		if after[next.Parent] {
			after[next.Serial] = true
			line = append(line, next)
		}
	}
	return line, nil
}

// revokeForm is the console's way to revoke. That the form was this console's, admit checked.
func (s *Server) revokeForm(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return refuse(badRequest, "malformed form")
	}
	reason := r.PostForm.Get("reason")
	undone := reason == ca.CertificateHold.String() || reason == ca.RemoveFromCRL.String()
	if !undone && !r.PostForm.Has("sure") { // a box that is not ticked is not sent
		return refuse(badRequest, "a revocation cannot be taken back: tick the box that says so")
	}
	lineage := r.PostForm.Has("lineage")
	done, err := s.revoke(r, client.Revocation{Reason: reason, Lineage: &lineage})
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/console/certificates/"+done.Record.Serial.String(), http.StatusSeeOther)
	return nil
}

func (s *Server) clientsPage(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r, "cursor")
	if q.err != nil {
		return q.err
	}
	found, next, err := s.clientPage(r, q.text("cursor"), shownRows)
	if err != nil {
		return err
	}
	var records []client.ClientRecord
	for _, c := range found {
		records = append(records, clientOf(c))
	}
	return s.render(w, r, http.StatusOK, "clients", "Clients", struct {
		Clients []client.ClientRecord
		Cursor  string // of this page
		Next    template.URL
	}{records, q.text("cursor"), with(nil, "cursor", next)})
}

func (s *Server) disableForm(w http.ResponseWriter, r *http.Request) error {
	return s.switchClient(w, r, true)
}

func (s *Server) enableForm(w http.ResponseWriter, r *http.Request) error {
	return s.switchClient(w, r, false)
}

// switchClient disables or enables the client that the path names, and goes back to the page with its form.
func (s *Server) switchClient(w http.ResponseWriter, r *http.Request, disabled bool) error {
	id, err := pathVariable(r, "id")
	if err != nil {
		return err
	}
	if err := r.ParseForm(); err != nil {
		return refuse(badRequest, "malformed form")
	}
	if _, err := s.c.Clients.Change(r.Context(), id, func(c *authserver.Client) error {
		c.Disabled = disabled
		return nil
	}); err != nil {
		return err
	}
	to := url.URL{Path: "/console/clients", RawQuery: string(with(nil, "cursor", r.PostForm.Get("cursor")))}
	http.Redirect(w, r, to.String(), http.StatusSeeOther)
	return nil
}

// auditPage shows the newest entries before one, or the newest of all, newest first.
func (s *Server) auditPage(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r, "before")
	before := q.number("before", 0, 1<<53)
	if q.err != nil {
		return q.err
	}
	head, err := s.c.Audit.AuditHead(r.Context())
	if err != nil {
		return err
	}
	back := 0 < before && before <= head.Seq
	if !back {
		before = head.Seq + 1
	}
	rows := min(before-1, shownRows)
	entries, err := s.c.Audit.Audit(r.Context(), before-1-rows, int(rows))
	if err != nil {
		return err
	}
	slices.Reverse(entries)
	data := struct {
		Entries []audit.Entry
		Older   uint64 // before which entry; 0: there are none
		Back    bool   // there are newer ones
	}{Entries: entries, Back: back}
	if rows > 0 && before-rows > 1 {
		data.Older = before - rows
	}
	return s.render(w, r, http.StatusOK, "audit", "Audit log", data)
}

// with is a query string of the parameters that are set and one more, or nothing if that is empty.
func with(values url.Values, name, value string) template.URL {
	if value == "" {
		return ""
	}
	out := filter(values)
	out.Set(name, value)
	return template.URL(out.Encode()) //nolint:gosec // Encode escaped what a URL or HTML could take amiss
}

// filter leaves out what a form sends empty.
func filter(values url.Values) url.Values {
	out := url.Values{}
	for name := range values {
		if v := values.Get(name); v != "" {
			out.Set(name, v)
		}
	}
	return out
}
