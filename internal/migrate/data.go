// Package migrate moves everything that one store holds into another, of another engine, and proves that all of it
// arrived as it was.
//
// A store gives up what it has as Data, kind by kind and row by row, so that no side need hold more than a row of each.
// The other takes it in as one transaction, and shows what it has before that is committed: what differs in number or
// content is told, and nothing was changed.
package migrate

import (
	"iter"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// Data is all that a store holds. An error ends a sequence. Each may be walked more than once, and says the same then:
// nobody else has the store. Rows come in any order, but for Changes, by position, and Audit, by number.
type Data struct {
	Meta         Meta
	Certificates iter.Seq2[*ca.Record, error] // with their revocations
	Changes      iter.Seq2[Change, error]
	CRLs         iter.Seq2[crl.Signed, error] // the newest of each shard; without DER where that was lost
	Shards       iter.Seq2[Shard, error]
	Invitations  iter.Seq2[*enroll.Invitation, error] // with what they were spent for
	Clients      iter.Seq2[*authserver.Client, error]
	Tokens       iter.Seq2[Once, error] // that were revoked; the key is the SHA-256 of the token's id
	Uses         iter.Seq2[Once, error] // of DPoP proofs and assertions, as tokenbind.Replay has them
	Audit        iter.Seq2[audit.Entry, error]
	Keys         iter.Seq2[keyring.Key, error]
}

// Meta is what there is once.
type Meta struct {
	Identity  string     // of the CA that the store belongs to
	AuditBase audit.Head // that the oldest entry follows: zero until something was dropped
	AuditHead audit.Head // the end of the log
	Position  uint64     // of the newest change that there ever was
	Restored  time.Time  // when the store was brought back from a backup; zero if never
}

// Change is one of the log of changes, and whose.
type Change struct {
	Shard crl.Shard
	crl.Change
}

// Shard is what is counted of the certificates that name a CRL.
type Shard struct {
	Issuer string
	ca.ShardCount
}

// Once is a key that counts until an instant.
type Once struct {
	Key   [32]byte
	Until time.Time
}
