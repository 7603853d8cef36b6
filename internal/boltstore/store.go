// Package boltstore keeps everything that pkid remembers in one bbolt file: certificates and revocations, CRLs,
// invitations, clients, what may be used once, and the audit log. Only the text of the newest CRLs is in files beside
// it, which may be lost.
//
// *Store implements ca.Store, crl.Store, crl.Revocations, enroll.Store, authserver.ClientStore,
// authserver.RevokedTokens, tokenbind.Replay and keyring.Store. All writes pass through one goroutine, which puts everything
// that waits into one transaction: a hundred callers at once share one fsync, and a single one does not wait
// for company. Reads run beside it, each on a snapshot.
//
// One process has the file open at a time.
package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/durable"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

var (
	// ErrLocked: another process has the file open.
	ErrLocked = errors.New("the store is locked")
	// ErrNotStore: the file is not a store of pkid, or it is damaged. The text says which.
	ErrNotStore = errors.New("not a usable pkid store")
	// ErrNewerSchema: a newer pkid wrote the file. Use that one.
	ErrNewerSchema = errors.New("the store was written by a newer pkid")
	// ErrOlderSchema: an older pkid wrote the file, in a form that is read no more.
	ErrOlderSchema = errors.New("the store was written by an older pkid")
	// ErrIdentity: the store is another CA's.
	ErrIdentity = errors.New("the store belongs to another CA")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the store is closed")
)

// Options of Open; the zero value is fine for a store that exists.
type Options struct {
	// Create lays out a missing or empty file. Without it such a file is an error: what was issued and revoked
	// is gone then, and a CRL made from nothing would give every revoked certificate back.
	Create bool
	// Identity names the CA that the store belongs to. A new store keeps it; opening one that keeps another is
	// ErrIdentity. Empty: not compared.
	Identity string
	Timeout  time.Duration    // how long to wait for another process's lock; 1 s if zero
	Now      func() time.Time // time.Now if nil
}

// Store is an open file. Its methods may be called at once. A closure given to Decide runs inside the writer
// and must not call the store.
type Store struct {
	db   *bolt.DB
	path string
	now  func() time.Time

	damage atomic.Pointer[error] // what was found broken while it was open; see breaks

	// What is durable, put there by the writer after a commit.
	patterns atomic.Pointer[patterns]
	newest   atomic.Pointer[newest]

	sound sync.Map // number of a block -> its CRC-32C, of those that were compared with it

	known  known
	texts  *texts
	proofs *Proofs

	queue  chan *request
	idle   chan struct{} // closed when the writer has ended
	closed bool
	mu     sync.RWMutex // guards closed, and queue against being closed under a sender

	inDoubt    error                 // set and read by the writer only; see commit
	unwritable atomic.Pointer[error] // why the newest commit failed, nil if it did not
}

var _ interface {
	ca.Store
	crl.Store
	crl.Revocations
	enroll.Store
	authserver.ClientStore
	authserver.RevokedTokens
	tokenbind.Replay
	keyring.Store
} = (*Store)(nil)

// Open opens the store at path, or creates it with mode 0600 if o says so; its directory must exist. The errors
// are ErrLocked, ErrNotStore, ErrIdentity, ErrNewerSchema and ErrOlderSchema, beside those of the file system.
func Open(path string, o Options) (*Store, error) {
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{path: path, now: o.Now, queue: make(chan *request, maxBatch), idle: make(chan struct{})}
	s.known.records, s.known.changing = map[string]*authserver.Client{}, map[string]int{}
	if err := s.open(path, o); err != nil {
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	s.texts = newTexts(path + ".crl")
	s.sweepTexts()
	go s.write()
	return s, nil
}

// open opens the file and checks it. bbolt panics on a page that is not what it should be, and touching a page
// that a truncated file lacks is a fault; both are told as a damaged file here. bbolt, interrupted like that,
// keeps the file locked until the process ends.
func (s *Store) open(path string, o Options) (err error) {
	if !o.Create {
		if err := holdsSomething(path); err != nil {
			return err
		}
	}
	if err := checkMark(path); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: it is damaged: %v; restore it from a backup", ErrNotStore, r)
		}
		if err != nil && s.db != nil {
			err = errors.Join(err, s.db.Close())
		}
	}()
	s.db, err = bolt.Open(path, 0o600, &bolt.Options{
		Timeout: o.Timeout, PageSize: pageSize, FreelistType: bolt.FreelistMapType, InitialMmapSize: mapped(),
	})
	switch {
	case err == nil:
		s.db.AllocSize = growth
		if err := prepare(s.db, path, o); err != nil {
			return err
		}
		return s.db.View(s.load)
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%w: another pkid has it open; stop that one first", ErrLocked)
	case isSystem(err):
		return err
	default:
		return fmt.Errorf("%w: its header is not that of a store: %w", ErrNotStore, err)
	}
}

