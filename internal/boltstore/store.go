// Package boltstore keeps everything that pkid remembers in one bbolt file: certificates and revocations, CRLs,
// invitations, clients, what may be used once, and the audit log.
//
// *Store implements ca.Store, crl.Store, crl.Revocations, enroll.Store, authserver.ClientStore,
// authserver.RevokedTokens and tokenbind.Replay. All writes pass through one goroutine, which puts everything
// that waits into one transaction: a hundred callers at once share one fsync, and a single one does not wait
// for company. Reads run beside it, each on a snapshot.
//
// One process has the file open at a time.
package boltstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
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
	db  *bolt.DB
	now func() time.Time

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
} = (*Store)(nil)

// Open opens the store at path, or creates it with mode 0600 if o says so; its directory must exist. The errors
// are ErrLocked, ErrNotStore, ErrIdentity and ErrNewerSchema, beside those of the file system.
func Open(path string, o Options) (*Store, error) {
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	db, err := open(path, o)
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	s := &Store{db: db, now: o.Now, queue: make(chan *request, maxBatch), idle: make(chan struct{})}
	go s.write()
	return s, nil
}

// open opens the file and checks it. bbolt panics on a page that is not what it should be, and touching a page
// that a truncated file lacks is a fault; both are told as a damaged file here. bbolt, interrupted like that,
// keeps the file locked until the process ends.
func open(path string, o Options) (db *bolt.DB, err error) {
	if !o.Create {
		if err := holdsSomething(path); err != nil {
			return nil, err
		}
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: it is damaged: %v; restore it from a backup", ErrNotStore, r)
		}
		if err != nil && db != nil {
			err = errors.Join(err, db.Close())
			db = nil
		}
	}()
	db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: o.Timeout, PageSize: pageSize, FreelistType: bolt.FreelistMapType})
	switch {
	case err == nil:
		return db, prepare(db, path, o)
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%w: another pkid has it open; stop that one first", ErrLocked)
	case isSystem(err):
		return nil, err
	default:
		return nil, fmt.Errorf("%w: its header is not that of a store: %w", ErrNotStore, err)
	}
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
	fresh := false
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
		return errors.Join(t.check(), t.checkIdentity(o.Identity))
	})
	if err != nil || !fresh {
		return err
	}
	if err := db.Update(func(b *bolt.Tx) error { return (&tx{b: b}).create(o.Identity) }); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a new file's name durable. Windows has no such call, and needs none.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir) //nolint:gosec // G304: the operator's path
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close waits for the writes that were accepted and for the reads under way, and gives up the lock. It may be
// called twice.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.queue)
	}
	s.mu.Unlock()
	<-s.idle
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing the store: %w", err)
	}
	return nil
}

// view runs read on a snapshot. What read keeps it must copy: the file's pages are gone afterwards.
func (s *Store) view(ctx context.Context, read func(*tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.db.View(func(b *bolt.Tx) error { return read(&tx{b: b}) })
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}
