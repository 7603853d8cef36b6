package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// spending is that an invitation gave a certificate.
type spending struct {
	ca.Spend
	serial ca.Serial
}

var errNoInvitation = fmt.Errorf("%w: there is none with that id", enroll.ErrInvitation)

// spentError reads how an invitation was spent; nil if it was not.
func spentError(id string, serial, use []byte) (*ca.SpentError, error) {
	if serial == nil {
		return nil, nil //nolint:nilnil // not spent, and no error
	}
	e := &ca.SpentError{Spend: ca.Spend{ID: id}}
	return e, errors.Join(fill(e.Serial[:], serial), fill(e.Use[:], use))
}

// What changes touch.
func theCertificate(s ca.Serial) string { return "certificate " + string(s[:]) }
func theInvitation(id string) string    { return "invitation " + id }

// Insert implements ca.Store.
func (s *Store) Insert(ctx context.Context, rec *ca.Record, spend *ca.Spend, ev audit.Event) error {
	if rec.Thumbprint != thumbprint.OfDER(rec.DER) {
		return fmt.Errorf("certificate %s: thumbprint %s is not that of its DER", rec.Serial, rec.Thumbprint)
	}
	if err := errors.Join(
		checkID("issuer", rec.Issuer),
		checkID("client", rec.ClientID),
		checkTexts("certificate "+rec.Serial.String(), append([]string{rec.Profile}, rec.Names...)...),
	); err != nil {
		return err
	}
	touches := []string{theCertificate(rec.Serial)}
	if spend != nil {
		if !isText(spend.ID) {
			return errNoInvitation
		}
		touches = append(touches, theInvitation(spend.ID))
	}
	return s.update(ctx, change{
		touches: touches,
		read: func(q *reads) {
			q.serials = append(q.serials, rec.Serial[:])
			if spend != nil {
				q.rights = append(q.rights, spend.ID)
			}
		},
		apply: func(t *tx) error {
			if err := t.unspent(spend); err != nil {
				return err
			}
			if t.taken[rec.Serial] {
				return fmt.Errorf("%w: %s", ca.ErrDuplicate, rec.Serial)
			}
			if spend != nil {
				t.spends = append(t.spends, spending{*spend, rec.Serial})
			}
			t.certificates = append(t.certificates, rec)
			t.seal(ev)
			return nil
		},
	})
}

// unspent checks the right that a certificate is to use up, if it uses up one. The errors are enroll.ErrInvitation
// and *ca.SpentError.
func (t *tx) unspent(spend *ca.Spend) error {
	if spend == nil {
		return nil
	}
	spent, exists := t.spent[spend.ID]
	switch {
	case !exists:
		return errNoInvitation
	case spent != nil:
		return spent
	}
	return nil
}

// checkTexts refuses what a text column cannot hold.
func checkTexts(of string, texts ...string) error {
	for _, s := range texts {
		if !isText(s) {
			return fmt.Errorf("%s: %.40q is not UTF-8 without NUL", of, s)
		}
	}
	return nil
}

const (
	insertSQL = `
		INSERT INTO certificates (serial, not_before, not_after, issued_at, shard, issuer, client_id, profile,
			thumbprint, parent, names, search, der)
		SELECT serial, not_before, not_after, issued_at, shard, issuer, client_id, profile,
			thumbprint, parent, names::jsonb, search, der
		FROM unnest($1::bytea[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::text[],
			$7::text[], $8::text[], $9::bytea[], $10::bytea[], $11::text[], $12::text[], $13::bytea[])
		AS row (serial, not_before, not_after, issued_at, shard, issuer, client_id, profile, thumbprint, parent, names, search, der)`
	countSQL = `
		INSERT INTO shards AS old (issuer, shard, certificates, not_after)
		SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[])
		ON CONFLICT (issuer, shard) DO UPDATE SET
			certificates = old.certificates + excluded.certificates,
			not_after = greatest(old.not_after, excluded.not_after)`
	spendSQL = `
		UPDATE invitations AS i SET spent_serial = s.serial, spent_use = s.use
		FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS s (id, serial, use) WHERE i.id = s.id`
)

// queueCertificates adds what Inserts brought.
func (t *tx) queueCertificates(b *pgx.Batch) {
	if len(t.certificates) == 0 {
		return
	}
	var c columns
	counts := map[crl.Shard]ca.ShardCount{}
	for _, r := range t.certificates {
		c.add(r)
		shard := crl.Shard{Issuer: r.Issuer, Number: r.Shard}
		n := counts[shard]
		if n.Certificates++; n.Certificates == 1 || r.NotAfter.After(n.NotAfter) {
			n.NotAfter = r.NotAfter
		}
		counts[shard] = n
	}
	b.Queue(insertSQL, c.serials, c.notBefores, c.notAfters, c.issuedAts, c.shards, c.issuers, c.clients, c.profiles,
		c.thumbprints, c.parents, c.names, c.searches, c.ders)
	t.queueCounts(b, counts)
	if len(t.spends) > 0 {
		var ids []string
		var serials, uses [][]byte
		for i := range t.spends {
			s := &t.spends[i]
			ids, serials, uses = append(ids, s.ID), append(serials, s.serial[:]), append(uses, s.Use[:])
		}
		b.Queue(spendSQL, ids, serials, uses)
	}
}

