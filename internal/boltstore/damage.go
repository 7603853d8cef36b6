package boltstore

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// bbolt has no checksums of its pages, and panics on one that is not what it should be; what a file lacks that was cut
// while it was open is a fault. Who met that in one place cannot trust the others: a search through a damaged page may
// pass by a revocation. So the store is broken from then on, as a whole: nothing is read or written any more, and a mark
// beside the file keeps the next process from serving it. A CA that is away can be restored; certificates that
// were revoked and are accepted again cannot be called back.

// damageMark is what the mark's name ends with.
const damageMark = ".damaged"

// broken returns why nothing of the store counts any more, nil if all is well.
func (s *Store) broken() error {
	if err := s.damage.Load(); err != nil {
		return *err
	}
	return nil
}

// catch turns the panic of a damaged file into an error; any other goes on. It is to be deferred, with faults as panics.
func (s *Store) catch(err *error) {
	v := recover()
	if v == nil {
		return
	}
	if !isDamage(v) {
		panic(v)
	}
	*err = s.breaks(v)
}

// breaks notes what was met.
func (s *Store) breaks(met any) error {
	err := fmt.Errorf("%w: it is damaged: %v; nothing of it is read or written any more: restore it from a backup", ErrNotStore, met)
	if !s.damage.CompareAndSwap(nil, &err) {
		return s.broken()
	}
	// If the disk does not take the mark either, this process still knows.
	_ = os.WriteFile(s.path+damageMark, fmt.Appendf(nil, "%s %v\n", time.Now().UTC().Format(time.RFC3339), met), 0o600)
	return err
}

// isDamage tells a panic of bbolt, or a fault in what is mapped of the file, from all others. It is to be called while
// it is recovered from, with the function that does it between.
func isDamage(v any) bool {
	if fault, ok := v.(interface{ Addr() uintptr }); ok && fault.Addr() != 0 {
		return true
	}
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers)])
	panicked := false
	for {
		f, more := frames.Next()
		switch inRuntime := strings.HasPrefix(f.Function, "runtime."); {
		case inRuntime:
			panicked = true
		case panicked: // the first function below the panic
			return strings.HasPrefix(f.Function, "go.etcd.io/bbolt")
		}
		if !more {
			return false
		}
	}
}

// checkMark refuses a store that an earlier process found to be damaged.
func checkMark(path string) error {
	why, err := os.ReadFile(path + damageMark) //nolint:gosec // G304: beside the operator's path
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: it is damaged, as %s tells: %s; restore it from a backup, or, if it was not the file's fault, remove that one",
		ErrNotStore, path+damageMark, strings.TrimSpace(string(why)))
}

// closeFile closes the file. If it is broken, bbolt may have kept its locks, and waiting for them would take for ever.
func (s *Store) closeFile() error {
	broken := s.broken()
	if broken == nil {
		return s.db.Close()
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = s.db.Close()
	}()
	select {
	case <-closed:
	case <-time.After(time.Second):
	}
	return broken
}
