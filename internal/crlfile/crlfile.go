// Package crlfile keeps a file of CRLs for servers that know CRLs as files only, and tells the server when the file has
// changed.
//
// Every list in the file was verified, and none is ever replaced by an older one, also across restarts. The file is
// replaced in one step: whoever reads it sees the old one or the new one. What cannot be had leaves it as it is.
package crlfile

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pkid/pkid/crl"
)

const (
	defaultInterval = 500 * time.Millisecond
	// learnEvery is how often the CA is asked which lists there are: certificates of a new one are refused until it is
	// in the file.
	learnEvery = 2 * time.Second
	learnTime  = 10 * time.Second
	// maxPoints bounds the lists in a file, as crl.Checker bounds those that it knows.
	maxPoints = 1024
)

// Point is a list that belongs into the file.
type Point struct {
	Name   string            // for people
	Signer *x509.Certificate // whoever signs the list; it is believed
	URL    string            // where the list is fetched
	Scopes []string          // as crl.ParseAndVerify's wantURL: the list must be the one for one of them
}

func (p *Point) same(other *Point) bool {
	return p.URL == other.URL && p.Signer.Equal(other.Signer) && slices.Equal(p.Scopes, other.Scopes)
}

// Config is what a Sync needs. File and Learn are required.
type Config struct {
	File string      // its directory must be writable
	DER  bool        // one list in DER, in place of any number in PEM
	Mode fs.FileMode // zero: that of the file which is there, and 0644 for a new one

	// Learn says which lists there are. It is asked every two seconds, never twice at once.
	Learn    func(context.Context) ([]Point, error)
	Interval time.Duration // between two questions for a newer list; 500 ms if zero
	MaxSize  int64         // of a list, in octets; 256 MiB if zero

	// Hook, if set, tells the server that the file has changed. It is run after each change, and again until it succeeds.
	Hook Hook
	// HookInterval is the least time from one start of the hook to the next, 500 ms if zero: what changes in between is told
	// together.
	HookInterval time.Duration

	HTTPClient *http.Client     // by default one that follows no redirects
	Now        func() time.Time // time.Now if nil
	Logger     *slog.Logger     // slog.Default() if nil
}

// Sync keeps one file.
type Sync struct {
	Config
	file target
	hook *runner
	news chan struct{} // holds one when there is something to write

	mu      sync.Mutex // guards what follows
	sources []*source

	warned    time.Time  // when it was last told that lists run out; Run's alone
	learning  sync.Mutex // held while the CA is asked which lists there are; guards unlearned
	unlearned repeated   // why that failed
}

