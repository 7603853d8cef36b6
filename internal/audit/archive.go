package audit

import (
	"context"
	"errors"
)

// ErrNoEntry: the log has no entry of that number and hash.
var ErrNoEntry = errors.New("the log has no such entry")

// Archive is the part of a store that lets go of entries which were written elsewhere.
type Archive interface {
	// AuditBase returns the head that the oldest kept entry follows: zero until something was dropped.
	AuditBase(ctx context.Context) (Head, error)
	// DropAudit drops the oldest entries, at most limit of them and none after upTo, and returns how many. What it
	// dropped and the new base are one transaction. An upTo that is neither the base nor an entry of this log, hash
	// included, is ErrNoEntry, and nothing is dropped. The newest entry always stays.
	DropAudit(ctx context.Context, upTo Head, limit int) (int, error)
}
