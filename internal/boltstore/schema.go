package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
)

// schemaVersion is the layout below. A store of another version is refused.
const schemaVersion = 4

// pageSize holds about twelve certificates. A larger page wastes a little less room and makes each commit write more,
// since it writes the last page of each bucket again.
const pageSize = 4 << 10

// bucket is a table. fill is how full bbolt leaves a page that it splits: full where keys only ever grow, since
// nothing comes back to a page left behind; half full where they fall anywhere.
type bucket struct {
	name []byte
	fill float64
}

const (
	rightEdge = 1.0
	anywhere  = bolt.DefaultFillPercent
)

// The layout. Integers in keys are big endian with the sign bit flipped, so that octets sort as numbers do.
//
// A certificate is written at the right edge of each bucket that it goes to: an index by a hash would be written at
// another place for each, and a commit would write a page for every insert once the store is large. blocks.go says
// how clients and thumbprints are found all the same.
var (
	certificates = bucket{[]byte("certificates"), rightEdge} // serial -> record.go's form, written once
	patternsOf   = bucket{[]byte("patterns"), rightEdge}     // id -> issuer, profile, DER; see pattern.go
	blocks       = bucket{[]byte("blocks"), rightEdge}       // number -> what is in it, by client and thumbprint
	spans        = bucket{[]byte("spans"), rightEdge}        // number of a block -> its lowest and highest serial
	byExpiry     = bucket{[]byte("expiry"), rightEdge}       // notAfter in s, serial -> nothing
	revoked      = bucket{[]byte("revoked"), anywhere}       // issuer, NUL, shard, serial -> reason, at in ms, notAfter in s
	revokedThumb = bucket{[]byte("thumbprints"), anywhere}   // thumbprint of what is in revoked -> 1
	changes      = bucket{[]byte("changes"), rightEdge}      // position -> what became of a certificate; see changes.go
	crls         = bucket{[]byte("crl"), anywhere}           // issuer, NUL, shard -> number, times, which text; see crls.go
	shards       = bucket{[]byte("shards"), anywhere}        // issuer, NUL, shard -> certificates that name it, notAfter of the last in s
	invitations  = bucket{[]byte("invitations"), rightEdge}  // id, which begins with the time -> invitations.go's form, written once
	spent        = bucket{[]byte("spent"), anywhere}         // id of an invitation -> serial, use
	clients      = bucket{[]byte("clients"), anywhere}       // id -> JSON
	replays      = bucket{[]byte("replay"), anywhere}        // key -> until in ms
	proofs       = bucket{[]byte("proofs"), rightEdge}       // part -> keys with until in s; see proofs.go
	tokens       = bucket{[]byte("tokens"), anywhere}        // SHA-256(jti) -> until in ms
	due          = bucket{[]byte("due"), rightEdge}          // until in ms, kind, key -> nothing; what Prune drops
	log          = bucket{[]byte("audit"), rightEdge}        // seq -> entry.go's form
	ring         = bucket{[]byte("keyring"), anywhere}       // id of a key -> JSON
	ended        = bucket{[]byte("ended"), anywhere}         // expiry of an invitation in ms, id -> nothing
	thinned      = bucket{[]byte("thinned"), anywhere}       // number of a block -> CRC-32C of it, how many may be gone; see blocks.go
	meta         = bucket{[]byte("meta"), anywhere}          // see below
)

var buckets = []bucket{
	certificates, patternsOf, blocks, spans, byExpiry, revoked, revokedThumb, changes, crls, shards, invitations, spent, clients,
	replays, proofs, tokens, due, log, meta,
}

// later are buckets that came after the first stores of this version. Nothing else changed with them, so a store that
// lacks one gets it when it is opened.
var later = []bucket{ring, ended, thinned}

// Keys of the meta bucket.
var (
	formatKey   = []byte("format")   // formatMark
	schemaKey   = []byte("version")  // schemaVersion
	headKey     = []byte("head")     // the audit log's head: seq, hash
	markKey     = []byte("mark")     // seq of the last audit entry whose certificate is in a block
	baseKey     = []byte("base")     // the audit entry before the oldest that is kept: seq, hash; missing if none was dropped
	ownerKey    = []byte("owner")    // Options.Identity of who created the store
	probeKey    = []byte("probe")    // written to see whether anything can be
	restoredKey = []byte("restored") // when it was brought back from a backup, in ms; missing if never

	formatMark = []byte("pkid store")
)

// tx is a transaction. All writing goes through put and delete, which count, so that the writer knows whether
// a request that failed had changed anything.
type tx struct {
	b        *bolt.Tx
	head     audit.Head // of the audit log; read when the transaction began
	writes   int
	patterns *patterns                // with those that this transaction made
	newest   *newest                  // the certificates that are in no block; durable no later than the transaction began
	added    []indexed                // those that this transaction made
	counts   map[crl.Shard]shardCount // of these
	sound    *sync.Map                // see Store
	endBlock bool                     // the block ends with this transaction, however small it is
}

func (t *tx) get(b bucket, key []byte) []byte { return t.b.Bucket(b.name).Get(key) }

