// Package audit describes who did what, as a chain of hashes: each entry covers the one before it, so that an
// entry that was removed, edited or moved is found by reading the log from its start.
//
// A store seals an Event with Seal inside the transaction of the act that it describes, and keeps the Entry
// under its sequence number. Verify reads entries back and names the first one that does not follow.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Actions, as they stand in the log.
const (
	Invite         = "invitation.create"
	Issue          = "certificate.issue"
	Renew          = "certificate.renew"
	Revoke         = "certificate.revoke"
	Hold           = "certificate.hold"
	Release        = "certificate.release"
	ClientAdd      = "client.add"
	ClientChange   = "client.change"
	ClientDisable  = "client.disable"
	ClientEnable   = "client.enable"
	TokenRevoke    = "token.revoke"
	Initialise     = "ca.init"
	OperatorCreate = "operator.create"
	Backup         = "store.backup"
	Restore        = "store.restore"
	Adopt          = "certificate.adopt"
	Import         = "certificate.import" // that another CA program issued
	ImportCA       = "ca.import"          // what was taken over in all
	StoreMove      = "store.move"         // from another engine; the first entry that only the new one has
	KeyAdd         = "key.add"            // into the ring
	KeyChange      = "key.change"         // its certificate or its dates
	KeyDrop        = "key.drop"
	Prune          = "certificate.prune" // expired ones, past their retention
	Archived       = "audit.archive"     // entries that were written elsewhere, dropped here
	CheckpointKey  = "audit.key"         // that signs checkpoints was made
)

// Actor is who asked: an operator's or client's id, and where the request came from.
type Actor struct {
	Name      string // client id of the caller; "pkid" for the daemon's own acts
	Address   string // remote address of the request, without port; empty for local acts
	RequestID string // the id that the answer carried and the log line names
}

// Event is one act before it is sealed. Detail holds what else an auditor asks for; never a secret.
type Event struct {
	Time    time.Time
	Actor   Actor
	Action  string // one of the constants above
	Subject string // what it was done to: a serial in hex, a client id, an invitation id
	Detail  map[string]string
}

// Hash is the SHA-256 that chains entries. The zero Hash stands before the first entry.
type Hash [sha256.Size]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes the hash in hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads the hash from hex.
func (h *Hash) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != len(h) {
		return errors.New("audit: want a hash of 64 hex digits")
	}
	copy(h[:], raw)
	return nil
}

// Head is the end of a chain: the last sequence number and its hash. The zero Head is an empty log.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash Hash   `json:"hash"`
}

// Entry is a sealed event. Its JSON form is what is hashed, so it must stay as it is. A store gives back exactly
// what was sealed, in whatever form it keeps it.
type Entry struct {
	Seq       uint64            `json:"seq"` // from 1, without gaps
	Time      time.Time         `json:"time"`
	Actor     string            `json:"actor"`
	Address   string            `json:"address,omitempty"`
	RequestID string            `json:"request_id,omitempty"`
	Action    string            `json:"action"`
	Subject   string            `json:"subject"`
	Detail    map[string]string `json:"detail,omitempty"`
	Prev      Hash              `json:"prev"`
	Hash      Hash              `json:"hash"`
}

// Head returns the head of a chain that ends with e.
func (e *Entry) Head() Head { return Head{Seq: e.Seq, Hash: e.Hash} }

// Seal turns ev into the entry that follows head. Octets that are not UTF-8, which a requester may have sent,
// become U+FFFD: JSON would replace them when it writes, and the entry read back would not have its own hash.
func Seal(head Head, ev Event) Entry {
	e := Entry{
		Seq:       head.Seq + 1,
		Time:      ev.Time.UTC().Truncate(time.Millisecond),
		Actor:     valid(ev.Actor.Name),
		Address:   valid(ev.Actor.Address),
		RequestID: valid(ev.Actor.RequestID),
		Action:    valid(ev.Action),
		Subject:   valid(ev.Subject),
		Prev:      head.Hash,
	}
	if len(ev.Detail) > 0 {
		e.Detail = make(map[string]string, len(ev.Detail))
		for k, v := range ev.Detail {
			e.Detail[valid(k)] = valid(v)
		}
	}
	var err error
	if e.Hash, err = e.digest(); err != nil {
		panic("audit: an event is always encodable: " + err.Error())
	}
	return e
}

func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

// digest hashes the entry's JSON with an empty Hash, struct members in order and map keys sorted, so that the
// octets are the same each time. The error is that of a time that JSON cannot tell, which no sealed entry has.
func (e Entry) digest() (Hash, error) {
	e.Hash = Hash{}
	var room [1024]byte
	b, err := e.appendJSON(room[:0])
	return sha256.Sum256(b), err
}

// BrokenError names the first entry that does not follow from the one before it.
type BrokenError struct {
	Seq uint64 // the entry that should have stood here
	Why string
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("audit log broken at entry %d: %s", e.Seq, e.Why)
}

// Verify checks that e follows head, and returns the new head. The error is a *BrokenError.
func Verify(head Head, e Entry) (Head, error) {
	want := head.Seq + 1
	digest, err := e.digest()
	switch {
	case e.Seq != want:
		return head, &BrokenError{Seq: want, Why: fmt.Sprintf("found entry %d in its place", e.Seq)}
	case e.Prev != head.Hash:
		return head, &BrokenError{Seq: want, Why: "it does not follow the entry before it"}
	case err != nil || digest != e.Hash:
		return head, &BrokenError{Seq: want, Why: "its content was changed"}
	}
	return e.Head(), nil
}

type actorKey struct{}

// WithActor attaches the actor of a request; what acts on its behalf reads it with From.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// From returns the actor of ctx, or "pkid" itself where no request is behind it.
func From(ctx context.Context) Actor {
	if a, ok := ctx.Value(actorKey{}).(Actor); ok {
		return a
	}
	return Actor{Name: "pkid"}
}
