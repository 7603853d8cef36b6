package audit

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Verifier checks a log from its start or from the head that its oldest kept entry follows, against itself and against
// checkpoints.
type Verifier struct {
	head    Head
	marks   []Checkpoint // after head, the first ones first
	matched int
}

// NewVerifier begins after base, which must not contradict a checkpoint of the entry that it names. Checkpoints of
// entries before that one cannot be checked. The error is a *BrokenError.
func NewVerifier(base Head, checkpoints []Checkpoint) (*Verifier, error) {
	v := &Verifier{head: base, marks: slices.Clone(checkpoints)}
	slices.SortStableFunc(v.marks, func(a, b Checkpoint) int { return cmp.Compare(a.Seq, b.Seq) })
	for len(v.marks) > 0 && v.marks[0].Seq < base.Seq {
		v.marks = v.marks[1:]
	}
	return v, v.compare()
}

// Head returns the last entry that was added.
func (v *Verifier) Head() Head { return v.head }

// Matched returns how many checkpoints named entries that were added, rightly.
func (v *Verifier) Matched() int { return v.matched }

// Add checks the next entry. The error is a *BrokenError, after which there is nothing to add.
func (v *Verifier) Add(e Entry) error {
	head, err := Verify(v.head, e)
	if err != nil {
		return err
	}
	v.head = head
	return v.compare()
}

// compare holds the head against the checkpoints that name its number.
func (v *Verifier) compare() error {
	for ; len(v.marks) > 0 && v.marks[0].Seq == v.head.Seq; v.marks = v.marks[1:] {
		if c := v.marks[0]; c.Hash != v.head.Hash {
			return &BrokenError{Seq: c.Seq, Why: fmt.Sprintf(
				"it is not the one that the checkpoint of %s names: it or one before it was replaced, and what follows was written anew", c.stamp())}
		}
		v.matched++
	}
	return nil
}

// End checks that the log reaches the last checkpoint. The error is a *BrokenError.
func (v *Verifier) End() error {
	if len(v.marks) == 0 {
		return nil
	}
	c := v.marks[len(v.marks)-1]
	return &BrokenError{Seq: v.head.Seq + 1, Why: fmt.Sprintf(
		"the log ends before it, and the checkpoint of %s names entry %d: it was cut short, or an older copy stands in its place", c.stamp(), c.Seq)}
}

func (c *Checkpoint) stamp() string { return c.Time.Format(time.RFC3339) }
