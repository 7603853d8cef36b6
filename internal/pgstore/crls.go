package pgstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/crl"
)

// A list has up to tens of megabytes, and most of it in common with the list before. So its text is kept in blocks that
// are named by their hashes: what a revocation writes, and what another node reads of it, is the blocks that changed.

const (
	maxBlock    = 256 << 10 // octets; a longer part of a list is divided
	maxTransfer = 4 << 20   // octets of blocks that one statement writes
	readBlocks  = 16        // blocks that one statement reads
)

type blockHash [sha256.Size]byte

// block is a part of a list's text.
type block struct {
	hash blockHash
	data []byte
}

// lists remembers the blocks of the newest list of each shard, as this node last wrote or read it. They are the ones
// that the publisher has in memory anyway.
type lists struct {
	mu  sync.Mutex // guards all below
	all map[crl.Shard]*list
}

// list never changes.
type list struct {
	number uint64
	data   map[blockHash][]byte
	hashes map[*byte]block // by where the data are: a part that is in memory already need not be hashed again
}

func (l *lists) get(shard crl.Shard) *list {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.all[shard]; known != nil {
		return known
	}
	return &list{}
}

func (l *lists) keep(shard crl.Shard, number uint64, blocks []block) {
	n := &list{number: number, data: make(map[blockHash][]byte, len(blocks)), hashes: make(map[*byte]block, len(blocks))}
	for _, b := range blocks {
		n.data[b.hash], n.hashes[&b.data[0]] = b.data, b
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[crl.Shard]*list{}
	}
	if old := l.all[shard]; old == nil || old.number < number {
		l.all[shard] = n
	}
}

func (l *lists) drop(shard crl.Shard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, shard)
}

// divide cuts a text into blocks.
func (l *list) divide(der crl.DER) []block {
	var blocks []block
	for _, part := range der {
		for data := range slices.Chunk(part, maxBlock) {
			b, ok := l.hashes[&data[0]]
			if !ok || len(b.data) != len(data) {
				b = block{sha256.Sum256(data), data}
			}
			blocks = append(blocks, b)
		}
	}
	return blocks
}

// join is what divide cut, and which blocks are missing from data.
func join(hashes []byte, data map[blockHash][]byte) (blocks []block, missing [][]byte) {
	seen := map[blockHash]bool{}
	for h := range slices.Chunk(hashes, len(blockHash{})) {
		b := block{hash: blockHash(h)}
		if b.data = data[b.hash]; b.data == nil && !seen[b.hash] {
			missing = append(missing, h)
		}
		seen[b.hash] = true
		blocks = append(blocks, b)
	}
	return blocks, missing
}

const (
	haveBlocksSQL = "SELECT hash FROM crl_blocks WHERE issuer = $1 AND shard = $2 AND hash = ANY($3::bytea[])"
	putBlocksSQL  = `INSERT INTO crl_blocks (issuer, shard, hash, data)
		SELECT $1, $2, hash, data FROM unnest($3::bytea[], $4::bytea[]) AS new (hash, data) ORDER BY hash ON CONFLICT DO NOTHING`

	// The list takes its place if the one before is still the newest and all blocks are there, and takes away those that
	// no list has any more. Whoever took away what this one needs has replaced the list before.
	firstSQL = `
		WITH moved AS (
			INSERT INTO crls (issuer, shard, number, this_update, next_update, blocks, delta)
			SELECT $1, $2, $4, $5, $6, $7, $8 WHERE $3 = 0 AND ` + allThereSQL + `
			ON CONFLICT DO NOTHING RETURNING true
		)` + settleListSQL
	nextSQL = `
		WITH moved AS (
			UPDATE crls SET number = $4, this_update = $5, next_update = $6, blocks = $7, delta = $8
			WHERE issuer = $1 AND shard = $2 AND number = $3 AND ` + allThereSQL + ` RETURNING true
		)` + settleListSQL
	allThereSQL   = `(SELECT count(*) FROM crl_blocks WHERE issuer = $1 AND shard = $2 AND hash = ANY($9::bytea[])) = cardinality($9)`
	settleListSQL = `, dropped AS (
			DELETE FROM crl_blocks WHERE issuer = $1 AND shard = $2 AND hash <> ALL($9::bytea[]) AND EXISTS (SELECT FROM moved)
		)
		SELECT pg_notify('` + channel + `', '` + crlNotice + `') FROM moved`
)

// Replace implements crl.Store.
func (s *Store) Replace(ctx context.Context, prev, next crl.Signed) error {
	if err := checkID("issuer", next.Shard.Issuer); err != nil {
		return err
	}
	blocks := s.lists.get(next.Shard).divide(next.DER)
	hashes := []byte{} // none is not null
	unique := map[blockHash]block{}
	for _, b := range blocks {
		hashes, unique[b.hash] = append(hashes, b.hash[:]...), b
	}
	if err := s.putBlocks(ctx, next.Shard, unique); err != nil {
		return err
	}
	var delta []byte
	if next.Delta != nil {
		delta = next.Delta.Bytes()
	}
	sql := nextSQL
	if prev.Number == 0 {
		sql = firstSQL
	}
	replaced := int64(0)
	err := s.write(ctx, "publishing a CRL", func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, sql, next.Shard.Issuer, int64(next.Shard.Number), int64(prev.Number), int64(next.Number),
			next.ThisUpdate, next.NextUpdate, hashes, delta, hashesOf(unique))
		replaced = tag.RowsAffected()
		return err
	})
	switch {
	case err != nil:
		return err
	case replaced == 0:
		return fmt.Errorf("%w: number %d is not the newest", crl.ErrConflict, prev.Number)
	}
	s.lists.keep(next.Shard, next.Number, blocks)
	return nil
}

