package pgstore

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/ca"
)

// A List goes down an index by serial in steps, and looks at a step's certificates one by one. The first step is small,
// since most pages are full soon; a filter that matches one in a million makes them larger. maxVisits bounds what one
// List looks at, so that no query takes long: a page that ends there is short, maybe empty, and has a cursor.
const (
	firstStep  = 1_000
	stepFactor = 4
	maxVisits  = 50_000
)

// List implements ca.Store. A cursor is the serial of the last record looked at, and the next page starts below it; so
// what is inserted in the meantime, which gets a higher serial, neither repeats nor hides a record.
func (s *Store) List(ctx context.Context, q ca.Query) (*ca.Page, error) {
	below, err := parseCursor(q.Cursor)
	if err != nil {
		return nil, err
	}
	limit := min(max(q.Limit, 1), 1000)
	page := &ca.Page{}
	if !isText(q.ClientID) || !isText(q.Profile) || !isText(q.Name) {
		return page, nil // no certificate has such a one
	}
	err = s.view(ctx, "listing certificates", func(ctx context.Context, conn *pgx.Conn) error {
		w, err := wayOf(ctx, conn, q)
		if err != nil {
			return err
		}
		return w.fill(ctx, conn, page, below, limit)
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// parseCursor returns the bound to list below. The error is ca.ErrCursor.
func parseCursor(cursor string) ([]byte, error) {
	if cursor == "" {
		return bytes.Repeat([]byte{0xff}, len(ca.Serial{})+1), nil // above every serial
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) != len(ca.Serial{}) {
		return nil, ca.ErrCursor
	}
	return b, nil
}

func cursorOf(serial []byte) string { return base64.RawURLEncoding.EncodeToString(serial) }

// way is how a query finds its certificates: along the serials of a table, where each has to pass a filter.
type way struct {
	table  string // that has the serials, and its name as below
	name   string
	joined string // what else a record is made of
	along  []condition
	filter []condition
	span   []condition // of expiry: instead of all of the table, the few certificates in it
}

// condition is SQL with a ? for its argument.
type condition struct {
	sql string
	arg any
}

// where writes conditions, and appends their arguments.
func where(args []any, lists ...[]condition) (string, []any) {
	all := []string{" WHERE true"}
	for _, c := range slices.Concat(lists...) {
		args = append(args, c.arg)
		all = append(all, strings.Replace(c.sql, "?", fmt.Sprintf("$%d", len(args)), 1))
	}
	return strings.Join(all, " AND "), args
}

// fill makes the page. It may be called again with the same one.
func (w *way) fill(ctx context.Context, conn *pgx.Conn, page *ca.Page, below []byte, limit int) error {
	*page = ca.Page{}
	for left, step := maxVisits, firstStep; ; step *= stepFactor {
		step = min(step, left)
		end, err := w.end(ctx, conn, below, step)
		if err != nil {
			return err
		}
		found, err := w.between(ctx, conn, below, end, limit+1-len(page.Records))
		if err != nil {
			return err
		}
		page.Records = append(page.Records, found...)
		left -= step
		switch {
		case len(page.Records) > limit:
			page.Records = page.Records[:limit]
			page.Next = cursorOf(page.Records[limit-1].Serial[:])
			return nil
		case end == nil:
			return nil
		case left == 0:
			page.Next = cursorOf(end)
			return nil
		}
		below = end
	}
}

// end returns the serial that is so many steps away; nil if the way ends before, or if it need not be known, since
// every certificate on the way is selected, or there are few.
func (w *way) end(ctx context.Context, conn *pgx.Conn, below []byte, step int) (serial []byte, err error) {
	if len(w.filter) == 0 || len(w.span) > 0 {
		return nil, nil
	}
	conditions, args := where([]any{step - 1}, w.along, []condition{{w.name + ".serial < ?", below}})
	sql := "SELECT " + w.name + ".serial FROM " + w.table + conditions + " ORDER BY 1 DESC OFFSET $1 LIMIT 1"
	err = conn.QueryRow(ctx, sql, args...).Scan(&serial)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return serial, err
}

// between returns what is selected of the certificates from end, or the end of the way, to below; at most limit.
func (w *way) between(ctx context.Context, conn *pgx.Conn, below, end []byte, limit int) ([]*ca.Record, error) {
	bounds := []condition{{w.name + ".serial < ?", below}}
	if end != nil {
		bounds = append(bounds, condition{w.name + ".serial >= ?", end})
	}
	table, args := w.table, []any{limit}
	if len(w.span) > 0 { // by its own index, and not in the order of serials: OFFSET keeps the planner from that
		var conditions string
		conditions, args = where(args, w.span)
		table = "(SELECT serial FROM certificates c" + conditions + " OFFSET 0) e JOIN certificates c USING (serial)"
	}
	conditions, args := where(args, w.along, bounds, w.filter)
	sql := "SELECT " + recordColumns + " FROM " + table + w.joined + conditions + " ORDER BY " + w.name + ".serial DESC LIMIT $1"
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanRecord)
}

// wayOf takes the narrowest way that fits: by thumbprint or client; along what is revoked; or along a span of expiry,
// if it has few enough certificates to sort; else along all.
func wayOf(ctx context.Context, conn *pgx.Conn, q ca.Query) (*way, error) {
	w := &way{table: "certificates c", name: "c", joined: " LEFT JOIN revocations r USING (serial)", filter: filterOf(q)}
	expiry := expiryOf(q)
	switch {
	case !q.Thumbprint.IsZero():
		w.along = append(w.along, condition{"c.thumbprint = ?", q.Thumbprint[:]})
	case q.ClientID != "":
		w.along = append(w.along, condition{"c.client_id = ?", q.ClientID})
	case q.Status == ca.Revoked || q.Status == ca.Held:
		w.table, w.name, w.joined = "revocations r", "r", " JOIN certificates c USING (serial)"
	case len(expiry) > 0:
		few, err := isFew(ctx, conn, expiry)
		if err != nil {
			return nil, err
		}
		if few {
			w.span, w.name, expiry = expiry, "e", nil
		}
	}
	w.filter = append(w.filter, expiry...)
	if !q.After.IsZero() {
		w.along = append(w.along, condition{w.name + ".serial > ?", q.After[:]})
	}
	return w, nil
}

func filterOf(q ca.Query) (f []condition) {
	if !q.Thumbprint.IsZero() && q.ClientID != "" {
		f = append(f, condition{"c.client_id = ?", q.ClientID})
	}
	if q.Profile != "" {
		f = append(f, condition{"c.profile = ?", q.Profile})
	}
	if q.Renewal {
		f = append(f, condition{"(c.parent IS NOT NULL) = ?", true})
	}
	if q.Name != "" {
		f = append(f, condition{"c.search LIKE ?", "%" + likeEscaper.Replace(searchText([]string{q.Name})) + "%"})
	}
	const hold = int16(ca.CertificateHold)
	switch q.Status {
	case ca.Revoked:
		f = append(f, condition{"r.reason <> ?", hold})
	case ca.Held:
		f = append(f, condition{"r.reason = ?", hold})
	case ca.Active:
		f = append(f, condition{"r.serial IS NULL AND c.not_after >= ?", instant(q.Now)})
	case ca.Expired:
		f = append(f, condition{"r.serial IS NULL AND c.not_after < ?", instant(q.Now)})
	}
	return f
}

// likeEscaper takes from a pattern of LIKE what would stand for something else.
var likeEscaper = strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`)

func expiryOf(q ca.Query) (e []condition) {
	if !q.ExpiresAfter.IsZero() {
		e = append(e, condition{"c.not_after >= ?", instant(q.ExpiresAfter)})
	}
	if !q.ExpiresBefore.IsZero() {
		e = append(e, condition{"c.not_after < ?", instant(q.ExpiresBefore)})
	}
	return e
}

// instant rounds up to what PostgreSQL has of a time, microseconds. A certificate's times are whole seconds, so none
// lies between.
func instant(t time.Time) time.Time { return t.Add(time.Microsecond - 1).Truncate(time.Microsecond) }

// isFew reports whether a span of expiry has no more certificates than a List looks at.
func isFew(ctx context.Context, conn *pgx.Conn, expiry []condition) (bool, error) {
	conditions, args := where([]any{maxVisits + 1}, expiry)
	n := 0
	err := conn.QueryRow(ctx, "SELECT count(*) FROM (SELECT FROM certificates c"+conditions+" LIMIT $1) AS few", args...).Scan(&n)
	return n <= maxVisits, err
}
