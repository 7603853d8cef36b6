package feed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// mark tells one log from another that has an entry of the same number. It discloses nothing of the entry.
type mark [8]byte

func markOf(h audit.Hash) mark {
	sum := sha256.Sum256(append([]byte("pkid revocation stream\x00"), h[:]...))
	return mark(sum[:8])
}

// position is how far a listener is: the number of an entry, and its mark.
type position struct {
	seq  uint64
	mark *mark // nil: the listener does not say
}

func (p position) String() string {
	return strconv.FormatUint(p.seq, 10) + "." + hex.EncodeToString(p.mark[:])
}

// parsePosition reads an id of the stream, or a bare number.
func parsePosition(text string) (p position, ok bool) {
	number, rest, marked := strings.Cut(text, ".")
	var err error
	if p.seq, err = strconv.ParseUint(number, 10, 63); err != nil {
		return p, false
	}
	if !marked {
		return p, true
	}
	raw, err := hex.DecodeString(rest)
	if err != nil || len(raw) != len(mark{}) {
		return p, false
	}
	m := mark(raw)
	p.mark = &m
	return p, true
}

// event is an entry that tells something.
type event struct {
	seq     uint64
	text    []byte    // in the stream's notation
	revoked time.Time // of a certificate's: when; zero of others
}

// withoutID returns the event's text without its id, which is its second line.
func (e *event) withoutID() []byte {
	name, rest, _ := bytes.Cut(e.text, []byte("\n"))
	_, data, _ := bytes.Cut(rest, []byte("\n"))
	return slices.Concat(name, []byte("\n"), data)
}

// recent is the end of the log: the marks of all entries after first, and what some of them tell.
type recent struct {
	first  uint64 // whose mark is marks[0]
	marks  []mark // one more than there are entries
	events []event
}

// end is the number of the newest entry.
func (r *recent) end() uint64 {
	if len(r.marks) == 0 {
		return 0
	}
	return r.first + uint64(len(r.marks)) - 1
}

// at returns the position after an entry that is remembered.
func (r *recent) at(seq uint64) position { return position{seq, new(r.marks[seq-r.first])} }

// has reports whether a listener can go on from p.
func (r *recent) has(p position) bool {
	return p.seq >= r.first && p.seq <= r.end() && (p.mark == nil || *p.mark == r.marks[p.seq-r.first])
}

// after returns the events after an entry.
func (r *recent) after(seq uint64) []event {
	i := sort.Search(len(r.events), func(i int) bool { return r.events[i].seq > seq })
	return r.events[i:]
}

// unlisted returns the certificates' events since an instant.
func (r *recent) unlisted(since time.Time) (found []event) {
	for _, e := range r.events {
		if e.revoked.After(since) {
			found = append(found, e)
		}
	}
	return found
}

// add appends entries, and forgets the oldest where there are too many.
func (r *recent) add(marks []mark, told []event) {
	r.marks, r.events = append(r.marks, marks...), append(r.events, told...)
	first := r.first
	if len(r.marks) > 2*window {
		first = r.end() - window
	}
	if len(r.events) > 2*events {
		first = max(first, r.events[len(r.events)-events-1].seq)
	}
	if first > r.first {
		r.events = slices.Clone(r.after(first))
		r.marks = slices.Clone(r.marks[first-r.first:])
		r.first = first
	}
}