// growth is by how much the file grows at once, beyond what is needed.
const growth = 1 << 20

// mapped is how much room the file is given in the process's addresses, which costs no memory. A file that outgrows it is
// mapped anew, for which bbolt waits until nobody reads, while others wait for it: one slow taker of a Snapshot would
// hold up everybody. Where addresses are few, or mapping makes the file as large, it grows as it has to.
func mapped() int {
	if strconv.IntSize < 64 || runtime.GOOS == "windows" {
		return 0
	}
	size := int64(64 << 30)
	return int(size)
}

// load reads what the store keeps in memory.
func (s *Store) load(b *bolt.Tx) error {
	t := &tx{b: b}
	var err error
	if t.patterns, err = t.loadPatterns(); err != nil {
		return err
	}
	if t.newest, err = t.loadNewest(); err != nil {
		return err
	}
	s.patterns.Store(t.patterns)
	s.newest.Store(t.newest)
	s.proofs, err = t.loadProofs(s)
	return err
}

// sweepTexts takes away the files of CRLs that are no more. One that stays does no harm.
func (s *Store) sweepTexts() {
	var have []crl.Shard
	_ = s.db.View(func(b *bolt.Tx) error {
		return b.Bucket(crls.name).ForEach(func(k, _ []byte) error {
			if n := len(k) - 5; n > 0 {
				have = append(have, crl.Shard{Issuer: string(k[:n]), Number: binary.BigEndian.Uint32(k[n+1:])})
			}
			return nil
		})
	})
	s.texts.sweep(have)
}

// isSystem reports whether err came from the operating system and not from what the file holds.
func isSystem(err error) bool {
	_, ok := errors.AsType[syscall.Errno](err)
	return ok
}

// holdsSomething keeps bbolt from making a file that is missing or empty into a store.
func holdsSomething(path string) error {
	info, err := os.Stat(path) //nolint:gosec // G703: the operator's path
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return errEmpty
	}
	return nil
}

var errEmpty = fmt.Errorf("%w: it is empty; restore it from a backup", ErrNotStore)

// prepare lays out a new file, or checks an old one.
func prepare(db *bolt.DB, path string, o Options) error {
	fresh, lacking := false, false
	err := db.View(func(b *bolt.Tx) error {
		info, err := os.Stat(path) //nolint:gosec // G703: the operator's path
		if err != nil {
			return err
		}
		if info.Size() < b.Size() {
			return fmt.Errorf("%w: it is damaged: it was cut to %d of at least %d octets; restore it from a backup",
				ErrNotStore, info.Size(), b.Size())
		}
		t := &tx{b: b}
		if fresh = t.empty(); fresh && !o.Create {
			return errEmpty
		} else if fresh {
			return nil
		}
		lacking = t.lacksLater()
		return errors.Join(t.check(), t.checkIdentity(o.Identity))
	})
	if err == nil && lacking {
		err = db.Update(func(b *bolt.Tx) error { return (&tx{b: b}).createLater() })
	}
	if err != nil || !fresh {
		return err
	}
	if err := db.Update(func(b *bolt.Tx) error { return (&tx{b: b}).create(o.Identity) }); err != nil {
		return err
	}
	return durable.Dir(filepath.Dir(path))
}

// Close waits for the writes that were accepted and for the reads under way, and gives up the lock. It may be
// called twice.
func (s *Store) Close() error {
	kept := s.proofs.close()
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.queue)
	}
	s.mu.Unlock()
	<-s.idle
	s.texts.close()
	if err := errors.Join(kept, s.closeFile()); err != nil {
		return fmt.Errorf("closing the store: %w", err)
	}
	return nil
}

// view runs read on a snapshot. What read keeps it must copy: the file's pages are gone afterwards.
func (s *Store) view(ctx context.Context, read func(*tx) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.broken(); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.catch(&err)
	// Taken before the snapshot, which therefore has all that is in them: see tx.pattern and tx.unblocked.
	t := &tx{patterns: s.patterns.Load(), newest: s.newest.Load(), sound: &s.sound}
	err = s.db.View(func(b *bolt.Tx) error {
		t.b = b
		return read(t)
	})
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}
