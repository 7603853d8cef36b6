package migrate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/pkid/pkid/internal/audit"
)

// Target takes everything in, in one transaction. When it has all, it calls check with what it now holds; a nil error
// of that commits. An error means that the target is as it was, but for one of the commit itself, after which it has
// all or nothing.
type Target func(ctx context.Context, data Data, check func(Data) error) error

// Kind is what moved of one kind of rows: the same on both sides.
type Kind struct {
	Name string
	Digest
}

// Move moves everything to a target, and returns what that was. The audit log must verify; it arrives entry by entry as
// it was, with the same hashes.
func Move(ctx context.Context, data Data, to Target) ([]Kind, error) {
	var sent ledger
	err := to(ctx, sent.watch(data), func(arrived Data) error {
		received, err := count(arrived)
		if err != nil {
			return fmt.Errorf("reading back: %w", err)
		}
		if err := verifyAudit(arrived); err != nil {
			return err
		}
		return compare(sent, received)
	})
	if err != nil {
		return nil, err
	}
	return sent, nil
}

// ledger has a line for each kind of rows, in the order of watch.
type ledger []Kind

// watch returns data whose rows are entered into the ledger as somebody walks them. What is walked again counts anew.
func (l *ledger) watch(data Data) Data {
	l.entry("meta").add(data.Meta)
	data.Certificates = watch(l.entry("certificates"), data.Certificates)
	data.Changes = watch(l.entry("changes"), data.Changes)
	data.CRLs = watch(l.entry("crls"), data.CRLs)
	data.Shards = watch(l.entry("shards"), data.Shards)
	data.Invitations = watch(l.entry("invitations"), data.Invitations)
	data.Clients = watch(l.entry("clients"), data.Clients)
	data.Tokens = watch(l.entry("revoked tokens"), data.Tokens)
	data.Uses = watch(l.entry("proofs used"), data.Uses)
	data.Audit = watch(l.entry("audit entries"), data.Audit)
	data.Keys = watch(l.entry("keys"), data.Keys)
	return data
}

// kinds is how many lines watch makes; room for them is made at once, since their places are kept.
const kinds = 11

func (l *ledger) entry(name string) *Digest {
	if *l == nil {
		*l = make(ledger, 0, kinds)
	}
	*l = append(*l, Kind{Name: name})
	return &(*l)[len(*l)-1].Digest
}

func watch[T any](d *Digest, rows iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		*d = Digest{}
		for row, err := range rows {
			if err == nil {
				d.add(row)
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

// count walks everything.
func count(data Data) (ledger, error) {
	var l ledger
	data = l.watch(data)
	err := errors.Join(
		walk(data.Certificates), walk(data.Changes), walk(data.CRLs), walk(data.Shards), walk(data.Invitations), walk(data.Clients),
		walk(data.Tokens), walk(data.Uses), walk(data.Audit), walk(data.Keys),
	)
	return l, err
}

func walk[T any](rows iter.Seq2[T, error]) error {
	for _, err := range rows {
		if err != nil {
			return err
		}
	}
	return nil
}

// verifyAudit reads the log from its base to its head.
func verifyAudit(data Data) error {
	head := data.Meta.AuditBase
	for e, err := range data.Audit {
		if err != nil {
			return err
		}
		if head, err = audit.Verify(head, e); err != nil {
			return err
		}
	}
	if head != data.Meta.AuditHead {
		return fmt.Errorf("audit log broken: it should end with entry %d and ends with %d", data.Meta.AuditHead.Seq, head.Seq)
	}
	return nil
}

// ErrDiffers: what arrived is not what was sent. Nothing was changed.
var ErrDiffers = errors.New("what arrived is not what was sent")

func compare(sent, received ledger) error {
	var differ []string
	for i, s := range sent {
		if r := received[i]; s != r {
			differ = append(differ, fmt.Sprintf("%s: %d sent, with digest %.16s, %d arrived, with %.16s", s.Name, s.Rows, s.Digest, r.Rows, r.Digest))
		}
	}
	if differ == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrDiffers, strings.Join(differ, "; "))
}
