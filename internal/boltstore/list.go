package boltstore

import (
	"bytes"
	"context"
	"encoding/base64"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/pkid/pkid/ca"
)

// maxVisits bounds the records that one List looks at, so that a filter that matches one in a million does not
// hold a snapshot, and with it the pages of everything that is overwritten meanwhile, for seconds. A page that
// ends there is short, maybe empty, and has a cursor.
const maxVisits = 50_000

// List implements ca.Store. A cursor is the serial of the last record looked at, and the next page starts
// below it; so what is inserted in the meantime, which gets a higher serial, neither repeats nor hides a record.
func (s *Store) List(ctx context.Context, q ca.Query) (*ca.Page, error) {
	bound, err := parseCursor(q.Cursor)
	if err != nil {
		return nil, err
	}
	limit := min(max(q.Limit, 1), 1000)
	name := bytes.ToLower([]byte(q.Name))
	page := &ca.Page{}
	err = s.view(ctx, func(t *tx) error {
		visits := 0
		var last []byte
		for serial, value := range t.candidates(q, bound) {
			if len(page.Records) == limit || visits == maxVisits {
				page.Next = base64.RawURLEncoding.EncodeToString(last)
				return nil
			}
			if visits++; visits%1024 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			last = serial
			r, err := decodeRecord(ca.Serial(serial), value)
			if err != nil {
				return err
			}
			if !r.matches(q, name) {
				continue
			}
			rev, err := t.revocation(&r)
			if err != nil {
				return err
			}
			if q.Status != "" && (&ca.Record{NotAfter: r.expiry(), Revocation: rev}).Status(q.Now) != q.Status {
				continue
			}
			if rec := r.copy(rev); q.Thumbprint.IsZero() || rec.Thumbprint == q.Thumbprint {
				page.Records = append(page.Records, rec)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// parseCursor returns the bound to list below. The error is ca.ErrCursor.
func parseCursor(cursor string) ([]byte, error) {
	if cursor == "" {
		return noSerial, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) != len(ca.Serial{}) {
		return nil, ca.ErrCursor
	}
	return b, nil
}

// matches applies what needs no other bucket and no copy.
func (r *record) matches(q ca.Query, lowerName []byte) bool {
	return (q.ClientID == "" || string(r.client) == q.ClientID) &&
		(q.Profile == "" || string(r.profile) == q.Profile) &&
		(q.ExpiresAfter.IsZero() || !r.expiry().Before(q.ExpiresAfter)) &&
		(q.ExpiresBefore.IsZero() || r.expiry().Before(q.ExpiresBefore)) &&
		(len(lowerName) == 0 || r.hasName(lowerName))
}

func (r *record) expiry() time.Time { return time.Unix(r.notAfter, 0).UTC() }

func (r *record) hasName(lower []byte) bool {
	for f := (fields{rest: r.names}); len(f.rest) > 0; {
		if bytes.Contains(bytes.ToLower(f.text()), lower) {
			return true
		}
	}
	return false
}

// candidates yields serials below bound with their records, newest first, among them all that q selects. It
// takes the narrowest index that fits: thumbprint and client are in order already; revocations and a span of
// expiry are gathered and sorted, if there are few enough of them; else it walks all certificates.
func (t *tx) candidates(q ca.Query, bound []byte) iter.Seq2[[]byte, []byte] {
	switch {
	case !q.Thumbprint.IsZero():
		return t.indexed(t.descend(byThumbprint, thumbKey(q.Thumbprint), bound))
	case q.ClientID != "":
		return t.indexed(t.descend(byClient, clientKey(q.ClientID), bound))
	}
	if q.Status == ca.Revoked || q.Status == ca.Held {
		if seq, ok := t.gathered(revoked, nil, nil, bound); ok {
			return seq
		}
	}
	if !q.ExpiresAfter.IsZero() || !q.ExpiresBefore.IsZero() {
		from, to := ordered(math.MinInt64), ordered(math.MaxInt64)
		if !q.ExpiresAfter.IsZero() {
			from = ordered(q.ExpiresAfter.Unix())
		}
		if !q.ExpiresBefore.IsZero() {
			to = ordered(q.ExpiresBefore.Unix() + 1) // a fraction of a second counts; matches is exact
		}
		if seq, ok := t.gathered(byExpiry, from, to, bound); ok {
			return seq
		}
	}
	return t.descend(certificates, nil, bound)
}

// indexed turns keys that end with a serial into serials with their records.
func (t *tx) indexed(keys iter.Seq2[[]byte, []byte]) iter.Seq2[[]byte, []byte] {
	return func(yield func(serial, value []byte) bool) {
		for k := range keys {
			serial := k[len(k)-len(ca.Serial{}):]
			if !yield(serial, t.get(certificates, serial)) {
				return
			}
		}
	}
}

// gathered sorts the serials at the end of the keys in [from, to) of a bucket. It gives up after maxVisits keys.
func (t *tx) gathered(b bucket, from, to, bound []byte) (iter.Seq2[[]byte, []byte], bool) {
	var serials [][]byte
	c, visits := t.cursor(b), 0
	for k, _ := c.Seek(from); k != nil && (to == nil || bytes.Compare(k, to) < 0); k, _ = c.Next() {
		if visits++; visits > maxVisits {
			return nil, false
		}
		if serial := k[len(k)-len(ca.Serial{}):]; bytes.Compare(serial, bound) < 0 {
			serials = append(serials, serial)
		}
	}
	slices.SortFunc(serials, func(a, b []byte) int { return bytes.Compare(b, a) })
	return t.indexed(func(yield func(k, v []byte) bool) {
		for _, serial := range serials {
			if !yield(serial, nil) {
				return
			}
		}
	}), true
}