// New checks c, and the file if there is one. It asks nobody yet.
func New(c Config) (*Sync, error) {
	if c.File == "" || c.Learn == nil {
		return nil, errors.New("crlfile: File and Learn are required")
	}
	c.Interval, c.HookInterval = cmp.Or(c.Interval, defaultInterval), cmp.Or(c.HookInterval, defaultHookInterval)
	c.MaxSize = cmp.Or(c.MaxSize, defaultMaxSize)
	if c.Interval < 0 || c.HookInterval < 0 || c.MaxSize < 0 || c.Mode&^fs.ModePerm != 0 {
		return nil, errors.New("crlfile: intervals and sizes must not be negative, and a mode has nine bits")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Logger, c.HTTPClient = cmp.Or(c.Logger, slog.Default()), fetchClient(c.HTTPClient)
	name, err := resolve(c.File)
	if err != nil {
		return nil, err
	}
	s := &Sync{Config: c, file: target{name: name, mode: c.Mode, der: c.DER}, news: make(chan struct{}, 1)}
	if err := s.file.check(); err != nil {
		return nil, err
	}
	if c.Hook != nil {
		s.hook = newRunner(c.Hook, c.HookInterval, name+".hook-due", c.Logger)
		if !s.file.exists() { // a server could only be told that there is none
			os.Remove(s.hook.note)
		}
	}
	return s, nil
}

// Once brings the file up to date and runs the hook if it changed, or if a hook before failed. It writes what can be had
// even if something cannot, which is an error; but the first file is written when all lists are there.
func (s *Sync) Once(ctx context.Context) error {
	if err := s.learn(ctx); err != nil {
		return err
	}
	s.readFile()
	fetched := make([]error, len(s.sources))
	var fetches sync.WaitGroup
	for i, src := range s.sources {
		fetches.Go(func() { fetched[i] = s.refresh(ctx, src) })
	}
	fetches.Wait()
	written := s.write()
	var told error
	if s.hook != nil {
		told = s.hook.once(ctx)
	}
	return errors.Join(errors.Join(fetched...), written, told, s.stale())
}

// Run keeps the file up to date until ctx ends, and returns nil then. While the CA is away, the file stays. The error is
// ErrNotOne.
func (s *Sync) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if s.hook != nil {
		parts.Go(func() { s.hook.run(ctx) })
	}
	if err := s.firstLearn(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	s.readFile()
	polling := map[*source]context.CancelFunc{}
	learned := time.Now()
	var failed repeated
	for ctx.Err() == nil {
		s.mu.Lock()
		sources := slices.Clone(s.sources)
		s.mu.Unlock()
		for src, cancel := range polling {
			if !slices.Contains(sources, src) {
				cancel()
				delete(polling, src)
			}
		}
		for _, src := range sources {
			if polling[src] == nil {
				own, cancel := context.WithCancel(ctx)
				polling[src] = cancel
				parts.Go(func() { s.poll(own, src) })
			}
		}
		if err := s.write(); failed.isNew(err) {
			s.Logger.Error("the CRL file could not be replaced", "file", s.file.name, "error", err)
		}
		s.warn()
		s.await(ctx)
		if time.Since(learned) >= learnEvery {
			s.lessons(ctx, &parts)
			learned = time.Now()
		}
	}
	return nil
}

// await waits for something to write, or until it is time to look after the file again.
func (s *Sync) await(ctx context.Context) {
	look := time.NewTimer(s.Interval)
	defer look.Stop()
	select {
	case <-s.news:
	case <-look.C:
	case <-ctx.Done():
	}
}

// repeated keeps an error from being told again and again.
type repeated struct{ last string }

// isNew reports whether there is an error, and another one than the last time.
func (r *repeated) isNew(err error) bool {
	text := ""
	if err != nil {
		text = err.Error()
	}
	was := r.last
	r.last = text
	return err != nil && text != was
}

// write brings the file in line with the lists at hand.
func (s *Sync) write() error {
	touched := s.file.changed() // by another hand, which may not have told the server
	if touched {
		s.readFile()
	}
	s.mu.Lock()
	lists := make([][]byte, 0, len(s.sources))
	var missing *source
	var why error
	entries := 0
	for _, src := range s.sources {
		if src.held == nil {
			missing, why = src, src.err
			continue
		}
		lists, entries = append(lists, src.held.der), entries+src.held.entries
	}
	s.mu.Unlock()
	if len(lists) == 0 || missing != nil && !s.file.usable {
		if why == nil {
			return nil // it was not asked for yet
		}
		return fmt.Errorf("the first file is written when every list is there, and one is missing: %s: %w", missing.Name, why)
	}
	content := s.file.encode(lists)
	holds := s.file.holds(content)
	if holds && !touched {
		return nil
	}
	if s.hook != nil {
		if err := s.hook.due(); err != nil { // a crash from here on leaves a note that the server has to be told
			return err
		}
	}
	if !holds {
		if err := s.file.replace(content); err != nil {
			return err
		}
		s.Logger.Info("the CRL file was replaced", "file", s.file.name, "lists", len(lists), "revoked", entries)
	}
	if s.hook != nil {
		s.hook.wake()
	}
	return nil
}

// readFile takes from the file which is there what is newer than the lists at hand.
func (s *Sync) readFile() {
	lists, err := s.file.read(s.MaxSize)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.Logger.Warn("the CRL file that is there is of no use, and is replaced", "file", s.file.name, "error", err)
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, der := range lists {
		known := slices.ContainsFunc(s.sources, func(src *source) bool {
			list, err := src.verify(der, s.Now())
			if err == nil && (src.held == nil || list.number > src.held.number) {
				src.held = list
			}
			return err == nil
		})
		if known {
			s.file.usable = true
		} else {
			s.Logger.Warn("the CRL file holds a list that is none of this CA's now; it is left out of the next", "file", s.file.name, "by", issuerOf(der))
		}
	}
}

// hold takes a list that was fetched, unless it is older than the one at hand.
func (s *Sync) hold(src *source, list *held) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch was := src.held; {
	case was == nil || list.number > was.number:
	case list.number < was.number:
		return fmt.Errorf("%w: number %d after %d", crl.ErrRollback, list.number, was.number)
	case bytes.Equal(list.der, was.der):
		return nil
	default:
		return fmt.Errorf("%w: two lists have the number %d", crl.ErrRollback, list.number)
	}
	src.held = list
	select {
	case s.news <- struct{}{}:
	default:
	}
	return nil
}
