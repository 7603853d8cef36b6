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
		var last ca.Serial
		for found, err := range t.candidates(q, bound) {
			if err != nil {
				return err
			}
			if bytes.Compare(found.serial[:], q.After[:]) <= 0 {
				return nil // and so are all that follow
			}
			if len(page.Records) == limit || visits == maxVisits {
				page.Next = base64.RawURLEncoding.EncodeToString(last[:])
				return nil
			}
			if visits++; visits%1024 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			last = found.serial
			r, err := t.certificateRecord(found.serial, found.value)
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
			rec, err := r.copy(rev)
			if err != nil {
				return err
			}
			if q.Thumbprint.IsZero() || rec.Thumbprint == q.Thumbprint {
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
		(q.Profile == "" || r.profile == q.Profile) &&
		(!q.Renewal || !r.parent.IsZero()) &&
		(q.ExpiresAfter.IsZero() || !r.expiry().Before(q.ExpiresAfter)) &&
		(q.ExpiresBefore.IsZero() || r.expiry().Before(q.ExpiresBefore)) &&
		(len(lowerName) == 0 || r.hasName(lowerName))
}

func (r *record) expiry() time.Time { return time.Unix(r.notAfter, 0).UTC() }

func (r *record) hasName(lower []byte) bool {
	found := false
	r.eachName(func(name []byte) bool {
		found = bytes.Contains(bytes.ToLower(name), lower)
		return !found
	})
	return found
}

// candidate is a certificate that may be one of those that are looked for.
type candidate struct {
	serial ca.Serial
	value  []byte
}

// candidates yields certificates with serials below bound, newest first, among them all that q selects. An error
// ends it. It takes the narrowest way that fits: by thumbprint or client; revocations and a span of expiry are
// gathered and sorted, if there are few enough of them; else it walks all certificates.
func (t *tx) candidates(q ca.Query, bound []byte) iter.Seq2[candidate, error] {
	switch {
	case !q.Thumbprint.IsZero():
		return t.valued(t.hashed(byThumb, thumbHash(q.Thumbprint), q.After, bound))
	case q.ClientID != "":
		return t.valued(t.hashed(byClient, clientHash(q.ClientID), q.After, bound))
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
	return t.all(bound)
}

// valued reads the records of serials, but of those that a block still has and Prune dropped.
func (t *tx) valued(serials iter.Seq2[ca.Serial, error]) iter.Seq2[candidate, error] {
	return func(yield func(candidate, error) bool) {
		in := t.b.Bucket(certificates.name)
		for serial, err := range serials {
			value := in.Get(serial[:])
			if value == nil && err == nil {
				continue
			}
			if !yield(candidate{serial, value}, err) {
				return
			}
		}
	}
}

// all walks down all certificates.
func (t *tx) all(bound []byte) iter.Seq2[candidate, error] {
	return func(yield func(candidate, error) bool) {
		c := t.cursor(certificates)
		first := c.Prev
		if k, _ := c.Seek(bound); k == nil {
			first = c.Last
		}
		for k, v := first(); k != nil; k, v = c.Prev() {
			if !yield(candidate{ca.Serial(k), v}, nil) {
				return
			}
		}
	}
}

// gathered sorts the serials at the end of the keys in [from, to) of a bucket. It gives up after maxVisits keys.
func (t *tx) gathered(b bucket, from, to, bound []byte) (iter.Seq2[candidate, error], bool) {
	var serials []ca.Serial
	c, visits := t.cursor(b), 0
	for k, _ := c.Seek(from); k != nil && (to == nil || bytes.Compare(k, to) < 0); k, _ = c.Next() {
		if visits++; visits > maxVisits {
			return nil, false
		}
		if serial := k[len(k)-len(ca.Serial{}):]; bytes.Compare(serial, bound) < 0 {
			serials = append(serials, ca.Serial(serial))
		}
	}
	slices.SortFunc(serials, func(a, b ca.Serial) int { return bytes.Compare(b[:], a[:]) })
	return t.valued(func(yield func(ca.Serial, error) bool) {
		for _, serial := range serials {
			if !yield(serial, nil) {
				return
			}
		}
	}), true
}