func hashesOf(blocks map[blockHash]block) [][]byte {
	out := make([][]byte, 0, len(blocks))
	for h := range blocks {
		out = append(out, h[:])
	}
	return out
}

// putBlocks writes those blocks that are not there. They are nobody's until a list names them.
func (s *Store) putBlocks(ctx context.Context, shard crl.Shard, blocks map[blockHash]block) error {
	there := map[blockHash]bool{}
	err := s.view(ctx, "looking for parts of a CRL", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, haveBlocksSQL, shard.Issuer, int64(shard.Number), hashesOf(blocks))
		if err != nil {
			return err
		}
		var h hashValue
		_, err = pgx.ForEachRow(rows, []any{&h}, func() error {
			there[blockHash(h)] = true
			return nil
		})
		return err
	})
	if err != nil {
		return err
	}
	var hashes, data [][]byte
	size := 0
	flush := func() error {
		defer func() { hashes, data, size = nil, nil, 0 }()
		return s.write(ctx, "keeping a part of a CRL", func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, putBlocksSQL, shard.Issuer, int64(shard.Number), hashes, data)
			return err
		})
	}
	for h, b := range blocks {
		if there[h] {
			continue
		}
		hashes, data, size = append(hashes, b.hash[:]), append(data, b.data), size+len(b.data)
		if size >= maxTransfer {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if size == 0 {
		return nil
	}
	return flush()
}

const latestSQL = `
	SELECT number, this_update, next_update,
		CASE WHEN number <> $3 THEN blocks END, CASE WHEN number <> $3 THEN delta END
	FROM crls WHERE issuer = $1 AND shard = $2`

// Latest implements crl.Store. Blocks that this node has of an earlier list are not read again.
func (s *Store) Latest(ctx context.Context, shard crl.Shard, have uint64) (crl.Signed, error) {
	data := s.lists.get(shard).data
	for before := uint64(0); ; {
		found, hashes, err := s.latest(ctx, shard, have)
		if err != nil || found.Number == have || found.Number == before {
			return found, err
		}
		blocks, missing := join(hashes, data)
		if len(missing) > 0 {
			if data, err = s.fetch(ctx, shard, data, missing); err != nil {
				return crl.Signed{}, err
			}
			blocks, missing = join(hashes, data)
		}
		if len(missing) == 0 {
			for _, b := range blocks {
				found.DER = append(found.DER, b.data)
			}
			s.lists.keep(shard, found.Number, blocks)
			return found, nil
		}
		before = found.Number // replaced meanwhile, or damaged: look again, and once only if it is not replaced
	}
}

// latest reads a list without its text, of which it returns the hashes.
func (s *Store) latest(ctx context.Context, shard crl.Shard, have uint64) (crl.Signed, []byte, error) {
	found := crl.Signed{Shard: shard}
	var hashes, delta []byte
	if !isText(shard.Issuer) {
		return crl.Signed{}, nil, fmt.Errorf("%w: issuer %.40q", crl.ErrNotPublished, shard.Issuer)
	}
	err := s.view(ctx, "reading a CRL", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, latestSQL, shard.Issuer, int64(shard.Number), int64(have)).
			Scan(&found.Number, &found.ThisUpdate, &found.NextUpdate, &hashes, &delta)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		s.lists.drop(shard)
		return crl.Signed{}, nil, fmt.Errorf("%w: issuer %s", crl.ErrNotPublished, shard.Issuer)
	}
	if err == nil && len(hashes)%len(blockHash{}) != 0 {
		err = fmt.Errorf("CRL of issuer %s: %w", shard.Issuer, errDamaged)
	}
	if err != nil {
		return crl.Signed{}, nil, err
	}
	found.ThisUpdate, found.NextUpdate = found.ThisUpdate.UTC(), found.NextUpdate.UTC()
	if delta != nil {
		found.Delta = crl.DER{delta}
	}
	return found, hashes, nil
}

const fetchSQL = "SELECT hash, data FROM crl_blocks WHERE issuer = $1 AND shard = $2 AND hash = ANY($3::bytea[])"

// fetch returns known blocks and, of the missing ones, those that there are.
func (s *Store) fetch(ctx context.Context, shard crl.Shard, known map[blockHash][]byte, missing [][]byte) (map[blockHash][]byte, error) {
	all := make(map[blockHash][]byte, len(known)+len(missing))
	maps.Copy(all, known)
	for some := range slices.Chunk(missing, readBlocks) {
		err := s.view(ctx, "reading a part of a CRL", func(ctx context.Context, conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, fetchSQL, shard.Issuer, int64(shard.Number), some)
			if err != nil {
				return err
			}
			var h hashValue
			var data []byte
			_, err = pgx.ForEachRow(rows, []any{&h, &data}, func() error {
				all[blockHash(h)] = data
				return nil
			})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}
