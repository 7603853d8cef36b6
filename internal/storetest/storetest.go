// Package storetest is the contract of a store engine, as tests: what the interfaces' comments promise, each
// engine shows by passing Run. The engines share this and no code.
package storetest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// Engine is everything that a store does for pkid.
type Engine interface {
	ca.Store
	crl.Store
	crl.Revocations
	enroll.Store
	authserver.ClientStore
	authserver.RevokedTokens
	tokenbind.Replay
	keyring.Store
	audit.Archive

	// Record seals an event that changes nothing else in the store.
	Record(ctx context.Context, ev audit.Event) error
	// Audit returns the entries after a sequence number, oldest first, at most limit.
	Audit(ctx context.Context, after uint64, limit int) ([]audit.Entry, error)
	// An entry that is not readable any more comes with its Seq and without content, so that audit.Verify names it.
	// AuditHead returns the end of the audit log.
	AuditHead(ctx context.Context) (audit.Head, error)
	// RevokedTokens returns until when revoked tokens count, by the SHA-256 of their ids: at most limit of those that have
	// not expired by now.
	RevokedTokens(ctx context.Context, now time.Time, limit int) (map[[32]byte]time.Time, error)
	// Prune drops at most limit things that are past their time at now, and returns how many of each kind. If that is
	// limit in all, there may be more.
	//
	// Replay records and ids of revoked tokens go when their own instant is past, invitations keep.Invitations after they
	// expired, changes ca.KeepChanges after they were made, the oldest first and none after one that stays, and
	// certificates keep.Certificates after they expired, with their revocations. A revoked certificate stays until the
	// newest CRL of its shard was signed after it expired: it stands on one that late. No such list comes any more, and
	// it may go, when its shard is over: keep.Certificates is past since the shard's last certificate expired and since
	// its list's nextUpdate. Then the shard's counts and its CRL go too, once no revocation of it is left; but an
	// issuer's shard with the highest number stays, so that a number is never used again.
	//
	// ca.PruneEvent of what was dropped is sealed in the same transaction, unless no certificate was among it.
	Prune(ctx context.Context, now time.Time, keep ca.Retention, limit int) (ca.Pruned, error)
	// MarkRestored remembers that the store was brought back from a backup at an instant, and Restored returns the newest
	// such instant, to the millisecond; zero if there was none.
	MarkRestored(ctx context.Context, at time.Time, ev audit.Event) error
	Restored(ctx context.Context) (time.Time, error)
	// Close waits for what is under way. Nothing may be called afterwards but Close.
	Close() error
}

// Open opens the store that lives at dir, an empty directory at first, on the system's clock. Opened again
// after Close, it holds what it held.
type Open func(t *testing.T, dir string) Engine

// Run runs the contract against an engine.
func Run(t *testing.T, open Open) {
	for _, group := range []map[string]func(*testing.T, *store){
		certificateTests, listTests, statusTests, changeTests, enrolmentTests, clientTests, onceTests, auditTests, keyringTests, pruneTests,
		archiveTests, restoredTests,
	} {
		for name, test := range group {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := &store{open: open, dir: t.TempDir()}
				s.Engine = open(t, s.dir)
				t.Cleanup(func() {
					if err := s.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				})
				test(t, s)
				verifyChain(t, s)
			})
		}
	}
}

// store is an engine under test.
type store struct {
	Engine
	open Open
	dir  string
}

// reopen closes the engine and opens it again.
func (s *store) reopen(t *testing.T) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	s.Engine = s.open(t, s.dir)
}

// start is the instant that the records of these tests are made around: now, in whole seconds.
var start = time.Now().UTC().Truncate(time.Second)

const issuerID = "0123456789abcdef"

