package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pkid/pkid/internal/audit"
)

// since is what an audit log that was kept elsewhere tells of the time after a backup.
type since struct {
	head    audit.Head
	entries []audit.Entry
}

// add takes the next entry. One that a file before has too must be the same.
func (s *since) add(e audit.Entry) error {
	if n := uint64(len(s.entries)); e.Seq <= s.head.Seq && n > 0 && e.Seq > s.head.Seq-n {
		if e.Head() != s.entries[e.Seq-(s.head.Seq-n)-1].Head() {
			return fmt.Errorf("entry %d is another one than in the file before: they are not of one log", e.Seq)
		}
		return nil
	}
	head, err := audit.Verify(s.head, e)
	if err != nil {
		return err
	}
	s.head, s.entries = head, append(s.entries, e)
	return nil
}

// readSince reads logs that were kept elsewhere, and checks that they are the store's own log up to its backup and go on
// from there, each entry on the one before, so that none was left out or made up in between. A store that was recovered
// before, in part perhaps, or with less evidence, has another log since: then that is where they part.
func readSince(ctx context.Context, s store, logs []io.Reader) (found since, err error) {
	own := ownLog{store: s}
	if found.head, err = own.end(ctx); err != nil {
		return found, err
	}
	last := found.head.Seq // that is in the backup
	for n, log := range logs {
		for e, err := range audit.ReadLines(log) {
			switch {
			case errors.Is(err, audit.ErrCut):
				continue // the crash came while it was written; what it told, the next file has, or nobody
			case err != nil:
			case e.Seq > last:
				err = found.add(e)
			default:
				var fork *audit.Head
				if fork, err = own.compare(ctx, e); fork != nil {
					found.head, last = *fork, fork.Seq
					err = found.add(e)
				}
			}
			if err != nil {
				return found, fmt.Errorf("audit log %d of %d: %w; what follows entry %d, the last one in the backup, is needed without a gap", n+1, len(logs), err, last)
			}
		}
	}
	return found, nil
}

// ownLog reads a store's own log, page by page.
type ownLog struct {
	store store
	base  audit.Head
	page  []audit.Entry
}

// end returns the head of the log.
func (o *ownLog) end(ctx context.Context) (head audit.Head, err error) {
	if o.base, err = o.store.AuditBase(ctx); err != nil {
		return head, err
	}
	return o.store.AuditHead(ctx)
}

// compare holds an entry against the store's own of that number, if that was not archived. If the own one is that of a
// recovery, it returns where that began.
func (o *ownLog) compare(ctx context.Context, e audit.Entry) (fork *audit.Head, err error) {
	if e.Seq <= o.base.Seq {
		return nil, nil
	}
	if len(o.page) == 0 || e.Seq < o.page[0].Seq || e.Seq > o.page[len(o.page)-1].Seq {
		if o.page, err = o.store.Audit(ctx, e.Seq-1, followPage); err != nil {
			return nil, err
		}
		if len(o.page) == 0 || o.page[0].Seq != e.Seq {
			return nil, fmt.Errorf("the store's own audit log has no entry %d", e.Seq)
		}
	}
	switch own := o.page[e.Seq-o.page[0].Seq]; {
	case own.Head() == e.Head():
		return nil, nil
	case own.Action == audit.Restore:
		return &audit.Head{Seq: own.Seq - 1, Hash: own.Prev}, nil
	}
	return nil, fmt.Errorf("entry %d is another one in the store: this is the log of another CA, or of another time", e.Seq)
}
