package crl

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"time"
)

// maxSources bounds the distribution points of all issuers together: those of ten million certificates in shards of
// 10,000. The CA alone can name one, in a certificate that it signed. What the bound is for is the requests of Run.
const maxSources = 1024

// idle is how long no certificate was checked against a list that has run out, before it is asked for no more.
const idle = time.Hour

type sourceKey struct {
	issuer int // index in issuers
	url    string
}

func (k *Checker) known() []*source {
	k.mu.RLock()
	defer k.mu.RUnlock()
	all := make([]*source, 0, len(k.sources))
	for _, s := range k.sources {
		all = append(all, s)
	}
	return all
}

// use notes a check. It writes once in a second, so that checks on all processors need not wait for each other.
func (s *source) use(now time.Time) {
	if second := now.Unix(); s.used.Load() != second {
		s.used.Store(second)
	}
}

// source returns the one of that key, and makes it if it is new.
func (k *Checker) source(key sourceKey, from string) (*source, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.sources[key]; s != nil {
		return s, nil
	}
	if len(k.sources) >= maxSources && !k.evict() {
		return nil, fmt.Errorf("%w: more than %d distribution points", ErrUnavailable, maxSources)
	}
	s := newSource(k.issuers[key.issuer], key.url, cmp.Or(from, key.url))
	s.use(k.now())
	k.sources[key] = s
	return s, nil
}

// evict makes room in place of the source that was not used for longest, so that a CA that has opened many shards in
// the life of this process is still checked. Should a certificate name it again, it is fetched again, and taken from Dir
// before. The caller
// holds k.mu.
func (k *Checker) evict() bool {
	var oldest *source
	var at sourceKey
	for key, s := range k.sources {
		if !s.pinned && (oldest == nil || s.used.Load() < oldest.used.Load()) {
			oldest, at = s, key
		}
	}
	if oldest != nil {
		k.drop(at, oldest)
	}
	return oldest != nil
}

// forget drops the sources whose list has run out, without another in its place, and that no certificate was checked
// against for a while: shards end like that. Until then a list is kept, since the CA may only be away.
func (k *Checker) forget(now time.Time) {
	gone := map[sourceKey]*source{}
	k.mu.RLock()
	for key, s := range k.sources {
		list := s.list.Load()
		if !s.pinned && !k.allowStale && (list == nil || list.Stale(now)) && now.Unix()-s.used.Load() > int64(idle/time.Second) {
			gone[key] = s
		}
	}
	k.mu.RUnlock()
	if len(gone) == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, s := range gone {
		k.drop(key, s)
		if k.dir != "" {
			os.Remove(k.file(s, fullList)) // it has run out: nobody could be led back to it
			os.Remove(k.file(s, deltaList))
		}
	}
}

// drop forgets a source. The caller holds k.mu.
func (k *Checker) drop(key sourceKey, s *source) {
	delete(k.sources, key)
	maps.DeleteFunc(k.resolved, func(_ string, of *source) bool { return of == s })
}
