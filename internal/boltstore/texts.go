package boltstore

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/durable"
)

// texts keeps the DER of each shard's newest CRL in a file of its own. One goroutine writes them, the newest of each
// shard only, once no newer one has come for a while, and between two it rests for a few times as long as the last one
// took, so that a storm of revocations does not become a storm of files, behind which its commits would wait. Until a
// text is in its file it is in memory.
//
// A file that cannot be written, or is lost, costs no more than signing a new list after a restart.
type texts struct {
	dir  string
	wake chan struct{} // has room for one
	stop chan struct{}
	done chan struct{} // closed when the goroutine has ended

	stopped sync.Once

	mu     sync.Mutex // guards all below
	memory []*text
	newest map[crl.Shard]uint64 // number of the newest list that was committed since the opening
	failed error                // why the newest attempt to write a file failed; nil if it did not
}

// text is a list in memory.
type text struct {
	crl.Signed
	mark      fingerprint
	committed bool // and so to be written
}

func newTexts(dir string) *texts {
	t := &texts{
		dir: dir, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		newest: map[crl.Shard]uint64{},
	}
	go t.write()
	return t
}

// offer keeps a list that is about to be committed, so that whoever sees its number finds its text.
func (t *texts) offer(c crl.Signed) *text {
	x := &text{Signed: c, mark: fingerprintOf(c.DER)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.memory = append(t.memory, x)
	return x
}

// settle says what became of a list that was offered. One that was committed supersedes those before it.
func (t *texts) settle(x *text, committed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x.committed = committed
	if committed {
		t.newest[x.Shard] = max(t.newest[x.Shard], x.Number)
	}
	t.memory = slices.DeleteFunc(t.memory, func(y *text) bool {
		return y == x && !committed || y.committed && y.Number < t.newest[y.Shard]
	})
	t.rouse()
}

func (t *texts) rouse() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// get returns the text with a fingerprint, or nil.
func (t *texts) get(shard crl.Shard, mark fingerprint) crl.DER {
	if x := t.find(func(x *text) bool { return x.Shard == shard && x.mark == mark }); x != nil {
		return x.DER
	}
	der, err := readText(t.path(shard))
	if err != nil || fingerprintOf(der) != mark {
		return nil
	}
	return der
}

func (t *texts) find(is func(*text) bool) *text {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.IndexFunc(t.memory, is); i >= 0 {
		return t.memory[i]
	}
	return nil
}

const (
	restFactor  = 4 // rest after a file for so many times as long as it took
	longestRest = 5 * time.Second

	calm        = time.Second // without a new list, before files are written
	longestWait = time.Minute // for that
)

// write is the goroutine.
func (t *texts) write() {
	defer close(t.done)
	for {
		select {
		case <-t.wake:
		case <-t.stop:
			_ = t.flush() // it is remembered, and the file is not needed
			return
		}
		t.awaitCalm()
		began := time.Now()
		rest := longestRest
		if t.flush() == nil {
			rest = min(restFactor*time.Since(began), rest)
		}
		select {
		case <-time.After(rest):
		case <-t.stop:
		}
	}
}

func (t *texts) awaitCalm() {
	latest := time.After(longestWait)
	for {
		select {
		case <-t.wake: // another list
		case <-time.After(calm):
			return
		case <-latest:
			return
		case <-t.stop:
			return
		}
	}
}

// flush writes what is to be written by now. What failed stays in memory, and is tried again.
func (t *texts) flush() error {
	t.mu.Lock()
	now := slices.Clone(t.memory)
	t.mu.Unlock()
	var errs []error
	for _, x := range now {
		if t.find(func(y *text) bool { return y == x && y.committed }) == nil {
			continue // not committed yet, or superseded since
		}
		if err := writeText(t.path(x.Shard), x.DER, t.stop); err != nil {
			errs = append(errs, fmt.Errorf("keeping the CRL of issuer %s in a file: %w", x.Shard.Issuer, err))
			continue
		}
		t.mu.Lock()
		t.memory = slices.DeleteFunc(t.memory, func(y *text) bool { return y == x })
		t.mu.Unlock()
	}
	err := errors.Join(errs...)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = err
	if err != nil {
		t.rouse()
	}
	return err
}

// drop forgets a shard's list, and takes its file away. A file that stays is taken away at the next opening.
func (t *texts) drop(s crl.Shard) {
	t.mu.Lock()
	delete(t.newest, s)
	t.memory = slices.DeleteFunc(t.memory, func(y *text) bool { return y.Shard == s })
	t.mu.Unlock()
	_ = os.Remove(t.path(s))
}

// sweep takes away the files of lists that the store does not have, and of those that were not finished.
func (t *texts) sweep(have []crl.Shard) {
	keep := map[string]bool{}
	for _, s := range have {
		keep[t.path(s)] = true
	}
	found, _ := os.ReadDir(t.dir) // nothing, if there is no such directory
	for _, f := range found {
		path := filepath.Join(t.dir, f.Name())
		if text := strings.TrimSuffix(path, ".new"); strings.HasSuffix(text, ".crl") && (text != path || !keep[path]) {
			_ = os.Remove(path)
		}
	}
}

func (t *texts) err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// close writes what is left.
func (t *texts) close() {
	t.stopped.Do(func() { close(t.stop) })
	<-t.done
}

// path names a shard's file, after the issuer's id if that is fit for a name on every file system.
func (t *texts) path(s crl.Shard) string {
	name := s.Issuer
	if len(name) > 64 || strings.Trim(name, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
		sum := sha256.Sum256([]byte(name))
		name = hex.EncodeToString(sum[:])
	}
	if s.Number > 0 {
		name += "-" + strconv.FormatUint(uint64(s.Number), 10)
	}
	return filepath.Join(t.dir, name+".crl")
}

// A text's file is the text, and after it a checksum, against damage.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// paced writes a slice at a time, has it on the disk before the next, and rests in between: a commit of the store that
// comes behind tens of megabytes would wait for all of them. There is no rest once stop is closed.
type paced struct {
	file *os.File
	stop <-chan struct{}
}

const (
	sliceSize = 1 << 20
	sliceRest = 10 * time.Millisecond
)

func (p paced) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	if err != nil || n < sliceSize {
		return n, err
	}
	if err := p.file.Sync(); err != nil {
		return 0, err
	}
	select {
	case <-time.After(sliceRest):
	case <-p.stop:
	}
	return n, nil
}

func writeText(path string, der crl.DER, stop <-chan struct{}) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w, sum := bufio.NewWriterSize(paced{f, stop}, sliceSize), uint32(0)
	for _, part := range der {
		sum = crc32.Update(sum, castagnoli, part)
		_, _ = w.Write(part) // Flush tells
	}
	_, _ = w.Write(binary.BigEndian.AppendUint32(nil, sum))
	if err = w.Flush(); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return durable.Dir(dir)
}

func readText(path string) (crl.DER, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := len(b) - 4
	if n < 0 || binary.BigEndian.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli) {
		return nil, fmt.Errorf("CRL file %s: %w", path, errDamaged)
	}
	return crl.DER{b[:n:n]}, nil
}
