package ca

import (
	"strconv"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// Retention says how long a store keeps what is over. Zero keeps for ever.
type Retention struct {
	Certificates time.Duration // after a certificate's NotAfter: the record and its revocation
	Invitations  time.Duration // after an invitation expired, spent or not
}

// KeepChanges is how long a store keeps the log of changes that CRLs are kept up to date from. Publishers follow within
// a minute; who comes later reads everything again.
const KeepChanges = 24 * time.Hour

// Pruned counts what a store dropped.
type Pruned struct {
	Certificates int // their records, index entries and revocations
	Invitations  int
	Replays      int // of client assertions
	Tokens       int // ids of revoked ones
	Changes      int // of the log of changes
	Shards       int // counts and CRLs of shards whose last certificate is gone
}

// Total is how many things these are.
func (p Pruned) Total() int {
	return p.Certificates + p.Invitations + p.Replays + p.Tokens + p.Changes + p.Shards
}

// Add returns the sum of both.
func (p Pruned) Add(q Pruned) Pruned {
	return Pruned{
		Certificates: p.Certificates + q.Certificates, Invitations: p.Invitations + q.Invitations, Replays: p.Replays + q.Replays,
		Tokens: p.Tokens + q.Tokens, Changes: p.Changes + q.Changes, Shards: p.Shards + q.Shards,
	}
}

// PruneEvent is the audit event of dropping certificates, of which so many were revoked, that all expired before an
// instant. A store seals it in the transaction that drops them.
func PruneEvent(actor audit.Actor, now, expiredBefore time.Time, certificates, revoked int) audit.Event {
	return audit.Event{
		Time: now, Actor: actor, Action: audit.Prune, Subject: "certificates",
		Detail: map[string]string{
			"expired_before": expiredBefore.UTC().Format(time.RFC3339),
			"certificates":   strconv.Itoa(certificates), "revoked": strconv.Itoa(revoked),
		},
	}
}
