package enroll

import (
	"context"
	"errors"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
)

// ErrInvitation: the token's invitation does not exist, its secret is wrong, or it has expired. Which one is
// told only where it helps an honest user: see its wrapped text.
var ErrInvitation = errors.New("invitation not valid")

// Store keeps invitations. Its methods may be called at once; what a writing method returned is durable, the
// audit event with it. Spending an invitation is ca.Store.Insert's part.
type Store interface {
	// PutInvitation keeps a new invitation.
	PutInvitation(ctx context.Context, inv *Invitation, ev audit.Event) error
	// Invitation returns an invitation, spent or not, or ErrInvitation.
	Invitation(ctx context.Context, id string) (*Invitation, error)
}

// Invitation is the right to one certificate. The secret itself is not kept.
type Invitation struct {
	ID         string // 32 hex digits, which sort by the time that it was made
	SecretHash [32]byte
	ClientID   string
	Profile    string
	Names      ca.Names
	Lifetime   time.Duration // of the certificate; zero: the profile's
	CreatedAt  time.Time     // milliseconds, UTC
	ExpiresAt  time.Time
	Spent      *Spent // filled in by the store from ca.Store.Insert's spend
}

// Spent says for which certificate an invitation was used, and by which request.
type Spent struct {
	Serial ca.Serial
	Use    [32]byte
}

// Clients is the registry of OAuth clients as far as enrolment concerns it.
type Clients interface {
	// Enrol makes sure that a client of that id exists, with these scopes and resources if any are given. A
	// client that exists keeps its way of authenticating.
	Enrol(ctx context.Context, clientID string, scopes, resources []string) error
	// CheckEnabled returns an error, which goes to the requester as it is, if the client was disabled. A
	// client that does not exist is enabled: operators and pkid's own servers have certificates and no client
	// record.
	CheckEnabled(ctx context.Context, clientID string) error
}