func (t *tx) cursor(b bucket) *bolt.Cursor { return t.b.Bucket(b.name).Cursor() }

// put keeps value, which the caller must not change afterwards.
func (t *tx) put(b bucket, key, value []byte) error {
	t.writes++
	in := t.b.Bucket(b.name)
	in.FillPercent = b.fill
	if err := in.Put(key, value); err != nil {
		return fmt.Errorf("writing to bucket %s: %w", b.name, err)
	}
	return nil
}

func (t *tx) delete(b bucket, key []byte) error {
	t.writes++
	if err := t.b.Bucket(b.name).Delete(key); err != nil {
		return fmt.Errorf("deleting from bucket %s: %w", b.name, err)
	}
	return nil
}

// create lays out an empty file.
func (t *tx) create(identity string) error {
	for _, b := range buckets {
		if _, err := t.b.CreateBucket(b.name); err != nil {
			return fmt.Errorf("creating bucket %s: %w", b.name, err)
		}
	}
	if err := t.createLater(); err != nil {
		return err
	}
	if err := t.put(meta, formatKey, formatMark); err != nil {
		return err
	}
	if err := t.put(meta, schemaKey, ordered(schemaVersion)); err != nil {
		return err
	}
	if err := t.put(meta, ownerKey, []byte(identity)); err != nil {
		return err
	}
	if err := t.put(meta, markKey, ordered(0)); err != nil {
		return err
	}
	return errors.Join(t.put(meta, headKey, encodeHead(audit.Head{})), t.storeProofs(nil, time.Time{}))
}

// createLater makes those buckets of later that are missing.
func (t *tx) createLater() error {
	for _, b := range later {
		if _, err := t.b.CreateBucketIfNotExists(b.name); err != nil {
			return fmt.Errorf("creating bucket %s: %w", b.name, err)
		}
	}
	return nil
}

// lacksLater reports whether one of them is.
func (t *tx) lacksLater() bool {
	return slices.ContainsFunc(later, func(b bucket) bool { return t.b.Bucket(b.name) == nil })
}

// checkIdentity compares whom the store belongs to, if the caller cares.
func (t *tx) checkIdentity(want string) error {
	if m := t.b.Bucket(meta.name); m == nil || want == "" || string(m.Get(ownerKey)) == want {
		return nil
	}
	return fmt.Errorf("%w: it was made for %q, and this is %q", ErrIdentity, t.get(meta, ownerKey), want)
}

// empty reports whether the file was never laid out: it is new, or a crash came before the first commit.
func (t *tx) empty() bool {
	name, _ := t.b.Cursor().First()
	return name == nil
}

// check tells a store of ours from other files. It reads a few pages only, whatever the size of the store:
// the marks, and both ends of the audit log.
func (t *tx) check() error {
	if m := t.b.Bucket(meta.name); m == nil || !bytes.Equal(m.Get(formatKey), formatMark) {
		return fmt.Errorf("%w: it belongs to another program", ErrNotStore)
	}
	if v := t.get(meta, schemaKey); len(v) != 8 {
		return fmt.Errorf("%w: it is damaged: its version is missing", ErrNotStore)
	} else if n := number(v); n > schemaVersion {
		return fmt.Errorf("%w: it has version %d, and this pkid knows %d", ErrNewerSchema, n, schemaVersion)
	} else if n < schemaVersion {
		return fmt.Errorf("%w: it has version %d, and this pkid knows %d: use the pkid that wrote it, or begin anew in an empty directory",
			ErrOlderSchema, n, schemaVersion)
	}
	for _, b := range buckets {
		if t.b.Bucket(b.name) == nil {
			return fmt.Errorf("%w: it is damaged: bucket %s is missing", ErrNotStore, b.name)
		}
	}
	if err := t.loadHead(); err != nil {
		return err
	}
	var last audit.Head
	if k, v := t.cursor(log).Last(); v != nil {
		if len(k) != 8 || len(v) < len(last.Hash) {
			return fmt.Errorf("%w: it is damaged: the last audit entry is not readable", ErrNotStore)
		}
		last = audit.Head{Seq: uint64(number(k)), Hash: audit.Hash(v)}
	}
	if last != t.head {
		return fmt.Errorf("%w: it is damaged: the audit log should end with entry %d and ends with %d", ErrNotStore, t.head.Seq, last.Seq)
	}
	return nil
}

// ordered encodes an integer so that octets sort as numbers do.
func ordered(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)^1<<63) }

// number reads the integer at the start of what ordered wrote.
func number(b []byte) int64 { return int64(binary.BigEndian.Uint64(b) ^ 1<<63) }

// maxID bounds what callers name things by, far below the longest key that bbolt takes.
const maxID = 1024

// checkID refuses what cannot be a key before a transaction begins.
func checkID(kind, id string) error {
	if len(id) == 0 || len(id) > maxID || strings.Contains(id, "\x00") {
		return fmt.Errorf("%s id %.40q: want 1 to %d octets without NUL", kind, id, maxID)
	}
	return nil
}

// join makes a key of its parts.
func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