func (t *tx) queueCounts(b *pgx.Batch, counts map[crl.Shard]ca.ShardCount) {
	var issuers []string
	var shards, ns []int64
	var ends []time.Time
	for shard, n := range counts {
		issuers, shards = append(issuers, shard.Issuer), append(shards, int64(shard.Number))
		ns, ends = append(ns, int64(n.Certificates)), append(ends, n.NotAfter)
	}
	b.Queue(countSQL, issuers, shards, ns, ends)
}

// columns are certificates, turned on their side.
type columns struct {
	serials, thumbprints, parents, ders         [][]byte
	notBefores, notAfters, issuedAts            []time.Time
	shards                                      []int64
	issuers, clients, profiles, names, searches []string
}

func (c *columns) add(r *ca.Record) {
	var parent []byte
	if !r.Parent.IsZero() {
		parent = r.Parent[:]
	}
	names, _ := json.Marshal(r.Names) // texts can always be encoded
	c.serials, c.thumbprints = append(c.serials, r.Serial[:]), append(c.thumbprints, r.Thumbprint[:])
	c.parents, c.ders = append(c.parents, parent), append(c.ders, r.DER)
	c.notBefores, c.notAfters = append(c.notBefores, r.NotBefore), append(c.notAfters, r.NotAfter)
	c.issuedAts, c.shards = append(c.issuedAts, r.IssuedAt), append(c.shards, int64(r.Shard))
	c.issuers, c.clients = append(c.issuers, r.Issuer), append(c.clients, r.ClientID)
	c.profiles, c.names = append(c.profiles, r.Profile), append(c.names, string(names))
	c.searches = append(c.searches, searchText(r.Names))
}

// searchText is what a search by name looks through.
func searchText(names []string) string { return strings.ToLower(strings.Join(names, "\n")) }

// recordColumns are those of a certificate c with its revocation r, if it has one, as scanRecord reads them.
const (
	recordColumns = `c.serial, c.not_before, c.not_after, c.issued_at, c.shard, c.issuer, c.client_id, c.profile,
		c.thumbprint, c.parent, c.names, c.der, r.reason, r.revoked_at`
	recordSQL  = "SELECT " + recordColumns + " FROM certificates c LEFT JOIN revocations r USING (serial) WHERE c.serial = $1"
	recordsSQL = "SELECT " + recordColumns + " FROM certificates c LEFT JOIN revocations r USING (serial) WHERE c.serial = ANY($1::bytea[])"
)

func scanRecord(row pgx.CollectableRow) (*ca.Record, error) { return readRecord(row) }

// readRecord reads a row of recordColumns.
func readRecord(row pgx.Row) (*ca.Record, error) {
	r := &ca.Record{}
	var parent []byte
	var names []string
	var reason *int16
	var at *time.Time
	err := row.Scan((*serialValue)(&r.Serial), &r.NotBefore, &r.NotAfter, &r.IssuedAt, &r.Shard, &r.Issuer, &r.ClientID,
		&r.Profile, (*thumbprintValue)(&r.Thumbprint), &parent, &names, &r.DER, &reason, &at)
	if err != nil {
		return nil, err
	}
	if parent != nil {
		err = fill(r.Parent[:], parent)
	}
	r.NotBefore, r.NotAfter, r.IssuedAt, r.Names = r.NotBefore.UTC(), r.NotAfter.UTC(), r.IssuedAt.UTC(), names
	if reason != nil && at != nil {
		r.Revocation = &ca.Revocation{Reason: ca.Reason(*reason), At: at.UTC()}
	}
	return r, err
}

type thumbprintValue thumbprint.Cert

func (t *thumbprintValue) ScanBytes(b []byte) error { return fill(t[:], b) }

// Certificate implements ca.Store.
func (s *Store) Certificate(ctx context.Context, serial ca.Serial) (*ca.Record, error) {
	rec, found, err := s.records.get(ctx, serial)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%w: %s", ca.ErrNotFound, serial)
	}
	return rec, nil
}

func findRecords(ctx context.Context, conn *pgx.Conn, serials []ca.Serial) (map[ca.Serial]*ca.Record, error) {
	keys := make([][]byte, len(serials))
	for i := range serials {
		keys[i] = serials[i][:]
	}
	rows, err := conn.Query(ctx, recordsSQL, keys)
	return collect(rows, err, func(row pgx.CollectableRow) (ca.Serial, *ca.Record, error) {
		rec, err := readRecord(row)
		if err != nil {
			return ca.Serial{}, nil, err
		}
		return rec.Serial, rec, nil
	})
}

// Shards implements ca.Store.
func (s *Store) Shards(ctx context.Context, issuer string) ([]ca.ShardCount, error) {
	if !isText(issuer) {
		return nil, nil
	}
	var all []ca.ShardCount
	err := s.view(ctx, "reading an issuer's counts", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT shard, certificates, not_after FROM shards WHERE issuer = $1 ORDER BY shard", issuer)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c ca.ShardCount, err error) {
			err = row.Scan(&c.Number, &c.Certificates, &c.NotAfter)
			c.NotAfter = c.NotAfter.UTC()
			return c, err
		})
		return err
	})
	return all, err
}
