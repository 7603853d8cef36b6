package pgstore

import (
	"context"
	"encoding/json"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/internal/audit"
)

// entryBody is what an entry says, as it is kept. Its number and hash are columns beside it, and the hash of the entry
// before is in that one's row.
type entryBody struct {
	Time      time.Time         `json:"time"`
	Actor     string            `json:"actor"`
	Address   string            `json:"address,omitempty"`
	RequestID string            `json:"request_id,omitempty"`
	Action    string            `json:"action"`
	Subject   string            `json:"subject"`
	Detail    map[string]string `json:"detail,omitempty"`
}

const addEntriesSQL = "INSERT INTO audit (seq, hash, body) SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[])"

// queueEntries adds what was sealed to the log.
func (t *tx) queueEntries(b *pgx.Batch) {
	seqs, hashes, bodies := make([]int64, len(t.entries)), make([][]byte, len(t.entries)), make([][]byte, len(t.entries))
	for i := range t.entries {
		e := &t.entries[i]
		seqs[i], hashes[i], bodies[i] = int64(e.Seq), e.Hash[:], encodeEntry(e)
	}
	b.Queue(addEntriesSQL, seqs, hashes, bodies)
}

func encodeEntry(e *audit.Entry) []byte {
	b, err := json.Marshal(entryBody{e.Time, e.Actor, e.Address, e.RequestID, e.Action, e.Subject, e.Detail})
	if err != nil {
		panic("pgstore: a sealed entry is always encodable: " + err.Error())
	}
	return b
}

func decodeEntry(is audit.Head, prev audit.Hash, body []byte) audit.Entry {
	e := audit.Entry{Seq: is.Seq, Prev: prev, Hash: is.Hash}
	var v entryBody
	if json.Unmarshal(body, &v) == nil {
		e.Time, e.Actor, e.Address, e.RequestID = v.Time, v.Actor, v.Address, v.RequestID
		e.Action, e.Subject, e.Detail = v.Action, v.Subject, v.Detail
	}
	return e
}

// Record seals an event that changes nothing else in the store, such as ca.init.
func (s *Store) Record(ctx context.Context, ev audit.Event) error {
	return s.update(ctx, change{apply: func(t *tx) error {
		t.seal(ev)
		return nil
	}})
}

// entriesSQL reads one entry more at the front, for the hash that the first one follows. Where that was archived and
// dropped, it is the head's base.
const entriesSQL = `
	(SELECT base_seq AS seq, base_hash AS hash, NULL::bytea AS body FROM head WHERE base_seq >= $1 AND base_seq > 0)
	UNION ALL
	(SELECT seq, hash, body FROM audit WHERE seq >= $1 ORDER BY seq LIMIT $2)
	ORDER BY seq`

// Audit returns the entries after a sequence number, oldest first, at most limit. Where one is missing, the next has no
// Prev; one that is not readable has a number and no content. audit.Verify finds both.
func (s *Store) Audit(ctx context.Context, after uint64, limit int) ([]audit.Entry, error) {
	if after >= math.MaxInt64 || limit < 1 {
		return nil, nil
	}
	var out []audit.Entry
	err := s.view(ctx, "reading the audit log", func(ctx context.Context, conn *pgx.Conn) error {
		out = nil
		var last audit.Head
		var seq uint64
		var hash, body []byte
		rows, err := conn.Query(ctx, entriesSQL, int64(after), limit+1)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, []any{&seq, &hash, &body}, func() error {
			if last.Seq+1 != seq {
				last.Hash = audit.Hash{} // the one before is missing
			}
			now := audit.Head{Seq: seq}
			copy(now.Hash[:], hash) // one of another length does not verify
			if seq > after && len(out) < limit && body != nil {
				out = append(out, decodeEntry(now, last.Hash, body))
			}
			last = now
			return nil
		})
		return err
	})
	return out, err
}

// AuditHead returns the end of the audit log.
func (s *Store) AuditHead(ctx context.Context) (audit.Head, error) {
	var head audit.Head
	err := s.view(ctx, "reading the audit log's head", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT seq, hash FROM head").Scan(&head.Seq, (*hashValue)(&head.Hash))
	})
	return head, err
}