// record returns a certificate of a client, issued at start plus an offset, valid for a day. Its DER is
// noise: a store must not look into it.
func record(clientID string, offset time.Duration, change ...func(*ca.Record)) *ca.Record {
	issued := start.Add(offset).Truncate(time.Millisecond)
	r := &ca.Record{
		Issuer: issuerID, ClientID: clientID, Profile: "client",
		NotBefore: issued.Add(-time.Minute).Truncate(time.Second),
		NotAfter:  issued.Add(24 * time.Hour).Truncate(time.Second),
		IssuedAt:  issued,
		Names:     []string{clientID, clientID + ".example.com"},
		DER:       noise(300),
	}
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(issued.UnixMilli()))
	copy(r.Serial[:6], ms[2:])
	copy(r.Serial[6:], noise(10))
	for _, f := range change {
		f(r)
	}
	r.Thumbprint = thumbprint.OfDER(r.DER)
	return r
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// event returns an audit event about a subject.
func event(action, subject string) audit.Event {
	return audit.Event{
		Time: start, Action: action, Subject: subject,
		Actor:  audit.Actor{Name: "operator", Address: "192.0.2.1", RequestID: "r-1"},
		Detail: map[string]string{"why": "test", "client": subject},
	}
}

// insert keeps records.
func insert(t *testing.T, s *store, recs ...*ca.Record) {
	t.Helper()
	for _, r := range recs {
		if err := s.Insert(t.Context(), r, nil, event(audit.Issue, r.Serial.String())); err != nil {
			t.Fatalf("Insert: %v", err)
		}
	}
}

// revoke sets a record's revocation; nil releases it.
func revoke(t *testing.T, s *store, serial ca.Serial, rev *ca.Revocation) *ca.Record {
	t.Helper()
	rec, err := s.Decide(t.Context(), serial, func(*ca.Record) (*ca.Revocation, audit.Event, error) {
		return rev, event(audit.Revoke, serial.String()), nil
	})
	if err != nil {
		t.Fatalf("Decide: %v", err)
	}
	return rec
}

// together calls f from n goroutines at once and returns its errors by index.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-gate
			errs[i] = f(i)
		})
	}
	close(gate)
	wg.Wait()
	return errs
}

// winner returns the index of the one nil error, and checks that every other passes lost.
func winner(t *testing.T, errs []error, lost func(error) bool) int {
	t.Helper()
	won := slices.Index(errs, nil)
	if won < 0 {
		t.Fatalf("nobody won: %v", errs)
	}
	for i, err := range errs {
		if i != won && (err == nil || !lost(err)) {
			t.Fatalf("beside the winner %d, caller %d got %v", won, i, err)
		}
	}
	return won
}

// readAudit reads the whole log, as far as it is kept, in small pages.
func readAudit(t *testing.T, s *store) []audit.Entry {
	t.Helper()
	var all []audit.Entry
	for after := base(t, s).Seq; ; {
		page, err := s.Audit(t.Context(), after, 7)
		if err != nil {
			t.Fatalf("Audit(%d): %v", after, err)
		}
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		after = all[len(all)-1].Seq
	}
}

// base returns the head that the kept log follows.
func base(t *testing.T, s *store) audit.Head {
	t.Helper()
	base, err := s.AuditBase(t.Context())
	if err != nil {
		t.Fatalf("AuditBase: %v", err)
	}
	return base
}

// verifyChain checks that every entry follows the one before it, up to the head.
func verifyChain(t *testing.T, s *store) {
	t.Helper()
	head := base(t, s)
	for _, e := range readAudit(t, s) {
		var err error
		if head, err = audit.Verify(head, e); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.AuditHead(t.Context()); err != nil || got != head {
		t.Fatalf("AuditHead = %v, %v; the log ends with %v", got, err, head)
	}
}

// acts returns the length of the log.
func acts(t *testing.T, s *store) int {
	t.Helper()
	head, err := s.AuditHead(t.Context())
	if err != nil {
		t.Fatalf("AuditHead: %v", err)
	}
	return int(head.Seq)
}

func newID() string { return hex.EncodeToString(noise(16)) }

func subject(i int) string { return fmt.Sprintf("client-%03d", i) }
